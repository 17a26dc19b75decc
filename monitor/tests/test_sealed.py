"""Programs that the zygote copies into memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop_monitor import sealed
from orlop_sdk import linux


@pytest.fixture
def no_copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sealed, "_copies", {})
    yield
    for fd in sealed.descriptors():
        os.close(fd)


@pytest.fixture
def program(tmp_path: Path, no_copies: None) -> Path:
    return Path(shutil.copy2(os.path.realpath(sys.executable), tmp_path / "program"))


def test_copy_of_a_program_in_memory_is_used_until_the_programs_file_is_replaced(program: Path) -> None:
    sealed.hold([str(program)])
    copy = sealed.executable(str(program))
    assert copy == f"/proc/self/fd/{sealed.descriptors()[0]}"
    said = subprocess.run([copy, "--version"], pass_fds=sealed.descriptors(), capture_output=True, text=True)
    assert said.stdout.startswith("Python ")
    with pytest.raises(PermissionError), open(copy, "r+b") as file:
        file.truncate(0)
    program.write_bytes(b"another")
    assert sealed.executable(str(program)) == str(program)


def test_script_is_not_copied_into_memory(tmp_path: Path, no_copies: None) -> None:
    script = tmp_path / "wrapper"
    script.write_text("#!/bin/sh\n")
    sealed.hold([str(script), str(tmp_path / "missing")])
    assert sealed.executable(str(script)) == str(script)
    assert not sealed.descriptors()


@pytest.mark.parametrize("size", [0, 100, (5 << 20) + 7])
def test_data_written_to_huge_pages_can_be_read_back(size: int) -> None:
    data = os.urandom(size)
    fd = os.memfd_create("huge", os.MFD_CLOEXEC)
    with open(fd, "r+b", buffering=0) as file:
        file.write(data)
        try:
            linux.use_huge_pages(fd)
        except OSError as error:
            pytest.skip(f"this kernel makes none: {error}")
        file.seek(0)
        assert file.read() == data
