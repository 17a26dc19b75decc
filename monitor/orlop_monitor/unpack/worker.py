"""The worker process, which handles one request and exits. It is a child of the zygote, and a socket is its only connection
to the daemon.

When the daemon dies, the worker exits at its next progress message, or when its source reaches EOF.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import time

from orlop_sdk import filecopies, users
from orlop_sdk.errors import OrlopError
from orlop_sdk.linux import close_other_fds, set_process_name

from . import init_layer, view
from .copyup import copy_up, mount_root
from .errors import UnpackError
from .extract import extract
from .layer import pack_layer
from .normalize import normalize
from .pack import Measurer, Packer
from .program import Program
from .request import (
    CopyFiles,
    CopyUp,
    Decompress,
    Done,
    ExtractInto,
    Failed,
    MakeDirectory,
    MakeInitLayer,
    Pack,
    Progress,
    Request,
    StatPath,
    Stream,
    Unpack,
    View,
    encode,
    receive_request,
)
from .sandbox import confine, enter, enter_nothing, own_mounts
from .stream import Uncompressed, write_sparse
from .tree import Tree, clean

__all__ = ["run"]

_PROGRESS_EVERY = 0.1  # seconds; Docker's clients redraw at most this often
_HEADERS = 4096  # bytes; on average, the headers of an entry in a normalized tar are smaller


class _Abandoned(Exception):
    """The daemon has closed the connection, so the result is not needed."""


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
    """Handle one request on `connection`, then close the connection."""
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


def _serve(connection: socket.socket, request: Request, fds: list[int]) -> Done | Failed:
    close_other_fds([connection.fileno(), *fds])
    os.umask(0)
    try:
        match request:
            case Unpack():
                return _unpack(connection, request, *fds)
            case Decompress():
                return _decompress(connection, request, *fds)
            case Stream():
                return _stream(connection, request, *fds)
            case CopyUp():
                return _copy_up(request, *fds)
            case CopyFiles():
                return _copy_files(*fds)
            case MakeDirectory():
                return _make_directory(request)
            case MakeInitLayer():
                return _make_init_layer(request)
            case StatPath():
                return _stat_path(connection, request, fds)
            case Pack():
                return _pack(connection, request, fds)
            case ExtractInto():
                return _extract_into(connection, request, fds)
    except view.NoSuchPath as error:
        return Failed(str(error), archive=True, missing=True)
    except UnpackError as error:
        return Failed(str(error), archive=True)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return Failed(f"{where}{error.strerror or error}", errno=error.errno or errno.EIO)
    except MemoryError:
        return Failed("out of memory", errno=errno.ENOMEM)


def _unpack(connection: socket.socket, request: Unpack, source_fd: int, target_fd: int) -> Done:
    if os.geteuid() == 0:
        # Use the working directory: unshare moves it to the new mount namespace, while a descriptor still refers to the old
        # namespace.
        os.fchdir(target_fd)
        own_mounts()
        enter(os.getcwd())
        os.close(target_fd)
        target_fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    confine(file_size=request.limits.size, trusted_xattrs=request.overlay_whiteouts)
    with Uncompressed(source_fd, request.limits.size, hashed=request.layer) as source:
        entries = extract(source, target_fd, request, _Reporter(connection, source))
        return Done(source.digest(), source.size, entries)


def _decompress(connection: socket.socket, request: Decompress, source_fd: int, target_fd: int) -> Done:
    if os.geteuid() == 0:
        own_mounts()
        enter_nothing()
    confine(file_size=request.size, trusted_xattrs=False)
    with Uncompressed(source_fd, request.size) as source:
        tick = _Reporter(connection, source)
        for piece in source.rest():
            write_sparse(target_fd, piece)
            tick()
        os.ftruncate(target_fd, source.size)
        return Done(source.digest(), source.size)


def _stream(connection: socket.socket, request: Stream, source_fd: int, target_fd: int) -> Done:
    limits = request.limits
    program = Program(request.argv, target_fd, request.keep)
    if os.geteuid() == 0:
        os.fchdir(target_fd)
        own_mounts()
        enter(os.getcwd())
    os.close(target_fd)
    confine(file_size=limits.size + limits.entries * _HEADERS, makes_files=False)
    with Uncompressed(source_fd, limits.size) as source:
        tick = _Reporter(connection, source)
        made = normalize(source, program, limits, tick)
        program.finish(tick)
        return Done(source.digest(), source.size, made.entries, content=made.content, inodes=made.inodes)


def _copy_up(request: CopyUp, target_fd: int) -> Done:
    own_mounts()
    mount_root(request.mounts, request.mountpoint)
    enter(request.mountpoint)
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    confine(file_size=1 << 62, trusted_xattrs=False)
    return Done(copied=copy_up(root, request.path, target_fd))


def _copy_files(channel: int) -> Done:
    if os.geteuid() == 0:
        own_mounts()
        enter_nothing()
    # Keep CAP_SYS_ADMIN, to copy the same extended attributes as the builder. Without it, attributes "trusted.*" are not
    # even listed
    confine(file_size=1 << 62, trusted_xattrs=True)
    with socket.socket(fileno=channel) as connection:
        filecopies.serve(connection)
    return Done()


def _make_directory(request: MakeDirectory) -> Done:
    own_mounts()
    mount_root(request.mounts, request.mountpoint)
    enter(request.mountpoint)
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    confine(file_size=0, trusted_xattrs=False)
    try:
        Tree(root).directory(clean(os.fsencode(request.path)))
    except (NotADirectoryError, FileExistsError):
        raise UnpackError("Cannot mkdir: it is not a directory") from None
    return Done()


def _make_init_layer(request: MakeInitLayer) -> Done:
    own_mounts()
    mount_root(request.mounts, request.mountpoint)
    enter(request.mountpoint)
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    confine(file_size=0, trusted_xattrs=False)
    init_layer.make(root)
    return Done()


def _enter(wanted: View, fds: list[int]) -> None:
    namespace = fds.pop(0) if wanted.joined else -1
    view.make(wanted, namespace, fds.pop(0) if wanted.mapped else -1)


def _stat_path(connection: socket.socket, request: StatPath, fds: list[int]) -> Done:
    _enter(request.view, fds)
    connection.sendall(encode(view.describe(view.ResolvedPath(request.path))))
    return Done()


def _pack(connection: socket.socket, request: Pack, fds: list[int]) -> Done:
    _enter(request.view, fds)
    out = -1 if request.measure else fds.pop()
    packer = (
        Measurer(sparse=request.sparse, latest=request.latest)
        if request.measure
        else Packer(out, sparse=request.sparse, latest=request.latest)
    )
    if request.path:
        resolved = view.ResolvedPath(request.path)
        connection.sendall(encode(view.describe(resolved)))
        view.pack(packer, resolved)
    elif request.layer:
        pack_layer(packer, fds.pop())
    else:
        view.pack_all(packer)
    packer.finish()
    if isinstance(packer, Measurer):
        return Done(packer.digest, packer.size, packer.entries)
    os.close(out)
    return Done(entries=packer.entries)


def _extract_into(connection: socket.socket, request: ExtractInto, fds: list[int]) -> Done:
    _enter(request.view, fds)
    target, source_fd = view.directory(request.path), fds.pop()
    if os.fstatvfs(target).f_flag & os.ST_RDONLY:  # like dockerd, refuse a read-only directory before reading the archive
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    owner = None
    if request.user:
        root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            who = users.resolve(root, request.user)
        except OrlopError as error:
            raise UnpackError(str(error)) from None
        finally:
            os.close(root)
        owner = (who.uid, who.gid)
    unpack = Unpack(
        overlay_whiteouts=False,
        limits=request.limits,
        owner=owner,
        layer=False,
        keep_kind=request.keep_kind,
    )
    with Uncompressed(source_fd, request.limits.size, hashed=False) as source:
        return Done(entries=extract(source, target, unpack, _Reporter(connection, source)))
