"""The daemon's side of unpacking. It starts a worker through the zygote, sends data to the worker, and reads the answers.

A worker exists only during one call. When the call returns, raises or is cancelled, the worker is dead, so the caller may
remove or commit the snapshot immediately. After a crash, only the active snapshot must be removed.
"""

from __future__ import annotations

import math
import os
import signal
import socket
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec
import trio

from orlop_monitor.unpack.request import (
    HEADER,
    Answer,
    CopyFiles,
    CopyUp,
    Decompress,
    Done,
    Failed,
    Limits,
    MakeDirectory,
    MakeInitLayer,
    Progress,
    Request,
    Stream,
    Unpack,
    decode_answer,
    encode,
)
from orlop_sdk import DriverError, InvalidParameter, Mount, NotFound, OrlopError, StreamTarget, UnpackTarget, Usage

__all__ = [
    "AnswerReader",
    "Limits",
    "Spawner",
    "Unpacked",
    "WorkerRefused",
    "copy_files",
    "copy_up",
    "decompress",
    "feed",
    "make_directory",
    "make_init_layer",
    "refusal",
    "unpack",
    "unpack_files",
    "worker",
]

_FAREWELL = 5.0  # seconds to wait until a killed worker dies; only an uninterruptible system call takes longer


class Spawner(Protocol):
    """The part of `engine.processes.Zygote` that this module uses."""

    async def spawn(self, entry: str, connection: socket.socket) -> int:
        """Fork a child that runs `entry` with this end of a connection. Returns its pid."""
        ...


class Unpacked(msgspec.Struct, frozen=True):
    """`diff_id` is the digest of the uncompressed stream, `size` its length in bytes. `usage` is the usage of the layer,
    only for a `StreamTarget`."""

    diff_id: str
    size: int
    entries: int
    usage: Usage = Usage(0)


@asynccontextmanager
async def worker(zygote: Spawner, request: Request, fds: Sequence[int]) -> AsyncIterator[trio.SocketStream]:
    """Start a worker with a request. Yields the stream of its answers. At the end of the block the worker is dead."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            pid = await zygote.spawn("unpack", theirs)
        # The pid is still valid, because the worker waits for its request, which only this function can send.
        pidfd = os.pidfd_open(pid)
        try:
            socket.send_fds(ours, [encode(request)], list(fds))
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            yield stream
        finally:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            with trio.move_on_after(_FAREWELL, shield=True):
                await trio.lowlevel.wait_readable(pidfd)
            os.close(pidfd)


class AnswerReader:
    """Decodes the worker's frames into messages."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self) -> Answer | None:
        """The next message; None at the end."""
        buffer = self._buffer
        while True:
            if len(buffer) >= HEADER.size:
                end = HEADER.size + HEADER.unpack_from(buffer)[0]
                if len(buffer) >= end:
                    body = bytes(buffer[HEADER.size : end])
                    del buffer[:end]
                    return decode_answer(body)
            try:
                data = await self._stream.receive_some(65536)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            buffer += data


async def _result(stream: trio.SocketStream, progress: Callable[[int], None] | None, what: str) -> Done:
    answers = AnswerReader(stream)
    while answer := await answers.next():
        if isinstance(answer, Done):
            return answer
        if isinstance(answer, Failed):
            raise refusal(what, answer)
        if progress and isinstance(answer, Progress):
            progress(answer.consumed)
    raise refusal(what, None)


class WorkerRefused(OrlopError):
    """The worker has refused the request. `failed` is its answer, for callers that make their own messages."""

    failed: Failed


class _BadArchive(WorkerRefused, InvalidParameter):
    pass


class _CannotUnpack(WorkerRefused, DriverError):
    pass


def refusal(what: str, answer: Answer | None) -> Exception:
    """The error for a failed worker: `NotFound`, or a `WorkerRefused`. The `WorkerRefused` is also an `InvalidParameter` if
    the archive is the cause, or a `DriverError` if this host is the cause."""
    if not isinstance(answer, Failed):
        return DriverError(f"cannot {what}: the worker ended without an answer (killed, or out of memory)")
    if answer.missing:
        return NotFound(f"cannot {what}: there is no {answer.message}")
    error = (_BadArchive if answer.archive else _CannotUnpack)(f"cannot {what}: {answer.message}")
    error.failed = answer
    return error


async def _feed(source: AsyncIterable[bytes], pipe: trio.lowlevel.FdStream) -> None:
    try:
        async with pipe:
            async for chunk in source:
                await pipe.send_all(chunk)
    except trio.BrokenResourceError:
        pass  # the worker has read enough, or has failed; its answer shows this
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            with trio.move_on_after(1, shield=True):
                await close()


