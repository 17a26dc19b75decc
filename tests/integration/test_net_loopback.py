"""The network of a container, as the engine sets it up at its start: plan, attach, and the monitor's relay
for traffic that nftables does not forward."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from orlop_engine.config import Config
from orlop_engine.networks.service import Networks, Plan, Sandbox
from orlop_engine.types.containers import EndpointSettings, PortBinding
from orlop_kernel.events import EventBus
from orlop_kernel.store import Store
from orlop_monitor.forward import Forwarder
from orlop_monitor.loop import Loop
from orlop_net_bridge import BridgeDriver
from orlop_sdk import NetworkContext, NetworkDriver, linux
from orlop_sdk.testing.network import FakeNetwork

pytestmark = pytest.mark.root


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def serve(fd: int, port: int) -> socket.socket:
    """In a namespace, answer each connection with its source address, until the socket is shut down."""
    with linux.in_network_namespace(fd):
        listener = socket.create_server(("0.0.0.0", port))

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = listener.accept()
                with connection:
                    connection.sendall(peer[0].encode())

    threading.Thread(target=answer, daemon=True).start()
    return listener


class Daemon:
    """A daemon's networks. Several daemons, one after another, share the host and the state."""

    def __init__(self, root: Path) -> None:
        self.config = Config(data_root=str(root), bip="10.211.0.1/24")
        context = NetworkContext("test", "orlt0", "/nonexistent")
        self.drivers: dict[str, NetworkDriver] = {
            "bridge": BridgeDriver(context),
            "host": FakeNetwork(),
            "null": FakeNetwork(),
        }

    async def driver(self, name: str) -> NetworkDriver:
        return self.drivers[name]

    async def close(self) -> None:
        for driver in self.drivers.values():
            await driver.close()

    @contextlib.asynccontextmanager
    async def networks(self, store: Store) -> AsyncIterator[Networks]:
        networks = Networks(store, EventBus(), self.driver, self.config)
        await networks.load()
        await networks.restore([])
        try:
            yield networks
        finally:
            await self.close()


def test_monitor_serves_published_ports_on_loopback_without_the_daemon(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        host = linux.new_network_namespace()
        stack.callback(os.close, host)
        stack.enter_context(linux.in_network_namespace(host))
        run("ip", "link", "set", "lo", "up")
        container = linux.new_network_namespace()
        stack.callback(os.close, container)
        made: list[tuple[Plan, Sandbox]] = []

        async def start() -> None:
            daemon = Daemon(tmp_path)
            async with Store.open(str(tmp_path / "db")) as store, daemon.networks(store) as networks:
                bindings = {"80": [PortBinding(host_port="8080")]}
                asked = {"bridge": EndpointSettings()}
                plan = await networks.plan("c" * 64, "c1", "c1", "bridge", asked, (), bindings, False)
                made.append((plan, await networks.attach(plan, f"/proc/{os.getpid()}/fd/{container}")))

        async def stop() -> None:
            daemon = Daemon(tmp_path)
            async with Store.open(str(tmp_path / "db")) as store, daemon.networks(store) as networks:
                await networks.restore([made[0][1]])
                await networks.release(made[0][1])
                await daemon.drivers["bridge"].delete_network(made[0][1].endpoints[0].network)

        trio.run(start)
        server = serve(container, 80)
        stack.callback(server.close)
        stack.callback(server.shutdown, socket.SHUT_RDWR)
        plan, _ = made[0]
        answers: list[str] = []
        done, finished = socket.socketpair()

        def clients() -> None:
            for address in ("127.0.0.1", "127.0.0.2", "::1", "10.211.0.1"):
                with contextlib.suppress(OSError), socket.create_connection((address, 8080), 2) as sock:
                    answers.append(sock.recv(100).decode())
            finished.send(b"x")

        loop = Loop()
        forwarder = Forwarder(loop)
        forwarder.serve(plan.sockets, plan.forwards)
        loop.on_readable(done.fileno(), loop.stop)
        thread = threading.Thread(target=clients)  # a new thread inherits the namespace of this thread
        thread.start()
        try:
            loop.run()
        finally:
            thread.join()
            forwarder.close()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for held in (done, finished, loop._epoll, loop._wake, loop._wakeup):
                held.close()
        trio.run(stop)
        assert answers == ["10.211.0.1"] * 4
        assert "orlt0" not in run("ip", "-o", "link") and "orlop" not in run("nft", "list", "tables")
