"""The routes of networks, through the real router and service, with the fake driver."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from orlop_api_docker import networks as routes
from orlop_api_docker.dialect import docker_router
from orlop_engine.config import Config
from orlop_engine.networks.service import Networks
from orlop_kernel.events import EventBus
from orlop_kernel.http.messages import Response
from orlop_kernel.store import Store
from orlop_sdk import NetworkDriver, NotFound
from orlop_sdk.testing.network import FakeNetwork

Ask = Callable[..., Awaitable[tuple[int, Any]]]


class _Body:
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, limit: int) -> bytes:
        return self._data


@pytest.fixture
def serve(tmp_path: Path) -> Callable[[Callable[[Ask], Awaitable[None]]], None]:
    async def driver(name: str) -> NetworkDriver:
        if name not in ("bridge", "host", "null"):
            raise NotFound(f'cannot find network driver "{name}"')
        return fakes.setdefault(name, FakeNetwork())

    async def run(operation: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return await operation(*args)

    fakes: dict[str, FakeNetwork] = {}

    def start(body: Callable[[Ask], Awaitable[None]]) -> None:
        async def main() -> None:
            async with Store.open(str(tmp_path / "db")) as store:
                networks = Networks(store, EventBus(), driver, Config(data_root=str(tmp_path), bip="10.211.0.1/24"))
                await networks.load()
                await networks.restore([])
                api = docker_router(routes.routes(cast("Any", SimpleNamespace(networks=networks, run=run))))

                async def ask(method: str, path: str, payload: Any = None, **query: Any) -> tuple[int, Any]:
                    data = b"" if payload is None else json.dumps(payload).encode()
                    request = SimpleNamespace(
                        method=method,
                        path=path,
                        headers={"content-type": "application/json"} if data else {},
                        query={key: [json.dumps(value)] for key, value in query.items()},
                        arg=lambda name, default="": json.dumps(query[name]) if name in query else default,
                        body=_Body(data),
                    )
                    answer = await api(cast("Any", request))
                    assert isinstance(answer, Response)
                    return answer.status, json.loads(answer.body) if answer.body else None

                await body(ask)

        trio.run(main)

    return start


def test_network_can_be_created_and_inspected_and_listed_and_removed(
    serve: Callable[[Callable[[Ask], Awaitable[None]]], None],
) -> None:
    async def body(ask: Ask) -> None:
        status, created = await ask("POST", "/v1.43/networks/create", {"Name": "mine", "CheckDuplicate": True, "Unknown": 1})
        assert status == 201 and len(created["Id"]) == 64 and created["Warning"] == ""
        status, view = await ask("GET", "/networks/mine")
        assert status == 200 and view["Id"] == created["Id"] and view["Driver"] == "bridge"
        assert view["IPAM"]["Driver"] == "default" and view["Containers"] == {} and view["EnableIPv6"] is False
        status, listed = await ask("GET", "/networks", filters={"type": {"custom": True}})
        assert [item["Name"] for item in listed] == ["mine"]
        assert (await ask("DELETE", "/networks/mine")) == (204, None)
        assert (await ask("GET", "/networks/mine")) == (404, {"message": "network mine not found"})

    serve(body)


@pytest.mark.parametrize(("version", "containers"), [("/v1.27", {}), ("/v1.28", {}), ("/v1.51", {}), ("/v1.52", None)])
def test_network_list_contains_no_containers_since_api_1_52(
    serve: Callable[[Callable[[Ask], Awaitable[None]]], None], version: str, containers: dict[str, Any] | None
) -> None:
    async def body(ask: Ask) -> None:
        status, listed = await ask("GET", f"{version}/networks")
        assert status == 200 and [item.get("Containers") for item in listed] == [containers] * 3
        assert (await ask("GET", f"{version}/networks/bridge"))[1]["Containers"] == {}

    serve(body)


def test_invalid_network_requests_are_refused(serve: Callable[[Callable[[Ask], Awaitable[None]]], None]) -> None:
    async def body(ask: Ask) -> None:
        await ask("POST", "/networks/create", {"Name": "mine"})
        for payload, status in (
            ({"Name": "mine"}, 409),
            ({"Name": ""}, 400),
            ({"Name": "host"}, 403),
            ({"Name": "x", "Driver": "nope"}, 404),
            ({"Name": "x", "IPAM": {"Config": [{"Subnet": "10.211.0.0/24"}]}}, 403),
        ):
            assert (await ask("POST", "/networks/create", payload))[0] == status
        assert (await ask("DELETE", "/networks/bridge"))[0] == 403
        assert (await ask("GET", "/networks", filters={"nope": {"x": True}}))[0] == 400

    serve(body)


def test_prune_answer_contains_the_deleted_networks(serve: Callable[[Callable[[Ask], Awaitable[None]]], None]) -> None:
    async def body(ask: Ask) -> None:
        await ask("POST", "/networks/create", {"Name": "mine"})
        assert (await ask("POST", "/networks/prune")) == (200, {"NetworksDeleted": ["mine"]})
        assert (await ask("POST", "/networks/prune")) == (200, {"NetworksDeleted": None})

    serve(body)


def test_network_status_contains_the_numbers_of_used_and_available_addresses_since_api_1_52(
    serve: Callable[[Callable[[Ask], Awaitable[None]]], None],
) -> None:
    async def body(ask: Ask) -> None:
        ranges = [{"Subnet": "10.212.0.0/24", "IPRange": "10.212.0.128/25"}, {"Subnet": "fd12::/48"}]
        await ask("POST", "/networks/create", {"Name": "mine", "EnableIPv6": True, "IPAM": {"Config": ranges}})
        assert "Status" not in (await ask("GET", "/v1.51/networks/mine"))[1]
        _, view = await ask("GET", "/v1.52/networks/mine")
        status = view["Status"]["IPAM"]["Subnets"]
        # In use are the network, the broadcast and the gateway address
        assert status["10.212.0.0/24"] == {"IPsInUse": 3, "DynamicIPsAvailable": 127}
        assert status["fd12::/48"] == {"IPsInUse": 2, "DynamicIPsAvailable": (1 << 64) - 1}

    serve(body)
