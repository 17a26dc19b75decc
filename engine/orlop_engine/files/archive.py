"""`docker cp`: stat a path, pack a path as a tar stream, unpack a tar stream into a directory."""

from __future__ import annotations

import errno
import fcntl
import os
import posixpath
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress

import trio

from orlop_engine.containers.container import Container
from orlop_engine.containers.ports import Ports
from orlop_engine.unpacking import AnswerReader, Spawner, WorkerRefused, feed, refusal, worker
from orlop_monitor.unpack.request import Answer, Done, ExtractInto, Failed, Found, Pack, StatPath, View
from orlop_sdk import DriverError, InvalidParameter, NotFound

from . import views

__all__ = ["TarStream", "look", "pack", "packed", "place", "stream"]

_PIPE = 1 << 20
# Seconds without data after which an upload fails. The limit is needed, because an upload locks a stopped container
_SILENCE = 60.0


def _missing(container: Container, path: str) -> NotFound:
    return NotFound(f"Could not find the file {path} in container {container.name}")


def _explained(container: Container, path: str, what: str, answer: Answer | None) -> Exception:
    if isinstance(answer, Failed) and answer.missing:
        return _missing(container, path)
    return refusal(what, answer)


async def look(ports: Ports, container: Container, path: str) -> Found:
    """Stat a path. Raises `NotFound` with Docker's message."""
    async with (
        views.opened(ports, container, mounts=True) as seen,
        worker(ports.zygote, StatPath(seen.view, path), seen.fds) as channel,
    ):
        answer = await AnswerReader(channel).next()
    if isinstance(answer, Found):
        return answer
    raise _explained(container, path, f"look at {path}", answer)


class TarStream:
    """The tar stream that a worker writes. Iterate over it once; the iteration raises an error if the worker failed.
    `aclose` ends the worker and removes its view of the files. Any task may call `aclose`.

    This class is not an async generator, because a generator that yields within `async with` is closed only when the garbage
    collector finds it. trio also forbids yielding within a cancel scope (python-trio#638)."""

    def __init__(self, resources: AsyncExitStack, pipe: trio.lowlevel.FdStream, answers: AnswerReader, what: str) -> None:
        self._resources = resources
        self._pipe = pipe
        self._answers = answers
        self._what = what
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        if data := await self._pipe.receive_some(_PIPE):
            return bytes(data)
        self._ended = True
        answer = await self._answers.next()
        await self.aclose()
        if not isinstance(answer, Done):
            raise refusal(self._what, answer)
        raise StopAsyncIteration

    async def found(self) -> Found:
        """The description of the packed path, for a request that names a path. Call this before the first read."""
        answer = await self._answers.next()
        if isinstance(answer, Found):
            return answer
        await self.aclose()
        raise refusal(self._what, answer)

    async def aclose(self) -> None:
        self._ended = True
        await self._resources.aclose()


async def stream(
    ports: Ports, container: Container, request: Callable[[View], Pack], what: str, *, changes: int = -1
) -> TarStream:
    """Start a worker that packs the container's files as `request` says. If the request names a path, the worker also sees
    volumes; otherwise it only sees the root. `changes` is the file descriptor of a layer's list of changes."""
    async with AsyncExitStack() as resources:
        seen = await resources.enter_async_context(views.opened(ports, container, mounts=bool(request(View("")).path)))
        fds = (*seen.fds, *((changes,) if changes >= 0 else ()))
        return await packed(ports.zygote, request(seen.view), fds, what, resources)


async def packed(zygote: Spawner, request: Pack, fds: Sequence[int], what: str, resources: AsyncExitStack) -> TarStream:
    """Start a worker that packs files. The returned stream closes `resources` at its end."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE)
        pipe = await resources.enter_async_context(trio.lowlevel.FdStream(reading))
        channel = await resources.enter_async_context(worker(zygote, request, (*fds, writing)))
    finally:
        os.close(writing)
    return TarStream(resources.pop_all(), pipe, AnswerReader(channel), what)


async def pack(ports: Ports, container: Container, path: str) -> tuple[Found, TarStream]:
    """Pack a path and everything below it, including volumes."""
    pieces = await stream(ports, container, lambda view: Pack(view, path), f"archive {path}")
    try:
        return await pieces.found(), pieces
    except NotFound:
        raise _missing(container, path) from None
    except BaseException:
        await pieces.aclose()
        raise


async def place(
    ports: Ports, container: Container, path: str, source: AsyncIterable[bytes], *, keep_kind: bool, own: bool
) -> None:
    """Unpack a tar stream into a directory of the container. `own`: the container's user becomes the owner of every file.

    Raises `DriverError` for an archive that cannot be unpacked, because dockerd answers with 500."""
    user = container.record.config.user if own else ""
    async with views.opened(ports, container, mounts=True, write=True) as seen:
        request = ExtractInto(seen.view, path, keep_kind, user)
        what = f"extract to {path}"
        try:
            await feed(ports.zygote, _Upload(source), request, lambda pipe: (*seen.fds, pipe), what)
        except NotFound:
            raise _missing(container, path) from None
        except WorkerRefused as error:
            raise DriverError(_words(container, path, error.failed)) from None
    ports.events.publish(container, "extract-to-dir")


def _words(container: Container, path: str, failed: Failed) -> str:
    """The error message. If dockerd has a message for this error, it is dockerd's."""
    if failed.errno == errno.EROFS:
        return _read_only(container, path)
    if failed.errno in (errno.ENOSPC, errno.EDQUOT):
        entry, _, _ = failed.message.rpartition(": ")
        return f"write {posixpath.join(path, entry)}: {os.strerror(failed.errno).lower()}"
    return failed.message if failed.archive else f"cannot extract to {path}: {failed.message}"


class _Upload:
    """Iterates over the chunks that a client sends. Raises if the client sends nothing for too long."""

    def __init__(self, source: AsyncIterable[bytes]) -> None:
        self._pieces = aiter(source)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with trio.move_on_after(_SILENCE):
            return await anext(self._pieces)
        raise InvalidParameter(f"the archive is incomplete: the client sent nothing for {_SILENCE:g} s")

    async def aclose(self) -> None:
        if (close := getattr(self._pieces, "aclose", None)) is not None:
            await close()


def _read_only(container: Container, path: str) -> str:
    inside = [mount for mount in container.record.mounts if f"{path}/".startswith(f"{mount.destination}/")]
    return "mounted volume is marked read-only" if inside else "container rootfs is marked read-only"
