"""A fixture for networks: the real `Networks` on a real store, with the fake driver and a monitor that records ports."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orlop_engine.config import Config
from orlop_engine.networks.service import Networks, Plan, Sandbox
from orlop_engine.types.containers import EndpointIPAMConfig, EndpointSettings
from orlop_engine.types.networks import IPAM, CreateRequest, IPAMConfig
from orlop_kernel.store import Store
from orlop_monitor.protocol import Forward
from orlop_sdk import NetworkCapabilities, NetworkDriver, NotFound
from orlop_sdk.testing.network import FakeNetwork

NETNS = "/proc/self/ns/net"


class Recorder:
    """An event bus that keeps all events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def publish(self, kind: str, action: str, actor_id: str, attributes: dict[str, str]) -> None:
        self.events.append((kind, action, attributes.get("name", "")))


class NetworksFixture:
    """A daemon's networks, which can be stopped and started again."""

    def __init__(self, root: Path, **config: Any) -> None:
        self.root = root
        own = {"data_root": str(root), "exec_root": str(root / "run"), "bip": "10.200.0.1/24", "ip": "127.0.0.1"}
        self.config = Config(**{**own, **config})
        self.drivers = {
            "bridge": FakeNetwork(),
            "host": FakeNetwork(capabilities=NetworkCapabilities("host", False, False, predefined_only=True)),
            "null": FakeNetwork(capabilities=NetworkCapabilities("new", False, False, predefined_only=True)),
        }
        self.bridge = self.drivers["bridge"]
        self.events = Recorder()
        self.networks: Networks

    async def driver(self, name: str) -> NetworkDriver:
        if name not in self.drivers:
            raise NotFound(f'cannot find network driver "{name}"')
        return self.drivers[name]

    @contextlib.asynccontextmanager
    async def daemon(self, *living: Sandbox) -> AsyncIterator[Networks]:
        async with Store.open(str(self.root / "db")) as store:
            self.store = store
            self.networks = Networks(store, self.events, self.driver, self.config)  # type: ignore[arg-type]
            await self.networks.load()
            await self.networks.restore(living)
            yield self.networks

    async def start(self, number: int = 1, mode: str = "bridge", **options: Any) -> Sandbox:
        return await self.networks.attach(await self.plan(number, mode, **options), NETNS)

    async def plan(self, number: int = 1, mode: str = "bridge", **options: Any) -> Plan:
        plan = await self.networks.plan(
            f"{number:064x}",
            f"c{number}",
            f"h{number}",
            mode,
            options.get("endpoints", {mode: EndpointSettings()}),
            options.get("exposed", set()),
            options.get("bindings", {}),
            options.get("publish_all", False),
        )
        for sock in plan.sockets:
            sock.close()
        return plan


def address(sandbox: Sandbox, index: int = 0) -> str:
    return sandbox.endpoints[index].endpoint.addresses[0].address


def static(text: str, **more: Any) -> EndpointSettings:
    return EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address=text), **more)


def asked(*names: str) -> dict[str, EndpointSettings]:
    return {name: EndpointSettings() for name in names}


def request(name: str, subnet: str = "", **more: Any) -> CreateRequest:
    config = [IPAMConfig(subnet=subnet, **more.pop("config", {}))] if subnet else None
    return CreateRequest(name=name, ipam=IPAM(config=config), **more)


class FakeListeners:
    """A fake monitor that records the ports to serve."""

    def __init__(self) -> None:
        self.served: list[Forward] = []
        self.moved: list[dict[str, str]] = []
        self.fail: Exception | None = None

    async def serve(self, forwards: Sequence[Forward], sockets: Sequence[socket.socket]) -> None:
        if self.fail:
            raise self.fail
        assert all(each.fileno() >= 0 for each in sockets)
        self.served += forwards

    async def redirect(self, moved: Mapping[str, str]) -> None:
        if self.fail:
            raise self.fail
        self.moved.append(dict(moved))


def routes(sandbox: Sandbox) -> list[tuple[str, bool, int]]:
    return [(each.network.name, each.endpoint.default_route, len(each.endpoint.ports)) for each in sandbox.endpoints]


def members(networks: Networks, name: str) -> dict[str, str]:
    """The first address of each container on a network."""
    return {sandbox.container_id: attached.endpoint.addresses[0].address for sandbox, attached in networks.members(name)}
