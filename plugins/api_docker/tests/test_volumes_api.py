"""The routes of volumes, through the router: bodies and status codes that Docker's clients expect."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from orlop_api_docker.dialect import docker_router
from orlop_api_docker.volumes import routes
from orlop_engine.restrictions import Restrictions
from orlop_engine.volumes.record import VolumeRecord
from orlop_engine.volumes.service import Volumes
from orlop_kernel.events import EventBus
from orlop_kernel.http.messages import Answer, Peer, Request, Response
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Guard
from orlop_kernel.store import Store
from orlop_sdk import Forbidden, VolumeContext
from orlop_sdk.testing.volume import FakeVolume


class _Body:
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, limit: int) -> bytes:
        return self._data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data


Ask = Callable[..., Awaitable[tuple[int, Any]]]


def serve(tmp_path: Path, test: Callable[[Ask, dict[str, list[str]]], Awaitable[None]], guard: Guard | None = None) -> None:
    """Run `test` with a function that calls the API, and with a dict that maps each volume to its containers."""

    async def main() -> None:
        driver, used = FakeVolume(VolumeContext(str(tmp_path))), dict[str, list[str]]()

        async def find(name: str, made_with: str) -> FakeVolume:
            return driver

        async def run(operation: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
            return await operation(*arguments)

        async with Store.open(str(tmp_path / "orlop.db")) as store:
            volumes = Volumes(store, EventBus(), find, lambda: used)
            engine: Any = SimpleNamespace(volumes=volumes, run=run)  # the routes use nothing else of the engine
            api = docker_router(routes(engine), guard=guard)

            async def ask(method: str, path: str, body: Any = None, **query: Any) -> tuple[int, Any]:
                data = b"" if body is None else json.dumps(body).encode()
                values = {key: [value if isinstance(value, str) else json.dumps(value)] for key, value in query.items()}
                headers = {"content-type": "application/json"} if data else {}
                answer = await api(Request(method, path, path, values, headers, _Body(data), Peer("unix")))
                assert isinstance(answer, Response)
                return answer.status, json.loads(answer.body) if answer.body else None

            await test(ask, used)

    trio.run(main)


def test_guard_can_refuse_a_create_request_for_an_existing_volume(tmp_path: Path) -> None:
    async def held_back(call: Call, proceed: Callable[[], Awaitable[Answer]]) -> Answer:
        def vet(volume: VolumeRecord, anonymous: bool) -> None:
            assert not anonymous
            if volume.labels != {"team": "web"}:
                raise Forbidden(f"{volume.name} is not yours")

        call.restrictions = Restrictions(check_volume=vet)
        return await proceed()

    async def test(ask: Ask, used: dict[str, list[str]]) -> None:
        labels = {"Labels": {"team": "web"}}
        assert (await ask("POST", "/volumes/create", {"Name": "mine", **labels}))[0] == 201
        assert (await ask("POST", "/volumes/create", {"Name": "mine"}))[0] == 201
        assert (await ask("POST", "/volumes/create", {"Name": "other"})) == (403, {"message": "other is not yours"})
        assert (await ask("POST", "/volumes/create", {"Name": "other", **labels}))[0] == 403

    serve(tmp_path, test, held_back)


def test_volume_can_be_created_and_inspected_and_listed_and_deleted(tmp_path: Path) -> None:
    async def test(ask: Ask, used: dict[str, list[str]]) -> None:
        status, made = await ask("POST", "/v1.43/volumes/create", {"Name": "data", "Labels": {}, "DriverOpts": {}})
        assert status == 201
        assert made == {
            "CreatedAt": made["CreatedAt"],
            "Driver": "local",
            "Labels": None,
            "Mountpoint": f"{tmp_path}/data/_data",
            "Name": "data",
            "Options": None,
            "Scope": "local",
        }
        assert made["CreatedAt"].endswith("Z") and "." not in made["CreatedAt"]
        assert await ask("GET", "/volumes/data") == (200, made)
        assert await ask("GET", "/volumes") == (200, {"Volumes": [made], "Warnings": None})
        assert await ask("GET", "/volumes", filters={"name": {"^x": True}}) == (200, {"Volumes": [], "Warnings": None})
        used["data"] = ["c0ffee"]
        in_use = {"message": "remove data: volume is in use - [c0ffee]"}
        assert await ask("DELETE", "/volumes/data", force="1") == (409, in_use)
        used.clear()
        assert await ask("DELETE", "/volumes/data") == (204, None)
        assert await ask("DELETE", "/volumes/data") == (404, {"message": "get data: no such volume"})
        assert await ask("DELETE", "/volumes/data", force="1") == (204, None)
        assert await ask("GET", "/volumes/data") == (404, {"message": "get data: no such volume"})

    serve(tmp_path, test)


def test_prune_keeps_named_volumes_since_api_1_42(tmp_path: Path) -> None:
    async def test(ask: Ask, used: dict[str, list[str]]) -> None:
        _, anonymous = await ask("POST", "/volumes/create", {})
        await ask("POST", "/volumes/create", {"Name": "named"})
        pruned = {"VolumesDeleted": [anonymous["Name"]], "SpaceReclaimed": 0}
        assert await ask("POST", "/v1.42/volumes/prune") == (200, pruned)
        assert await ask("POST", "/v1.42/volumes/prune") == (200, {"VolumesDeleted": [], "SpaceReclaimed": 0})
        assert await ask("POST", "/v1.41/volumes/prune") == (200, {"VolumesDeleted": ["named"], "SpaceReclaimed": 0})

    serve(tmp_path, test)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/volumes/create", {"Name": "a"}, 400, "create a: volume name is too short"),
        ("POST", "/volumes/create", {"Name": "ok", "DriverOpts": {"x": "y"}}, 400, 'create ok: invalid option: "x"'),
        ("PUT", "/volumes/data", {}, 503, "volume update only valid for cluster volumes, but swarm is unavailable"),
        ("POST", "/volumes/create", {"Name": "ok", "ClusterVolumeSpec": {}}, 503, "not a swarm manager"),
    ],
)
def test_invalid_volume_requests_are_refused(
    tmp_path: Path, method: str, path: str, body: Any, status: int, message: str
) -> None:
    async def test(ask: Ask, used: dict[str, list[str]]) -> None:
        answered, shown = await ask(method, path, body)
        assert answered == status
        assert message in shown["message"]

    serve(tmp_path, test)
