"""The worker: one request, then the end. Runs in a child of the zygote, with nothing of the daemon's but its socket.

It ends early when the daemon does: at the next progress message, or because the source it reads is at its end.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import time

from orlop_kernel.linux import close_other_fds, set_process_name

from .copyup import copy_up, mount_root
from .errors import UnpackError
from .extract import extract
from .request import CopyUp, Done, Failed, Progress, Unpack, encode, receive_request
from .sandbox import confine, enter, own_mounts
from .stream import Uncompressed

__all__ = ["run"]

_PROGRESS_EVERY = 0.1  # seconds: Docker's clients redraw no faster


class _Abandoned(Exception):
    """The daemon went away: nobody wants the result."""


class _Reporter:
    def __init__(self, connection: socket.socket, source: Uncompressed) -> None:
        self._connection = connection
        self._source = source
        self._next = time.monotonic() + _PROGRESS_EVERY

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PROGRESS_EVERY
            try:
                self._connection.sendall(encode(Progress(self._source.consumed)))
            except OSError:
                raise _Abandoned from None


def run(connection: socket.socket) -> None:
    """Serve the request that comes on `connection`, and close it."""
    set_process_name("orlop-unpack")
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        with connection:
            try:
                request, fds = receive_request(connection)
            except EOFError:
                return
            connection.sendall(encode(_serve(connection, request, fds)))
    except (_Abandoned, BrokenPipeError, ConnectionResetError):
        pass


def _serve(connection: socket.socket, request: Unpack | CopyUp, fds: list[int]) -> Done | Failed:
    close_other_fds([connection.fileno(), *fds])
    os.umask(0)
    try:
        if isinstance(request, Unpack):
            return _unpack(connection, request, *fds)
        return _copy_up(request, *fds)
    except UnpackError as error:
        return Failed(str(error), archive=True)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return Failed(f"{where}{error.strerror or error}", errno=error.errno or errno.EIO)
    except MemoryError:
        return Failed("out of memory", errno=errno.ENOMEM)


def _unpack(connection: socket.socket, request: Unpack, source_fd: int, target_fd: int) -> Done:
    if os.geteuid() == 0:
        # By way of the working directory: unshare moves that into the new namespace, which a descriptor is not.
        os.fchdir(target_fd)
        own_mounts()
        enter(os.getcwd())
        os.close(target_fd)
        target_fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    confine(file_size=request.limits.size, trusted_xattrs=request.overlay_whiteouts)
    with Uncompressed(source_fd, request.limits.size) as source:
        entries = extract(source, target_fd, request, _Reporter(connection, source))
        return Done(source.digest(), source.size, entries)


def _copy_up(request: CopyUp, target_fd: int) -> Done:
    own_mounts()
    mount_root(request.mounts, request.mountpoint)
    enter(request.mountpoint)
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    confine(file_size=1 << 62, trusted_xattrs=False)
    return Done(copied=copy_up(root, request.path, target_fd))
