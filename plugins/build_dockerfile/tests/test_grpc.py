"""A gRPC client and a gRPC server of this package, connected by a socket pair."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial, wraps

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from orlop_build_dockerfile.grpc import Call, Code, Connection, Handler, Limits, RpcError
from orlop_build_dockerfile.grpc._messages import MessageReader, encode
from orlop_build_dockerfile.grpc._status import format_timeout, parse_timeout, status_headers, status_of


def trio_test(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @wraps(test)
    def run(**arguments: object) -> None:
        trio.run(partial(test, **arguments))

    return run


def streams() -> tuple[trio.SocketStream, trio.SocketStream]:
    a, b = socket.socketpair()
    return trio.SocketStream(trio.socket.from_stdlib_socket(a)), trio.SocketStream(trio.socket.from_stdlib_socket(b))


@asynccontextmanager
async def connected(
    handlers: Mapping[str, Handler], limits: Limits | None = None
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Run a client and its server. Both must end within a second after the end of the `with` block, without being
    cancelled."""
    near, far = streams()
    client = Connection(near, client=True, limits=limits)
    server = Connection(far, handlers=handlers, limits=limits)
    with trio.fail_after(50):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            nursery.start_soon(server.run)
            yield client, server
            client.close()


async def echo(call: Call) -> None:
    while (message := await call.receive()) is not None:
        await call.send(message)


@trio_test
async def test_unary_call_returns_the_message_of_the_handler() -> None:
    async def answer(call: Call) -> None:
        await call.send(await call.receive_one() + b"!" + "".join(call.values("who")).encode())

    async with connected({"/a/B": answer}) as (client, _):
        assert await client.unary("/a/B", b"hello", [("who", "me"), ("who", "you")]) == b"hello!meyou"
        assert await client.unary("/a/B", b"") == b"!"


@pytest.mark.parametrize("size", [0, 1, 16379, 16380, 100_000, 3 << 20, 12 << 20])
@trio_test
async def test_messages_of_any_size_arrive_in_both_directions(size: int) -> None:
    async with connected({"/e": echo}) as (client, _), client.call("/e") as call:
        message = bytes(i % 251 for i in range(997)) * (size // 997 + 1)
        message = message[:size]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.send, message, b"next")
            assert await call.receive() == message
            assert await call.receive() == b"next"
        call.finish_sending()
        assert await call.receive() is None


@trio_test
async def test_many_messages_arrive_in_order() -> None:
    messages = [str(i).encode() for i in range(20_000)]

    async with connected({"/e": echo}) as (client, _), client.call("/e") as call:

        async def send() -> None:
            await call.send(*messages)
            call.finish_sending()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            got: list[bytes] = []
            while batch := await call.receive_batch():
                got += batch
        assert got == messages


@trio_test
async def test_error_status_of_a_call_contains_message_and_details() -> None:
    async def fail(call: Call) -> None:
        await call.receive_one()
        raise RpcError(Code.NOT_FOUND, "no file “x”: 100 % gone\n", b"\x08\x05details")

    async with connected({"/f": fail}) as (client, _):
        with pytest.raises(RpcError, match="100 % gone") as caught:
            await client.unary("/f", b"")
        assert caught.value.code == Code.NOT_FOUND
        assert caught.value.message == "no file “x”: 100 % gone"
        assert caught.value.details == b"\x08\x05details"


@trio_test
async def test_messages_before_a_failure_are_received() -> None:
    async def fail(call: Call) -> None:
        await call.send(b"one", b"two")
        raise RpcError(Code.ABORTED, "enough")

    async with connected({"/f": fail}) as (client, _), client.call("/f") as call:
        assert await call.receive() == b"one"
        assert await call.receive() == b"two"
        with pytest.raises(RpcError, match="enough"):
            await call.receive()


