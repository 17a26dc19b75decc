"""The driver, which brings loopback up in the new namespace, on a worker thread."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Sequence

import trio

from orlop_sdk import DriverError, Endpoint, EndpointState, NetworkCapabilities, NetworkContext, NetworkSpec, linux

__all__ = ["NoneDriver"]

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def _loopback_up(netns: str) -> None:
    """Bring loopback up. The calling thread enters the namespace and leaves it again (see `linux.in_network_namespace`)."""
    fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with (
            linux.in_network_namespace(fd),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            request = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
            (flags,) = struct.unpack_from("H", request, 16)
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))
    finally:
        os.close(fd)


class NoneDriver:
    """Implements `NetworkDriver`. It makes no objects, because loopback is a part of the namespace."""

    def __init__(self, context: NetworkContext) -> None:
        pass

    @property
    def capabilities(self) -> NetworkCapabilities:
        return NetworkCapabilities(addresses=False, publishes=False, predefined_only=True)

    async def create_network(self, network: NetworkSpec) -> None:
        pass

    async def delete_network(self, network: NetworkSpec) -> None:
        pass

    async def attach(self, endpoint: Endpoint) -> EndpointState:
        try:
            await trio.to_thread.run_sync(_loopback_up, endpoint.netns)
        except OSError as error:
            raise DriverError(
                f"cannot bring up loopback of container {endpoint.container_id[:12]}: {error.strerror}"
            ) from error
        return EndpointState()

    async def update(self, endpoint: Endpoint, state: EndpointState) -> None:
        pass

    async def detach(self, endpoint: Endpoint, state: EndpointState) -> None:
        pass

    async def restore(self, networks: Sequence[NetworkSpec], endpoints: Sequence[tuple[Endpoint, EndpointState]]) -> None:
        pass

    async def close(self) -> None:
        pass
