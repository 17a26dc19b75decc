"""A "host" for packet tests: a network namespace with a neighbour ("remote") on a link, servers and clients in both, and a
bridge driver. The network of the real host is not changed."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from orlop_net_bridge import BridgeDriver
from orlop_sdk import Address, Endpoint, EndpointState, NetworkContext, NetworkSpec, PublishedPort, Subnet, linux
from orlop_sdk.testing.network import in_own_network

__all__ = ["HOST", "HTTP", "NETWORK", "OTHER", "REMOTE", "Host", "Namespace", "on_host", "run"]

HOST, REMOTE = "192.0.2.1", "192.0.2.2"
NETWORK = NetworkSpec(id="a" * 64, name="net-a", subnets=(Subnet("10.211.0.0/24", "10.211.0.1"),))
OTHER = NetworkSpec(id="b" * 64, name="net-b", subnets=(Subnet("10.212.0.0/24", "10.212.0.1"),))
HTTP = PublishedPort("tcp", "0.0.0.0", 8080, 80)


def run(*argv: str, stdin: str = "") -> str:
    """Run a command in this thread's namespace. `trio.run_process` would use threads of earlier tests, in other
    namespaces."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, input=stdin).stdout


class Namespace:
    """A network namespace, and servers and clients in it."""

    def __init__(self, stack: contextlib.ExitStack, path: str = "") -> None:
        """Make a new network namespace, or open the namespace at `path`."""
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path else linux.new_network_namespace()
        stack.callback(os.close, self.fd)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        self._stack = stack

    def inside(self) -> contextlib.AbstractContextManager[None]:
        return linux.in_network_namespace(self.fd)

    def serve(self, port: int, address: str = "0.0.0.0") -> None:
        """Answer each connection with its source address."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.inside():
            listener = socket.create_server((address, port), family=family)

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, peer = listener.accept()
                    with connection:
                        connection.sendall(peer[0].encode())

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()

        def end() -> None:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            listener.close()

        self._stack.callback(end)

    def call(self, address: str, port: int, timeout: float = 2.0) -> str:
        """The server's answer; "" if it cannot be reached."""
        with self.inside():
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        with sock:
            sock.settimeout(timeout)
            try:
                sock.connect((address, port))
                return sock.recv(100).decode()
            except OSError:
                return ""


class Host:
    """The host (this thread's namespace), its neighbour, a driver."""

    def __init__(self, stack: contextlib.ExitStack, **context: Any) -> None:
        self.stack = stack
        self._context = context
        self.driver = self.new_driver()
        self.remote = Namespace(stack)
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
        run("ip", "link", "set", "peer0", "netns", self.remote.path)
        run("ip", "address", "add", f"{HOST}/24", "dev", "eth0")
        run("ip", "address", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
        run("ip", "link", "set", "eth0", "up")
        with self.remote.inside():
            run("ip", "link", "set", "lo", "up")
            run("ip", "address", "add", f"{REMOTE}/24", "dev", "peer0")
            run("ip", "address", "add", "2001:db8::2/64", "dev", "peer0", "nodad")
            run("ip", "link", "set", "peer0", "up")

    def new_driver(self) -> BridgeDriver:
        return BridgeDriver(
            NetworkContext(instance="test", default_bridge="orlt0", state_dir="/nonexistent", **self._context)
        )

    def call(self, address: str, port: int) -> str:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
            sock.settimeout(2)
            try:
                sock.connect((address, port))
                return sock.recv(100).decode()
            except OSError:
                return ""

    async def container(
        self, number: int, *ports: PublishedPort, network: NetworkSpec = NETWORK, ident: int = 0, **more: Any
    ) -> tuple[Namespace, Endpoint, EndpointState]:
        """A container whose address ends with NUMBER, and which serves on ports 80 and 81. Its id is made from `ident`; if
        `ident` is not given, from NUMBER."""
        namespace = Namespace(self.stack)
        addresses = []
        for each in network.subnets:
            base, _, length = each.subnet.partition("/")
            addresses.append(Address(f"{base.removesuffix('0') if '.' in base else base}{number}/{length}", each.gateway))
        endpoint = Endpoint(
            id=f"{number:02x}" * 32,
            network=network,
            container_id=f"{ident or number:02x}" * 32,
            netns=namespace.path,
            addresses=tuple(addresses),
            ports=ports,
            **more,
        )
        state = await self.driver.attach(endpoint)
        namespace.serve(80)
        namespace.serve(81)
        return namespace, endpoint, state


def on_host(**context: Any) -> Callable[[Callable[[Host], Awaitable[None]]], Callable[[], None]]:
    def decorate(test: Callable[[Host], Awaitable[None]]) -> Callable[[], None]:
        def wrapper() -> None:
            async def main() -> None:
                with contextlib.ExitStack() as stack:
                    host = Host(stack, **context)
                    try:
                        await test(host)
                    finally:
                        await host.driver.close()

            in_own_network(main)

        wrapper.__name__ = test.__name__
        wrapper.__doc__ = test.__doc__
        return wrapper

    return decorate
