"""The name a forked process has in `ps`: a monitor should not look like the zygote it came from."""

from __future__ import annotations

import ctypes

from orlop_sdk import linux, smallfiles

__all__ = ["Title"]


class Title:
    """Where the kernel reads this process's command line: the area between arg_start and arg_end (proc(5)), which a fork
    keeps. Looked up once, before the first fork."""

    def __init__(self) -> None:
        fields = smallfiles.read("/proc/self/stat").rpartition(b") ")[2].split()
        self._start = int(fields[45])  # fields 48 and 49 of proc(5), counted from the state, field 3
        self._room = int(fields[46]) - self._start

    def set(self, title: str) -> None:
        """Set comm (its first word) and overwrite the command line, as far as it has room. The kernel shows it up to the
        first NUL if its last byte is not one: the setproctitle convention."""
        linux.set_process_name(title.split()[0])
        if self._start and self._room > 1:
            text = title.encode()[: self._room - 2]
            ctypes.memmove(self._start, text + b"\0" * (self._room - 1 - len(text)) + b".", self._room)
