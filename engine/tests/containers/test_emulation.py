"""An emulator in the kernel's binfmt_misc is accepted only if it is enabled, is for the architecture, and can be used
in a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from orlop_engine.containers import emulation
from orlop_engine.images import platforms
from orlop_engine.images.platforms import Platform
from orlop_sdk import InvalidParameter

AARCH64 = """\
enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""
S390X = AARCH64.replace("7f454c460201010000000000000000000200b700", "7f454c4602020100000000000000000000020016").replace(
    "fffffffffffffffffeffffff", "fffffffffffffffffffeffff"
)


def write(directory: Path, status: str = "enabled", **handlers: str) -> str:
    (directory / "register").write_text("")
    (directory / "status").write_text(f"{status}\n")
    for name, text in handlers.items():
        (directory / name).write_text(text)
    return str(directory)


def complaint(text: str, directory: str) -> str:
    with pytest.raises(InvalidParameter) as caught:
        emulation.check(text, directory)
    return str(caught.value)


def test_binfmt_handler_is_found(tmp_path: Path) -> None:
    directory = write(tmp_path, **{"qemu-aarch64": AARCH64, "qemu-s390x": S390X, "jar": "enabled\nextension .jar\n"})
    emulation.check("linux/arm64", directory)
    emulation.check("linux/s390x", directory)
    assert [str(each) for each in emulation.emulated(directory)] == ["linux/arm64", "linux/s390x"]
    assert emulation.emulated(str(tmp_path / "none")) == []
    said = complaint("linux/riscv64", directory)
    assert said == (
        f"cannot run programs of linux/riscv64 on this host ({platforms.default()}): no emulator for this platform is "
        "registered (binfmt_misc). Install qemu-user-static and binfmt-support, and start the container again"
    )


def test_error_explains_why_a_binfmt_handler_cannot_be_used(tmp_path: Path) -> None:
    write(tmp_path, **{"qemu-aarch64": AARCH64.replace("enabled", "disabled"), "broken": "enabled\nmagic xyz\n"})
    assert "no emulator for this platform" in complaint("linux/arm64", str(tmp_path))
    write(tmp_path, **{"qemu-aarch64": AARCH64.replace("POCF", "OC")})
    assert emulation.emulated(str(tmp_path)) == [], "not visible in containers"
    assert "the emulator qemu-aarch64 is not visible in containers" in complaint("linux/arm64", str(tmp_path))
    write(tmp_path, "disabled", **{"qemu-aarch64": AARCH64})
    assert "no emulator for this platform" in complaint("linux/arm64", str(tmp_path))
    assert "no emulator for this platform" in complaint("linux/arm64", str(tmp_path / "none")), "binfmt_misc is not mounted"


def test_architecture_without_a_known_elf_machine_number_is_not_refused(tmp_path: Path) -> None:
    emulation.check("linux/sparc128", str(tmp_path))


@pytest.mark.parametrize(
    ("here", "there", "foreign"),
    [
        ("amd64", "386", False),
        ("amd64", "amd64", False),
        ("amd64", "arm64", True),
        ("arm64", "arm", False),
        ("arm64", "amd64", True),
        ("riscv64", "riscv64", False),
        ("riscv64", "", False),
    ],
)
def test_foreign_architectures_are_recognized(monkeypatch: pytest.MonkeyPatch, here: str, there: str, foreign: bool) -> None:
    monkeypatch.setattr(platforms, "default", lambda: Platform("linux", here))
    assert emulation.is_foreign(Platform("linux", there)) is foreign
