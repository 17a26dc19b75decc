"""Checks whether the kernel has emulators for programs of other architectures (Linux: admin-guide/binfmt-misc.rst).

Without an emulator, a program of another architecture ends with "exec format error". So a container that was explicitly
created for another platform (`--platform`) is not started, and the error names the package to install.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from orlop_engine.images import platforms
from orlop_engine.images.platforms import Platform
from orlop_sdk import InvalidParameter

__all__ = ["check", "emulated", "is_foreign"]

_DIRECTORY = "/proc/sys/fs/binfmt_misc"
_NATIVE = {"amd64": ("amd64", "386"), "arm64": ("arm64", "arm")}
_MACHINES = {  # ELF class, byte order and e_machine (elf.h)
    "386": (1, 1, 3),
    "amd64": (2, 1, 62),
    "arm": (1, 1, 40),
    "arm64": (2, 1, 183),
    "loong64": (2, 1, 258),
    "mips64le": (2, 1, 8),
    "ppc64le": (2, 1, 21),
    "riscv64": (2, 1, 243),
    "s390x": (2, 2, 22),
}


@dataclass(frozen=True, slots=True)
class _Handler:
    name: str
    offset: int
    magic: bytes
    mask: bytes
    flags: str

    def takes(self, header: bytes) -> bool:
        part = header[self.offset : self.offset + len(self.magic)]
        mask = self.mask or b"\xff" * len(self.magic)
        return len(part) == len(self.magic) and all((a ^ b) & m == 0 for a, b, m in zip(part, self.magic, mask, strict=True))


def is_foreign(platform: Platform) -> bool:
    """Whether programs of this platform need an emulator on this host."""
    here = platforms.default().architecture
    return bool(platform.architecture) and platform.architecture not in _NATIVE.get(here, (here,))


def _header(architecture: str) -> bytes | None:
    """The first bytes of an ELF program for this architecture; None if the architecture is unknown."""
    if architecture not in _MACHINES:
        return None
    size, order, machine = _MACHINES[architecture]
    word = "little" if order == 1 else "big"
    ident = b"\x7fELF" + bytes((size, order, 1)) + bytes(9)
    return ident + (2).to_bytes(2, word) + machine.to_bytes(2, word)  # type: ignore[arg-type]  # one of two words


def _read(path: str) -> _Handler | None:
    """The handler in this file; None if the handler is disabled, or has no magic number."""
    with open(path, encoding="ascii", errors="replace") as file:
        lines = file.read(4096).split("\n")
    fields = dict(line.partition(" ")[::2] for line in lines)
    if "enabled" not in fields or "magic" not in fields:
        return None
    magic, mask = bytes.fromhex(fields["magic"]), bytes.fromhex(fields.get("mask", ""))
    return _Handler(os.path.basename(path), int(fields.get("offset", "0")), magic, mask, fields.get("flags:", ""))


def _handlers(directory: str) -> list[_Handler]:
    found = []
    try:
        names = os.listdir(directory)
        with open(os.path.join(directory, "status")) as file:
            if file.read().strip() != "enabled":
                return []
    except OSError:
        return []  # binfmt_misc is not mounted
    for name in names:
        if name in ("register", "status"):
            continue
        try:
            handler = _read(os.path.join(directory, name))
        except (OSError, ValueError):
            continue
        if handler is not None:
            found.append(handler)
    return found


def emulated(directory: str = _DIRECTORY) -> list[Platform]:
    """The platforms whose programs can run through an emulator. Reads files: call it on a thread."""
    handlers = [handler for handler in _handlers(directory) if "F" in handler.flags]
    found = []
    for architecture in sorted(_MACHINES):
        header, platform = _header(architecture), platforms.normalise(Platform("linux", architecture))
        if is_foreign(platform) and header and any(handler.takes(header) for handler in handlers):
            found.append(platform)
    return found


def check(text: str, directory: str = _DIRECTORY) -> None:
    """Raise `InvalidParameter` if programs of this platform cannot run in a container. Blocks: call it on a thread."""
    platform = platforms.parse(text)
    header = _header(platform.architecture)
    if header is None:
        return
    taking = [handler for handler in _handlers(directory) if handler.takes(header)]
    if any("F" in handler.flags for handler in taking):
        return
    missing = "no emulator for this platform is registered (binfmt_misc)"
    if taking:
        missing = f"the emulator {taking[0].name} is not visible in containers (it is registered without the flag F)"
    raise InvalidParameter(
        f"cannot run programs of {platform} on this host ({platforms.default()}): {missing}. "
        "Install qemu-user-static and binfmt-support, and start the container again"
    )