@trio_test
async def test_exception_of_a_handler_fails_only_its_call(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(call: Call) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ValueError("a mistake")

    async with connected({"/f": fail, "/e": echo}) as (client, _), client.call("/e") as other:
        with pytest.raises(RpcError, match="a mistake") as caught:
            await client.unary("/f", b"")
        assert caught.value.code == Code.UNKNOWN
        await other.send(b"x")
        assert await other.receive() == b"x"
    assert "cannot answer a call of /f" in caplog.text


@trio_test
async def test_call_of_an_unknown_method_fails_with_unimplemented() -> None:
    async with connected({}) as (client, _):
        with pytest.raises(RpcError, match="unknown method /nothing") as caught:
            await client.unary("/nothing", b"")
        assert caught.value.code == Code.UNIMPLEMENTED


@trio_test
async def test_initial_metadata_arrives_before_the_first_message() -> None:
    go_on = trio.Event()

    async def slow(call: Call) -> None:
        call.start([("x-time", "now")])
        await go_on.wait()
        await call.send(b"late")

    async with connected({"/s": slow}) as (client, _), client.call("/s") as call:
        while "x-time" not in call.headers:
            await trio.testing.wait_all_tasks_blocked(0.01)
        go_on.set()
        assert await call.receive() == b"late"


async def _cancelled(cancelled: trio.Event) -> None:
    try:
        await trio.sleep_forever()
    finally:
        cancelled.set()


@trio_test
async def test_handler_is_cancelled_when_the_client_closes_the_call() -> None:
    begun, cancelled = trio.Event(), trio.Event()

    async def handler(call: Call) -> None:
        begun.set()
        await _cancelled(cancelled)

    async with connected({"/w": handler, "/e": echo}) as (client, server):
        async with client.call("/w"):
            await begun.wait()
        await cancelled.wait()
        async with client.call("/e") as call:  # the connection can still be used
            await call.send(b"x")
            assert await call.receive() == b"x"
        assert await _soon(lambda: not server._calls)


@trio_test
async def test_end_of_the_connection_cancels_handlers_and_fails_calls() -> None:
    begun, cancelled = trio.Event(), trio.Event()

    async def handler(call: Call) -> None:
        begun.set()
        await _cancelled(cancelled)

    async with connected({"/w": handler}) as (client, server):
        async with client.call("/w") as call:
            await begun.wait()
            server.close()
            with pytest.raises(RpcError) as caught:
                await call.receive()
            assert caught.value.code == Code.UNAVAILABLE
        await cancelled.wait()
        with pytest.raises(RpcError, match="closed"):
            await client.unary("/w", b"")


def test_clients_deadline_cancels_the_handler() -> None:
    trio.run(_deadline_of_the_client, clock=trio.testing.MockClock(autojump_threshold=0))


async def _deadline_of_the_client() -> None:
    ends: list[float] = []

    async def handler(call: Call) -> None:
        assert call.values("grpc-timeout") == ["30000m"]
        try:
            await trio.sleep_forever()
        finally:
            ends.append(trio.current_time())

    async with connected({"/w": handler}) as (client, _):
        start = trio.current_time()
        with pytest.raises(RpcError) as caught:
            await client.unary("/w", b"", timeout=30)
        assert caught.value.code == Code.DEADLINE_EXCEEDED
        assert 29.9 < trio.current_time() - start < 31
    assert len(ends) == 1


@trio_test
async def test_server_ends_a_call_at_the_deadline() -> None:
    async def handler(call: Call) -> None:
        await trio.sleep_forever()

    async with connected({"/w": handler}) as (client, _):
        with pytest.raises(RpcError, match="context deadline exceeded") as caught:
            await client.unary("/w", b"", [("grpc-timeout", "10m")])
        assert caught.value.code == Code.DEADLINE_EXCEEDED
        with pytest.raises(RpcError, match="malformed grpc-timeout"):
            await client.unary("/w", b"", [("grpc-timeout", "soon")])


@trio_test
async def test_flow_control_blocks_the_sender_until_the_handler_receives() -> None:
    go_on = trio.Event()

    async def handler(call: Call) -> None:
        await go_on.wait()
        total = 0
        while batch := await call.receive_batch():
            total += sum(map(len, batch))
        await call.send(str(total).encode())

    limits = Limits(window=1 << 20, connection_window=4 << 20)
    async with connected({"/s": handler}, limits) as (client, server), client.call("/s") as call:
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(100):
                await call.send(bytes(100_000))
                sent += 100_000
            call.finish_sending()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert 500_000 <= sent <= 1 << 20
            kept = sum(len(message) for c in server._calls.values() for each in c._received for message in each.messages)
            assert kept <= 1 << 20
            go_on.set()
        assert await call.receive_one() == b"10000000"


@trio_test
async def test_server_that_drains_finishes_running_calls_and_refuses_new_calls() -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def handler(call: Call) -> None:
        begun.set()
        await go_on.wait()
        await call.send(b"done")

    async with connected({"/w": handler}) as (client, server), trio.open_nursery() as nursery:
        async with client.call("/w") as call:
            await begun.wait()
            nursery.start_soon(server.drain)
            await _soon(lambda: client._draining)
            with pytest.raises(RpcError, match="closes the connection"):
                await client.unary("/w", b"")
            go_on.set()
            assert await call.receive() == b"done"
            assert await call.receive() is None
        with trio.fail_after(5):
            while client._over is None:
                await trio.testing.wait_all_tasks_blocked(0.01)


@trio_test
async def test_client_stops_sending_when_the_handler_has_failed() -> None:
    async def handler(call: Call) -> None:
        await call.receive()
        raise RpcError(Code.PERMISSION_DENIED, "no")

    async with connected({"/w": handler, "/e": echo}) as (client, _):
        async with client.call("/w") as call:
            with pytest.raises(RpcError, match="no"):
                while True:
                    await call.send(bytes(1 << 20))
        async with client.call("/e") as call:  # the data of the refused call did not use up the window
            for _ in range(20):
                await call.send(bytes(1 << 20))
                assert len(await call.receive() or b"") == 1 << 20


@trio_test
async def test_handler_that_returns_ends_a_call_whose_request_is_incomplete() -> None:
    """The client can finish its request later."""

    async def handler(call: Call) -> None:
        await call.send(b"answer")

    async with connected({"/w": handler}) as (client, _), client.call("/w") as call:
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await client.unary("/w", b"") == b"answer"  # makes h2 forget the first stream
        assert await call.receive() == b"answer"
        call.finish_sending()
        assert await call.receive() is None


@trio_test
async def test_connection_first_processes_bytes_that_were_read_before_it_began() -> None:
    """The server gets the bytes as the argument of `run`."""
    near, far = streams()
    client, server = Connection(near, client=True), Connection(far, handlers={"/e": echo})
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            early = bytes(await far.receive_some(10))
            nursery.start_soon(server.run, early)
            async with client.call("/e") as call:
                await call.send(b"x")
                assert await call.receive() == b"x"
            client.close()


async def _soon(condition: object) -> bool:
    assert callable(condition)
    with trio.fail_after(5):
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.01)
    return True


