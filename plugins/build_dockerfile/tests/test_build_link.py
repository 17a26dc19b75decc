"""The connection between the daemon and the builder process."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from orlop_build_dockerfile.contracts import Base, Download, Step
from orlop_build_dockerfile.daemon import messages
from orlop_build_dockerfile.daemon.backend_client import BackendClient
from orlop_build_dockerfile.daemon.link import Handler, Link, Report
from orlop_sdk import Conflict, NotFound, OrlopError, Unavailable

BASE = Base("docker.io/library/a:latest", "sha256:1", b"{}", "build-1")


async def no_handler(question: messages.Question, fds: list[int], report: Report) -> Any:
    raise AssertionError(question)


@asynccontextmanager
async def connected(handler: Handler) -> AsyncIterator[tuple[BackendClient, Link]]:
    """The builder's client of the daemon, and the daemon's end of the link between them."""
    ours, theirs = socket.socketpair()
    daemon, builder = Link(ours, handler), Link(theirs, no_handler)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.run)
        nursery.start_soon(builder.run)
        yield BackendClient(builder), daemon
        daemon.close()


def test_a_shielded_handler_does_not_outlive_the_connection() -> None:
    """The builder removes a snapshot in a shielded scope, and the daemon is killed meanwhile."""

    async def never(question: messages.Question, fds: list[int], report: Report) -> Any:
        await trio.sleep_forever()

    async def main() -> None:
        ours, theirs = socket.socketpair()
        asked, failed = trio.Event(), trio.Event()

        async def remove(question: messages.Question, fds: list[int], report: Report) -> Any:
            asked.set()
            with trio.move_on_after(60, shield=True):
                try:
                    await BackendClient(builder).remove("build-1")
                except Unavailable:
                    failed.set()

        daemon, builder = Link(ours, never), Link(theirs, remove)

        async def prune() -> None:
            with pytest.raises(Unavailable):
                await daemon.call(messages.PruneCache({}, True, 0, 0, 0))

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(daemon.run)
                nursery.start_soon(builder.run)
                nursery.start_soon(prune)
                await asked.wait()
                daemon.close()
            assert failed.is_set()

    trio.run(main)


def test_progress_reported_after_the_end_of_a_pull_is_dropped() -> None:
    async def handler(question: messages.Question, fds: list[int], report: Report) -> Any:
        if isinstance(question, messages.FetchBase):
            report(Download("layer", 0, 3, "downloading"))
            try:
                await trio.sleep_forever()
            finally:
                report(Download("layer", 1, 3, "downloading"))
        return ()

    async def main() -> None:
        async with connected(handler) as (client, _):
            async with client.base("a", "", pull=False, credentials=None) as items, aclosing(items):  # type: ignore[type-var]
                async for _ in items:
                    break
            assert await client.snapshots() == (), "the connection works"

    trio.run(main)


def test_result_of_a_cancelled_call_is_undone() -> None:
    asked: list[messages.Question] = []

    async def handler(question: messages.Question, fds: list[int], report: Report) -> Any:
        asked.append(question)
        if isinstance(question, messages.Prepare | messages.FetchBase):
            with trio.CancelScope(shield=True):
                cancelled.set()
                await trio.sleep(0.01)
            return "build-new" if isinstance(question, messages.Prepare) else BASE
        return None

    async def main() -> None:
        nonlocal cancelled
        async with connected(handler) as (client, _):

            async def fetch() -> None:
                async with client.base("a", "", pull=False, credentials=None) as items:
                    async for _ in items:
                        pass

            for call in (lambda: client.prepare(""), fetch):
                cancelled = trio.Event()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(call)
                    await cancelled.wait()
                    nursery.cancel_scope.cancel()
        assert asked[1] == messages.Remove("build-new") and asked[3] == messages.Release(BASE.digest)

    cancelled = trio.Event()
    trio.run(main)


def test_calls_transfer_results_progress_and_descriptors() -> None:
    async def handler(question: messages.Question, fds: list[int], report: Report) -> Any:
        match question:
            case messages.FetchBase():
                for number in range(3):
                    report(Download("layer", number, 3, "downloading"))
                return BASE
            case messages.Run():
                os.write(fds[0], b"out")
                os.write(fds[1], b"err")
                for fd in fds:
                    os.close(fd)
                return 7
            case messages.PutBlob():
                return f"{len(question.data)}"

    async def main() -> None:
        async with connected(handler) as (client, _):
            async with client.base("a", "", pull=False, credentials=None) as items:
                found = [item async for item in items]
            assert found == [Download("layer", 2, 3, "downloading"), BASE], "the latest progress of each layer is enough"
            pipes = [os.pipe(), os.pipe()]
            assert await client.run(Step(root="build-1", args=["true"]), pipes[0][1], pipes[1][1]) == 7
            for (reading, writing), expected in zip(pipes, (b"out", b"err"), strict=True):
                os.close(writing)
                assert os.read(reading, 10) == expected
                assert os.read(reading, 10) == b""  # the other side has closed its copy
                os.close(reading)
            assert await client.put("artifact", bytes(3_000_000)) == "3000000"  # more than one write to a socket accepts

    trio.run(main)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (NotFound("no such image"), NotFound),
        (type("Own", (Conflict,), {})("it is in use"), Conflict),
        (ExceptionGroup("", [NotFound("in a nursery")]), NotFound),
    ],
)
def test_raised_errors_keep_their_type_across_the_link(raised: Exception, expected: type[OrlopError]) -> None:
    async def handler(question: messages.Question, fds: list[int], report: Report) -> Any:
        raise raised

    async def main() -> None:
        async with connected(handler) as (client, _):
            with pytest.raises(expected) as info:
                await client.prepare("")
            single = raised.exceptions[0] if isinstance(raised, ExceptionGroup) else raised
            assert str(info.value) == str(single)

    trio.run(main)


def test_unexpected_exception_of_a_handler_fails_only_its_call(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(question: messages.Question, fds: list[int], report: Report) -> Any:
        if isinstance(question, messages.Prepare):
            raise ZeroDivisionError("a bug")
        return "key"

    async def main() -> None:
        async with connected(handler) as (client, _):
            with pytest.raises(OrlopError, match="a bug"):
                await client.prepare("")
            assert await client.commit("key") == "key"

    trio.run(main)
    assert "cannot handle Prepare" in caplog.text


def test_cancelled_call_returns_after_its_handler_has_cleaned_up() -> None:
    undone = False

    async def handler(question: messages.Question, fds: list[int], report: Report) -> Any:
        nonlocal undone
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)
            undone = True

    async def main() -> None:
        async with connected(handler) as (client, _):
            with trio.move_on_after(0.05) as scope:
                await client.prepare("")
            assert scope.cancelled_caught
            assert undone

    trio.run(main)


def test_closed_connection_ends_calls_and_handlers() -> None:
    ended = trio.Event()

    async def handler(question: messages.Question, fds: list[int], report: Report) -> Any:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def main() -> None:
        async with connected(handler) as (client, daemon):

            async def end() -> None:
                await trio.testing.wait_all_tasks_blocked(0.02)
                daemon.close()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(end)
                with pytest.raises(Unavailable):
                    await client.prepare("")
            assert ended.is_set()
            with pytest.raises(Unavailable):
                await client.prepare("")

    trio.run(main)


def test_descriptors_of_an_incomplete_frame_are_closed() -> None:
    """The connection ends before the frame of the call is complete."""
    ours, theirs = socket.socketpair()

    async def main() -> None:
        link = Link(ours, no_handler)
        reading, writing = os.pipe()
        socket.send_fds(theirs, [messages.HEADER.pack(100, 1)], [writing])
        os.close(writing)
        theirs.close()
        await link.run()
        assert os.read(reading, 1) == b""
        os.close(reading)

    trio.run(main)


def test_oversized_frame_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()

    async def main() -> None:
        with theirs:
            theirs.sendall(messages.HEADER.pack(messages.FRAME_LIMIT + 1, 0))
            with trio.fail_after(5):
                await Link(ours, no_handler).run()

    trio.run(main)
    assert "a frame between daemon and builder is too large" in caplog.text
