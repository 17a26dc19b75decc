"""The userland proxy for published ports, on the monitor's loop, over real sockets on loopback."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from orlop_monitor.forward import Forwarder
from orlop_monitor.loop import Loop
from orlop_monitor.protocol import Forward


@contextlib.contextmanager
def a_loop() -> Iterator[Loop]:
    loop = Loop()
    try:
        yield loop
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for held in (loop._epoll, loop._wake, loop._wakeup):
            held.close()


def serve(
    client: Callable[[int], None],
    *,
    kind: str = "tcp",
    target: int,
    address: str = "127.0.0.1",
    steer: tuple[Callable[[Loop, Forwarder], None], int] | None = None,
) -> None:
    """Relay connections from a new host port to `target` while `client(port)` runs in a thread. `steer` is a pair (callback,
    descriptor): the loop also calls this callback when the descriptor is readable."""
    failures: list[BaseException] = []
    done, finished = socket.socketpair()
    with a_loop() as loop, done, finished:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        listener.bind(("127.0.0.1", 0))
        if kind == "tcp":
            listener.listen()
        port = listener.getsockname()[1]
        forwarder = Forwarder(loop)
        forwarder.serve([listener], [Forward(kind, address, target)])

        def run() -> None:
            try:
                client(port)
            except BaseException as error:
                failures.append(error)
            finally:
                finished.send(b"x")

        loop.on_readable(done.fileno(), loop.stop)
        if steer:
            steer[0](loop, forwarder)
        thread = threading.Thread(target=run)
        thread.start()
        loop.run()
        thread.join()
        forwarder.close()
        loop.forget(done.fileno())
        if steer:
            loop.forget(steer[1])
        assert set(loop._readers) == {loop._wake.fileno()} and not loop._writers, "everything is closed"
    if failures:
        raise failures[0]


@contextlib.contextmanager
def upstream(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that handles one connection at a time."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if error.errno != errno.EMFILE:
                    return
                time.sleep(0.01)  # a test has lowered the limit for all threads
                continue
            with connection, contextlib.suppress(OSError):
                handle(connection)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def receive_all(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def assert_reset(port: int) -> None:
    """Assert that the connection is reset. The reset may come at connect or at the first read, depending on the relay's
    timing."""
    with pytest.raises(ConnectionResetError), socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.recv(1)


def reverse(connection: socket.socket) -> None:
    connection.sendall(receive_all(connection)[::-1])


def test_proxy_passes_answers_on_after_the_client_has_shut_down_writing() -> None:
    """HTTP/1.0 clients and `nc` shut down writing after the request."""

    def client(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            sock.sendall(b"hello")
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == b"olleh"

    with upstream(reverse) as target:
        serve(client, target=target)


def test_data_that_exceeds_the_buffers_of_the_proxy_is_not_lost() -> None:
    """If a client sends all its data before it reads anything, the relay blocks, but no data is lost."""
    data = bytes(range(256)) * (64 << 10)

    def client(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == data[::-1]

    with upstream(reverse) as target:
        serve(client, target=target)


def test_sender_is_blocked_while_the_receiver_does_not_read() -> None:
    taken = threading.Event()
    sent: list[int] = []

    def flood(connection: socket.socket) -> None:
        connection.settimeout(0.3)
        total = 0
        with contextlib.suppress(TimeoutError):
            while total < 256 << 20:
                total += connection.send(bytes(1 << 16))
        sent.append(total)
        taken.set()

    def client(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 5):
            assert taken.wait(10)

    with upstream(flood) as target:
        serve(client, target=target)
    assert 0 < sent[0] < 64 << 20, "bounded by the kernel's buffers and one chunk of ours"


def test_proxy_resets_the_client_connection_when_the_container_refuses_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        target = unused.getsockname()[1]

    def client(port: int) -> None:
        for _ in range(3):  # later connections are served as well
            assert_reset(port)

    serve(client, target=target)


def test_proxy_resets_the_client_connection_when_the_container_is_unreachable() -> None:
    def client(port: int) -> None:
        assert_reset(port)

    serve(client, target=80, address="255.255.255.255")


def test_reset_by_the_client_is_passed_on_to_the_container() -> None:
    seen: list[str] = []
    over = threading.Event()

    def handle(connection: socket.socket) -> None:
        connection.recv(1)
        try:
            while connection.recv(1 << 16):
                pass
            seen.append("end")
        except ConnectionResetError:
            seen.append("reset")
        over.set()

    def client(port: int) -> None:
        sock = socket.create_connection(("127.0.0.1", port), 5)
        sock.sendall(b"x")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        assert over.wait(5)

    with upstream(handle) as target:
        serve(client, target=target)
    assert seen == ["reset"]


def test_many_connections_are_served_concurrently() -> None:
    def echo(connection: socket.socket) -> None:
        connection.sendall(connection.recv(100))

    def client(port: int) -> None:
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 5)) for _ in range(100)]
            for number, sock in enumerate(socks):
                sock.sendall(b"%d" % number)
            for number, sock in enumerate(socks):
                assert receive_all(sock) == b"%d" % number

    with upstream(echo) as target:
        serve(client, target=target)


@pytest.mark.parametrize("reserve", [False, True])
def test_clients_of_the_proxy_wait_while_no_descriptor_is_free(reserve: bool) -> None:
    """While no descriptor is free, clients wait, and the monitor continues to work. The reserved descriptors (`_RESERVE`)
    are not used for clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def client(port: int) -> None:
        with socket.socket() as sock:
            sock.settimeout(0.3)
            lowest_free = os.dup(0)
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + (lowest_free // 4 if reserve else 0), hard))
            try:
                sock.connect(("127.0.0.1", port))
                sock.sendall(b"hello")
                sock.shutdown(socket.SHUT_WR)
                with pytest.raises(TimeoutError):
                    sock.recv(1)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            sock.settimeout(30)
            assert receive_all(sock) == b"olleh"

    with upstream(reverse) as target:
        serve(client, target=target)


def test_each_udp_client_gets_the_replies_to_its_own_datagrams() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)

        def client(port: int) -> None:
            with contextlib.ExitStack() as stack:
                socks = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)]
                for number, sock in enumerate(socks):
                    sock.settimeout(30)
                    sock.connect(("127.0.0.1", port))
                    sock.send(b"%d" % number)
                requests = [server.recvfrom(100) for _ in socks]
                assert len({peer for _, peer in requests}) == 3
                for data, peer in requests:
                    server.sendto(data * 2, peer)
                assert [sock.recv(100) for sock in socks] == [b"00", b"11", b"22"]

        serve(client, kind="udp", target=server.getsockname()[1])