@given(st.lists(st.binary(max_size=40)), st.data())
def test_messages_are_decoded_from_pieces_of_any_size(messages: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(map(encode, messages))
    reader, found = MessageReader(100), []
    while wire:
        size = data.draw(st.integers(1, len(wire)))
        found += reader.feed(wire[:size])
        wire = wire[size:]
    assert found == messages
    assert reader.pending == 0


@given(st.text(), st.integers(1, 16), st.binary(max_size=50))
def test_grpc_status_is_encoded_in_headers_without_loss(message: str, code: int, details: bytes) -> None:
    headers = dict(status_headers(RpcError(code, message, details)))
    for value in headers.values():
        assert value.isascii()
        assert value.isprintable()
        assert value == value.strip()
    found = status_of(headers)
    assert found is not None
    assert (found.code, found.details) == (code, details)
    assert found.message == message.encode("utf-8", "replace").strip().decode("utf-8", "replace")


def test_malformed_grpc_status_is_treated_as_an_internal_error() -> None:
    for text in ("", "x", "-1", "1e3", "9" * 20):
        found = status_of({"grpc-status": text})
        assert found is not None
        assert found.code == Code.INTERNAL
    found = status_of({"grpc-status": "3", "grpc-status-details-bin": "§"})
    assert found is not None
    assert found.details == b""


@given(st.floats(0.0001, 9e7))
def test_grpc_timeout_is_rounded_up(seconds: float) -> None:
    assert seconds <= parse_timeout(format_timeout(seconds)) <= seconds + 1
