"""The name a forked process has in `ps`: a monitor should not look like the zygote it came from."""

from __future__ import annotations

import ctypes

from orlop_kernel import linux

__all__ = ["set_title"]


def set_title(title: str) -> None:
    """Set comm (its first word) and overwrite the command line in place, as far as it has room.

    The kernel shows the area between arg_start and arg_end, up to the first NUL if its last byte is not one (proc(5),
    the setproctitle convention)."""
    linux.set_process_name(title.split()[0])
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b") ")[2].split()
    start, end = int(fields[45]), int(fields[46])  # fields 48 and 49 of proc(5), counted from the state, field 3
    room = end - start
    if start == 0 or room < 2:
        return
    text = title.encode()[: room - 2]
    ctypes.memmove(start, text + b"\0" * (room - 1 - len(text)) + b".", room)
