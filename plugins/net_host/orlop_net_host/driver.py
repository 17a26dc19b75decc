"""The driver. Its methods do nothing, because the container is in the host's network namespace."""

from __future__ import annotations

from collections.abc import Sequence

from orlop_sdk import Endpoint, EndpointState, NetworkCapabilities, NetworkContext, NetworkSpec

__all__ = ["HostDriver"]


class HostDriver:
    """Implements `NetworkDriver`. It makes and changes no objects."""

    def __init__(self, context: NetworkContext) -> None:
        pass

    @property
    def capabilities(self) -> NetworkCapabilities:
        return NetworkCapabilities(sandbox="host", addresses=False, publishes=False, predefined_only=True)

    async def create_network(self, network: NetworkSpec) -> None:
        pass

    async def delete_network(self, network: NetworkSpec) -> None:
        pass

    async def attach(self, endpoint: Endpoint) -> EndpointState:
        return EndpointState()

    async def update(self, endpoint: Endpoint, state: EndpointState) -> None:
        pass

    async def detach(self, endpoint: Endpoint, state: EndpointState) -> None:
        pass

    async def restore(self, networks: Sequence[NetworkSpec], endpoints: Sequence[tuple[Endpoint, EndpointState]]) -> None:
        pass

    async def close(self) -> None:
        pass
