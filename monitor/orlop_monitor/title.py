"""Sets the name of a forked process in `ps`, so that monitors can be distinguished from the zygote."""

from __future__ import annotations

import ctypes

from orlop_sdk import linux, smallfiles

__all__ = ["Title"]


class Title:
    """The memory from which the kernel reads this process's command line, between arg_start and arg_end (proc(5)). The
    addresses are equal in forked processes, so look them up once, before the first fork."""

    def __init__(self) -> None:
        fields = smallfiles.read("/proc/self/stat").rpartition(b") ")[2].split()
        self._start = int(fields[45])  # field 48 of proc(5); `fields` begins at field 3
        self._room = int(fields[46]) - self._start

    def set(self, title: str) -> None:
        """Set comm to the first word of `title`, and overwrite the memory of the command line with `title`, truncated to
        fit. If the last byte of this memory is not a NUL, the kernel shows the text up to the first NUL (the setproctitle
        convention)."""
        linux.set_process_name(title.split()[0])
        if self._start and self._room > 1:
            text = title.encode()[: self._room - 2]
            ctypes.memmove(self._start, text + b"\0" * (self._room - 1 - len(text)) + b".", self._room)