async def unpack(
    zygote: Spawner,
    source: AsyncIterable[bytes] | int,
    target: UnpackTarget | StreamTarget,
    *,
    expect_diff_id: str | None = None,
    limits: Limits | None = None,
    progress: Callable[[int], None] | None = None,
    timeout: float = math.inf,
) -> Unpacked:
    """Unpack a tar stream, compressed or not, into `target`, or pass it to the target's program, which makes a layer.
    `source` is an iterator of bytes, or a file descriptor at the beginning of a blob; the caller closes this descriptor.
    `progress` is called with the number of compressed bytes read so far, about ten times a second.

    Raises `InvalidParameter` when the archive is damaged, malicious, beyond `limits`, or has another diffID than expected;
    `DriverError` when this host fails (disk full, ...). The caller then removes the snapshot. Exceptions of `source` are
    raised unchanged. Cancelling kills the worker. The files are not synced to the disk, because `Storage.commit` does
    this."""
    limits = limits or Limits()
    request: Unpack | Stream
    if isinstance(target, StreamTarget):
        request = Stream(target.argv, target.keep, limits)
    else:
        request = Unpack(target.overlay_whiteouts, limits, ownership=os.geteuid() == 0)
    directory = os.open(target.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with trio.fail_after(timeout) if timeout < math.inf else trio.CancelScope():
            if isinstance(source, int):
                async with worker(zygote, request, (source, directory)) as stream:
                    done = await _result(stream, progress, "unpack layer")
            else:
                done = await feed(zygote, source, request, lambda pipe: (pipe, directory), "unpack layer", progress)
    except trio.TooSlowError:
        raise DriverError(f"cannot unpack layer: it took longer than {timeout:g} s") from None
    finally:
        os.close(directory)
    if expect_diff_id is not None and done.diff_id != expect_diff_id:
        raise InvalidParameter(f"invalid diffID: expected {expect_diff_id}, got {done.diff_id}")
    return Unpacked(done.diff_id, done.size, done.entries, Usage(done.content, done.inodes))


async def unpack_files(zygote: Spawner, source: int, directory: int, owner: tuple[int, int] | None = None) -> None:
    """Unpack a tar stream, compressed or not, from the descriptor `source` into the directory of the descriptor
    `directory`. Whiteouts are treated as ordinary files. `owner`: (uid, gid) of all files, instead of the archive's.
    Raises the same errors as `unpack`."""
    request = Unpack(overlay_whiteouts=False, layer=False, ownership=os.geteuid() == 0, owner=owner)
    async with worker(zygote, request, (source, directory)) as stream:
        await _result(stream, None, "unpack the archive")


async def copy_files(zygote: Spawner, connection: int) -> None:
    """Run the helper of a large copy (`orlop_sdk.filecopies.serve`). `connection` is the descriptor of its connection.
    Raises the same errors as `unpack`."""
    async with worker(zygote, CopyFiles(), (connection,)) as stream:
        await _result(stream, None, "copy files")


async def decompress(
    zygote: Spawner,
    source: AsyncIterable[bytes],
    target: int,
    *,
    size: int = Limits().size,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Decompress a stream into the file of the descriptor `target`, at most `size` bytes. Raises the same errors as
    `unpack`. `progress` is called about ten times a second; its exceptions are raised unchanged."""
    await feed(zygote, source, Decompress(size), lambda pipe: (pipe, target), "decompress the archive", progress)


async def feed(
    zygote: Spawner,
    source: AsyncIterable[bytes],
    request: Request,
    fds: Callable[[int], Sequence[int]],
    what: str,
    progress: Callable[[int], None] | None = None,
) -> Done:
    """Send `source` to a worker through a pipe. `fds` is called with the pipe's read end, and returns the descriptors that
    are passed to the worker. Exceptions of `source` are raised unchanged."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pipe = trio.lowlevel.FdStream(writing)
    failure: Exception | None = None
    done: Done | None = None

    async def pour() -> None:
        nonlocal failure
        try:
            await _feed(source, pipe)
        except Exception as error:
            failure = error  # for example a failed download; this error is reported instead of the early end of the archive
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            try:
                async with worker(zygote, request, fds(reading)) as stream:
                    os.close(reading)
                    reading = -1
                    nursery.start_soon(pour)
                    done = await _result(stream, progress, what)
            except Exception as error:
                failure = failure or error
            nursery.cancel_scope.cancel()
    finally:
        if reading >= 0:
            os.close(reading)
        await trio.aclose_forcefully(pipe)
    if failure:
        raise failure
    assert done
    return done


async def make_directory(zygote: Spawner, mounts: Sequence[Mount], path: str, mountpoint: str) -> None:
    """Make the directory `path` in the root that `mounts` form. Raises `InvalidParameter` when a file has this path, or
    is above it."""
    async with worker(zygote, MakeDirectory(tuple(mounts), mountpoint, path), ()) as stream:
        await _result(stream, None, f"make directory {path}")


async def make_init_layer(zygote: Spawner, mounts: Sequence[Mount], mountpoint: str) -> None:
    """Make the paths of `unpack.init_layer` in the root that `mounts` form."""
    async with worker(zygote, MakeInitLayer(tuple(mounts), mountpoint), ()) as stream:
        await _result(stream, None, "make the init layer")


async def copy_up(zygote: Spawner, mounts: Sequence[Mount], path: str, target: int, mountpoint: str) -> bool:
    """Copy the content, owner and mode of directory `path` into the directory of descriptor `target`, if the target is
    empty. `path` is in the root that `mounts` form; the worker mounts it at `mountpoint`, in its own namespace. Returns
    whether the content was copied. Raises `DriverError("cannot copy ...: cannot mount volume over existing file, file
    exists")` when `path` is a file."""
    async with worker(zygote, CopyUp(tuple(mounts), mountpoint, path), (target,)) as stream:
        done = await _result(stream, None, f"copy {path} of the image into the volume")
    return done.copied
