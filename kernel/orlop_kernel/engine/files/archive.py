"""`docker cp`: what is at a path, a path as a tar stream, a tar stream into a directory."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import suppress

import trio

from orlop_kernel.engine.containers.container import Container
from orlop_kernel.engine.containers.service import Containers
from orlop_kernel.engine.unpacking import Answers, feed, refusal, worker
from orlop_kernel.spi import DriverError, InvalidParameter, NotFound
from orlop_kernel.unpack.request import Done, Failed, Found, Look, Pack, Place

from . import views

__all__ = ["Packed", "look", "pack", "place", "stream"]

_PIPE = 1 << 20
_SILENCE = 60.0  # seconds that a client may leave a stopped container locked and send nothing


def _missing(container: Container, path: str) -> NotFound:
    return NotFound(f"Could not find the file {path} in container {container.name}")


def _explained(container: Container, path: str, what: str, answer: object) -> Exception:
    if isinstance(answer, Failed) and answer.missing:
        return _missing(container, path)
    return refusal(what, answer)  # type: ignore[arg-type]  # anything else is told as it is


async def look(room: Containers, container: Container, path: str) -> Found:
    """What is there; `NotFound` in Docker's words."""
    async with (
        views.opened(room, container, mounts=True) as seen,
        worker(room.engine.zygote, Look(seen.view, path), seen.fds) as channel,
    ):
        answer = await Answers(channel).next()
    if isinstance(answer, Found):
        return answer
    raise _explained(container, path, f"look at {path}", answer)


class Packed:
    """A tar stream, and what it is of. Iterate over it once; an error breaks it off."""

    def __init__(self, found: Found, pieces: AsyncGenerator[Found | bytes, None]) -> None:
        self.found = found
        self._pieces = pieces

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._pieces.__anext__()
        assert isinstance(piece, bytes)
        return piece

    async def aclose(self) -> None:
        await self._pieces.aclose()


async def pack(room: Containers, container: Container, path: str) -> Packed:
    """A path and what is below it, with volumes."""
    pieces = _packed(room, container, path)
    try:
        found = await pieces.__anext__()
    except BaseException:
        await pieces.aclose()
        raise
    assert isinstance(found, Found)
    return Packed(found, pieces)


async def _packed(room: Containers, container: Container, path: str) -> AsyncGenerator[Found | bytes, None]:
    async with views.opened(room, container, mounts=True) as seen:
        pieces = stream(room, Pack(seen.view, path), seen.fds, f"archive {path}")
        try:
            async for piece in pieces:
                yield piece
        except NotFound:
            raise _missing(container, path) from None
        finally:
            await pieces.aclose()


async def stream(room: Containers, request: Pack, fds: tuple[int, ...], what: str) -> AsyncGenerator[Found | bytes, None]:
    """What a worker packs: `Found` first, if the request is of a path, then the bytes. Whole, or an error at its end."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with suppress(OSError):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE)
    async with trio.lowlevel.FdStream(reading) as pipe:
        try:
            async with worker(room.engine.zygote, request, (*fds, writing)) as channel:
                os.close(writing)
                writing = -1
                answers = Answers(channel)
                if request.path:
                    answer = await answers.next()
                    if not isinstance(answer, Found):
                        raise refusal(what, answer)
                    yield answer
                while data := await pipe.receive_some(_PIPE):
                    yield bytes(data)
                answer = await answers.next()
                if not isinstance(answer, Done):
                    raise refusal(what, answer)
        finally:
            if writing >= 0:
                os.close(writing)


async def place(
    room: Containers, container: Container, path: str, source: AsyncIterable[bytes], *, keep_kind: bool, own: bool
) -> None:
    """Unpack a tar stream into a directory of the container. `own`: everything becomes the container's user's."""
    user = container.record.config.user if own else ""
    async with views.opened(room, container, mounts=True, write=True) as seen:
        request = Place(seen.view, path, keep_kind, user)
        what = f"extract to {path}"
        try:
            await feed(room.engine.zygote, _patient(source), request, lambda pipe: (*seen.fds, pipe), what)
        except NotFound:
            raise _missing(container, path) from None
        except DriverError as error:
            if os.strerror(errno.EROFS) in str(error):
                raise InvalidParameter(_read_only(container, path)) from None
            raise
    room.engine.events.publish("container", "extract-to-dir", container.id, room.attributes(container))


async def _patient(source: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    pieces = aiter(source)
    while True:
        with trio.move_on_after(_SILENCE):
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return
            yield piece
            continue
        raise InvalidParameter(f"the archive broke off: nothing came for {_SILENCE:g} s")


def _read_only(container: Container, path: str) -> str:
    inside = [mount for mount in container.record.mounts if f"{path}/".startswith(f"{mount.destination}/")]
    return "mounted volume is marked read-only" if inside else "container rootfs is marked read-only"