def test_proxy_goes_on_after_the_container_refused_datagrams() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        target = unused.getsockname()[1]

    def client(port: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", port))
            for _ in range(3):
                sock.send(b"x")
            sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                sock.recv(1)

    serve(client, kind="udp", target=target)


# --- a container at another address ---------------------------------------------------------------------------------


def steered(kind: str, first: str, client: Callable[[int, Callable[[dict[str, str]], None]], None], target: int) -> None:
    """Run `client(port, retarget)`, where `retarget` calls `Forwarder.retarget` on the loop."""
    asked, answered = socket.socketpair()
    moves: list[dict[str, str]] = []

    def retarget(moved: dict[str, str]) -> None:
        moves.append(moved)
        asked.send(b"x")
        assert asked.recv(1) == b"y"

    def steer(loop: Loop, forwarder: Forwarder) -> None:
        def on_asked() -> None:
            answered.recv(1)
            forwarder.retarget(moves.pop())
            answered.send(b"y")

        loop.on_readable(answered.fileno(), on_asked)

    with asked, answered:
        serve(lambda port: client(port, retarget), kind=kind, target=target, address=first, steer=(steer, answered.fileno()))


def test_proxy_connects_to_the_new_address_of_the_container() -> None:
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        two = stack.enter_context(socket.create_server(("127.0.0.2", one.getsockname()[1])))

        def client(port: int, retarget: Callable[[dict[str, str]], None]) -> None:
            for server, moved in ((one, {"127.0.0.2": "127.0.0.9"}), (one, {"127.0.0.1": "127.0.0.2"}), (two, {})):
                with socket.create_connection(("127.0.0.1", port), 5):
                    server.settimeout(30)
                    server.accept()[0].close()
                retarget(moved)
            retarget({"127.0.0.2": ""})
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), 5)

        steered("tcp", "127.0.0.1", client, one.getsockname()[1])


def test_proxy_sends_datagrams_to_the_new_address_of_the_container() -> None:
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.2", one.getsockname()[1]))

        def client(port: int, retarget: Callable[[dict[str, str]], None]) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.connect(("127.0.0.1", port))
                for server in (one, two):
                    server.settimeout(30)
                    sock.settimeout(30)
                    sock.send(b"x")
                    data, peer = server.recvfrom(100)
                    server.sendto(data * 2, peer)
                    assert sock.recv(100) == b"xx"
                    retarget({"127.0.0.1": "127.0.0.2"})

        steered("udp", "127.0.0.1", client, one.getsockname()[1])
