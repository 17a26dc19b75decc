"""Loop devices for mounts of files (loop(4)).

A device is made with LO_FLAGS_AUTOCLEAR: the kernel detaches the file when the last user of the device is gone. The last
user is the mount, or, if the mount fails, the descriptor of this process. So nothing has to be cleaned up, even if this
process is killed.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from fcntl import ioctl

__all__ = ["attached"]

_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_READ_ONLY, _AUTOCLEAR = 1, 4
# struct loop_config: fd, block_size, struct loop_info64 (232 bytes; lo_flags at 52), 8 reserved numbers
_CONFIG = struct.Struct("<II52xI176x64x")
_TRIES = 64  # another process may attach a file to the device that was free


def _attach(path: str) -> tuple[int, str]:
    """Attach a file to a free loop device. Returns a descriptor, which keeps the file attached, and the device's path."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for _ in range(_TRIES):
                device = f"/dev/loop{ioctl(control, _LOOP_CTL_GET_FREE)}"
                fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    ioctl(fd, _LOOP_CONFIGURE, _CONFIG.pack(file, 512, _READ_ONLY | _AUTOCLEAR))
                    return fd, device
                except OSError as error:
                    os.close(fd)
                    if error.errno != errno.EBUSY:
                        raise
        finally:
            os.close(file)
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "other processes keep taking the free loop devices", path)


@contextmanager
def attached(source: str, options: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Attach `source` and the files of `device=` options to loop devices, read-only. Yields the device of `source`, and the
    options for the mount: "loop" is removed, and the files in `device=` are replaced by loop devices. Mount inside the
    `with` block."""
    with ExitStack() as stack:
        fd, device = _attach(source)
        stack.callback(os.close, fd)
        rest = []
        for word in options:
            name, equals, value = word.partition("=")
            if equals and name == "device":
                fd, value = _attach(value)
                stack.callback(os.close, fd)
                word = f"device={value}"
            if word != "loop":
                rest.append(word)
        yield device, rest
