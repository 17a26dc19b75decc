"""The routes of images with a real server and the docker client, with Debian's docker-registry."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from tests.registry import Image, busybox, docker_archive, image, layer, push, running
from tests.registry.build import tar
from tests.registry.fakes import ImagesFixture, open_images
from tests.registry.hostile import Hostile, serving, stall
from tests.registry.hostile import status as failing
from tests.registry.tokens import PASSWORD, USER, with_password, with_tokens

from orlop_api_docker import images as image_routes
from orlop_api_docker.dialect import docker_router
from orlop_api_docker.responses import text_response
from orlop_engine.futures import run_to_completion
from orlop_engine.images.records import ImageUser
from orlop_kernel.http.messages import Answer
from orlop_kernel.http.server import Server
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route

BASE = layer(busybox())
APP = image([BASE, layer({"etc/motd": b"hello\n"})], config={"Cmd": ["sh"], "Labels": {"a": "b"}})
NEXT = image([BASE, layer({"etc/motd": b"bye\n"})])


class Served:
    """HTTP on a unix socket, and the docker client."""

    def __init__(self, images: ImagesFixture, socket: str) -> None:
        self.images, self.socket = images, socket
        self.client = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://d", timeout=30)

    async def call(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """The status and the JSON of the answer. A stream of JSON messages is returned as a list."""
        answer = await self.client.request(method, path, **more)
        text = answer.text.strip()
        if "\r\n" in text or text.startswith(('{"status"', '{"stream"', '{"error')):
            return answer.status_code, [json.loads(line) for line in text.splitlines()]
        return answer.status_code, json.loads(text) if text else None

    async def docker(self, *argv: str, stdin: bytes = b"", check: bool = True) -> str:
        done = await trio.run_process(
            ["docker", "-H", f"unix://{self.socket}", *argv],
            stdin=stdin,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=check,
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        )
        return str(done.stdout.decode())


@asynccontextmanager
async def serving_api(root: Path) -> AsyncIterator[Served]:
    async def ping(call: Call) -> Answer:
        return text_response("OK")

    async with open_images(str(root)) as images, trio.open_nursery() as nursery:

        async def run(operation: Callable[..., Awaitable[Any]], *args: Any) -> Any:
            return await run_to_completion(nursery, operation, *args)

        engine: Any = SimpleNamespace(images=images.images, run=run)
        api = docker_router([*image_routes.routes(engine), Route("GET", "/_ping", ping), Route("HEAD", "/_ping", ping)])
        path = str(root / "api.sock")
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(path)
        sock.listen(16)
        await nursery.start(Server(api).serve, [trio.SocketListener(sock)])
        found = Served(images, path)
        async with found.client:
            yield found
        nursery.cancel_scope.cancel()


def run(tmp_path: Path, test: Callable[[Served, str], Awaitable[None]]) -> None:
    async def main(host: str) -> None:
        with trio.fail_after(150):
            async with serving_api(tmp_path) as api:
                await test(api, host)

    with running() as registry:
        push(registry.host, "test/app", "v1", APP)
        trio.run(main, registry.host)


def test_docker_pulls_lists_and_removes_images(tmp_path: Path) -> None:
    async def check(api: Served, host: str) -> None:
        name = f"{host}/test/app:v1"
        told = await api.docker("pull", name)
        assert f"Digest: {APP.manifest.digest}" in told
        assert f"Status: Downloaded newer image for {name}\n{name}" in told
        assert "Image is up to date" in await api.docker("pull", name)
        assert (await api.docker("pull", "-q", name)).strip() == name
        await api.docker("tag", name, "mine:x")
        table = await api.docker("images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
        assert sorted(table.split()) == sorted([name, APP.id[7:19], "mine:x", APP.id[7:19]])
        shown = json.loads(await api.docker("image", "inspect", "mine:x"))[0]
        assert (shown["Id"], shown["Config"]["Labels"]) == (APP.id, {"a": "b"})
        assert "ADD layer1.tar /" in await api.docker("history", "--no-trunc", "mine:x")
        assert await api.docker("rmi", "mine:x") == "Untagged: mine:x\n"
        assert f"Deleted: {APP.id}" in await api.docker("rmi", name)
        assert api.images.is_empty()
        missing = await api.docker("pull", f"{host}/test/none", check=False)
        assert f"manifest for {host}/test/none:latest not found: manifest unknown" in missing

    run(tmp_path, check)


def test_docker_loads_and_imports_archives(tmp_path: Path) -> None:
    async def check(api: Served, host: str) -> None:
        assert "Loaded image: test/app:v1" in await api.docker("load", stdin=docker_archive({"test/app:v1": APP}))
        told = await api.docker("load", stdin=docker_archive({"test/app:v1": NEXT, "": APP}))
        assert f"The image test/app:v1 already exists, renaming the old one with ID {APP.id} to empty string" in told
        assert f"Loaded image ID: {APP.id}" in told
        layers = tar({"hi": b"there\n"})
        id = (await api.docker("import", "-m", "why", "-c", "CMD echo hi", "-", "imp:v1", stdin=layers)).strip()
        found = api.images.images.resolve("imp:v1")
        assert (found.id, found.config.cmd, found.size) == (id, ["/bin/sh", "-c", "echo hi"], 6)
        actions = [action for action, _, _ in api.images.actions()]
        assert actions == ["load", "load", "load", "tag", "import"]
        assert "Total reclaimed space" in await api.docker("image", "prune", "-a", "-f")
        assert api.images.is_empty()

    run(tmp_path, check)


SAMPLES: list[tuple[str, str, int, str]] = [
    ("GET", "/images/nope/json", 404, "No such image: nope:latest"),
    ("GET", "/images/Nope/json", 400, "invalid reference format: repository name (library/Nope) must be lowercase"),
    ("DELETE", "/images/nope", 404, "No such image: nope:latest"),
    ("POST", "/images/nope/tag?repo=a", 404, "No such image: nope:latest"),
    ("POST", "/images/app/tag?repo=sha256&tag=b", 400, "refusing to create an ambiguous tag using digest algorithm as name"),
    ("POST", "/images/app/tag?repo=foo/Foo", 400, "invalid reference format: repository name (foo/Foo) must be lowercase"),
    ("POST", "/images/app/tag?repo=foo&tag=b@d", 400, "invalid tag format"),
    ("POST", "/images/app/tag?repo=", 400, "invalid reference format"),
    ("GET", '/images/json?filters={"foo":["x"]}', 400, "invalid filter 'foo'"),
    ("GET", '/images/json?filters={"before":["x"]}', 404, "No such image: x:latest"),
    ("POST", "/images/create?fromImage=scratch&tag=x", 403, "'scratch' is a reserved name"),
    ("POST", "/images/create", 400, "invalid reference format"),
    ("POST", "/images/create?fromImage=a&tag=sha256:abc", 400, "invalid tag format"),
    (
        "POST",
        "/images/create?fromImage=a&platform=foo/bar/baz/qux",
        400,
        '"foo/bar/baz/qux": cannot parse platform specifier: invalid argument',
    ),
    (
        "POST",
        "/images/create?fromImage=127.0.0.1:1/test/app&tag=v1",
        500,
        'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused',
    ),
    ("POST", "/images/create?fromSrc=-&changes=RUN+x", 400, "RUN is not a valid change command"),
    (
        "POST",
        "/images/create?fromSrc=-&repo=Foo",
        400,
        "invalid reference format: repository name (library/Foo) must be lowercase",
    ),
    (
        "POST",
        "/images/create?fromSrc=127.0.0.1:1/x",
        500,
        'Get "http://127.0.0.1:1/x": dial tcp 127.0.0.1:1: connect: connection refused',
    ),
    ("GET", "/images/search?term=127.0.0.1:1/x", 500, "dial tcp 127.0.0.1:1: connect: connection refused"),
    ("GET", "/images/search?term=x&limit=101", 400, "limit 101 is outside the range of [1, 100]"),
    ("GET", "/images/app/history?platform={}", 400, "both OS and Architecture must be provided"),
    ("POST", "/images/app/push", 400, "bad parameters and missing X-Registry-Auth: invalid X-Registry-Auth header: EOF"),
    ("POST", "/images/UPPER/push", 400, "invalid reference format: repository name (library/UPPER) must be lowercase"),
    ("POST", "/images/a/push?tag=b@d", 400, "invalid tag format"),
    ("GET", "/distribution/scratch/json", 400, "'scratch' is a reserved name"),
    ("GET", "/distribution/a:b:c/json", 400, "invalid reference format"),
    ("GET", f"/distribution/{APP.id}/json", 500, "no manifest found for full image ID"),
]


def test_failed_image_requests_have_the_messages_of_docker(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving_api(tmp_path) as api:
            await api.call("POST", "/images/load", content=docker_archive({"app:latest": APP}))
            for method, path, status, message in SAMPLES:
                code, body = await api.call(method, path)
                assert (code, message in body["message"]) == (status, True), (path, code, body)

    trio.run(main)


@pytest.mark.parametrize(
    ("status", "code", "answered"),
    [
        (400, "NAME_INVALID", 400),
        (401, "UNAUTHORIZED", 401),
        (403, "DENIED", 403),
        (404, "MANIFEST_UNKNOWN", 404),
        (404, "NAME_UNKNOWN", 404),
        (400, "TAG_INVALID", 400),
        (405, "UNSUPPORTED", 405),
        (429, "TOOMANYREQUESTS", 429),
        (400, "UNAVAILABLE", 503),
        (400, "OTHER", 500),
    ],
)
def test_distribution_request_has_the_status_that_fits_the_error_of_the_registry(
    tmp_path: Path, status: int, code: str, answered: int
) -> None:
    """If the registry refuses `GET /distribution/NAME/json`, the status depends on the error code of the registry."""

    async def main(registry: Hostile) -> None:
        registry.add("app", "v1", APP)
        registry.misbehave("v1", *[failing(status, code, "because")] * 9)
        async with serving_api(tmp_path) as api:
            found, body = await api.call("GET", f"/distribution/{registry.host}/app:v1/json")
            assert (found, body["message"]) == (answered, f"{code.lower().replace('_', ' ')}: because")

    with serving() as registry:
        trio.run(main, registry)


def test_errors_of_docker_load_are_json_messages_in_an_answer_with_status_200(tmp_path: Path) -> None:
    lie = Image(APP.manifest, APP.config, (APP.layers[1], APP.layers[1]))
    few = Image(APP.manifest, APP.config, APP.layers[:1])
    climbing = tar({"manifest.json": b'[{"Config":"../../../etc/passwd","Layers":[]}]'})
    outside = tar({"manifest.json": b'[{"Config":"c","Layers":["l","l"]}]', "c": APP.config.data, "l": "/etc/passwd"})

    async def main() -> None:
        async with serving_api(tmp_path) as api:
            for data, message in (
                (b"no archive" * 100, "cannot read the archive"),
                (docker_archive({"a:b": APP})[:200_000], "unexpected EOF"),
                (tar({"x": b"y"}), "invalid archive: does not contain a manifest.json"),
                (tar({"manifest.json": b"{"}), "cannot read the archive"),
                (docker_archive({"a:b": lie}), "invalid diffID for layer 0"),
                (docker_archive({"a:b": few}), "layers length mismatch: expected 2, got 1"),
                (climbing, "it has no file '../../../etc/passwd'"),
                (outside, "it has no file 'l'"),
                (docker_archive({"no tag": APP}), "invalid reference format"),
            ):
                code, body = await api.call("POST", "/images/load", content=data)
                assert code == 200 and message in body[-1]["error"], body
                assert api.images.is_empty(), message

    trio.run(main)


def test_fields_of_images_depend_on_the_api_version(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving_api(tmp_path) as api:
            await api.call("POST", "/images/load", content=docker_archive({"": APP, "b:x": NEXT}))
            lists = {v: (await api.call("GET", f"/v{v}/images/json"))[1] for v in ("1.42", "1.43", "1.44", "1.51")}
            plain = {v: next(item for item in found if item["Id"] == APP.id) for v, found in lists.items()}
            assert plain["1.42"]["RepoTags"] == ["<none>:<none>"] and plain["1.43"]["RepoTags"] == []
            assert "VirtualSize" in plain["1.43"] and "VirtualSize" not in plain["1.44"]
            assert (plain["1.44"]["Containers"], plain["1.51"]["Containers"]) == (-1, 0)
            assert plain["1.51"]["SharedSize"] == -1
            content = sum(len(data) for data in busybox().values() if isinstance(data, bytes))
            shared = (await api.call("GET", "/images/json?shared-size=1"))[1]
            assert {item["SharedSize"] for item in shared} == {content}
            shown = {v: (await api.call("GET", f"/v{v}/images/b:x/json"))[1] for v in ("1.43", "1.45", "1.50", "1.51")}
            assert "ContainerConfig" in shown["1.43"] and "ContainerConfig" not in shown["1.45"]
            assert "Hostname" in shown["1.45"]["Config"] and "Hostname" not in shown["1.50"]["Config"]
            assert shown["1.51"]["Config"]["Entrypoint"] is None
            wanted = json.dumps({"os": "linux", "architecture": "s390x"})
            assert (await api.call("GET", "/v1.48/images/b:x/json", params={"platform": wanted}))[0] == 200
            assert (await api.call("GET", "/v1.49/images/b:x/json", params={"platform": wanted}))[0] == 404

    trio.run(main)


def test_images_that_containers_use_are_not_removed(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving_api(tmp_path) as api:
            await api.call("POST", "/images/load", content=docker_archive({"a:b": APP}))
            api.images.images.users = lambda: {APP.id: [ImageUser("c" * 64, True)]}
            code, body = await api.call("DELETE", f"/images/{APP.id}")
            assert code == 409 and "image is being used by running container cccccccccccc" in body["message"]
            assert await api.call("DELETE", "/images/a:b?force=1") == (200, [{"Untagged": "a:b"}])
            assert await api.call("POST", "/images/prune") == (200, {"ImagesDeleted": None, "SpaceReclaimed": 0})
            api.images.images.users = dict
            chains = [{"Deleted": chain} for chain in reversed(api.images.images.resolve(APP.id).chain_ids)]
            code, body = await api.call("POST", "/images/prune")
            assert body["ImagesDeleted"] == [{"Deleted": APP.id}, *chains]
            assert body["SpaceReclaimed"] > 2_000_000
            assert api.images.is_empty()
            assert [action for action, _, _ in api.images.actions()][-2:] == ["delete", "prune"]

    trio.run(main)


def test_credentials_of_the_client_are_sent_to_the_registry(tmp_path: Path) -> None:
    htpasswd = tmp_path / "htpasswd"
    htpasswd.write_text("me:$2y$05$" + "x" * 53 + "\n")
    header = base64.urlsafe_b64encode(json.dumps({"username": "me", "password": "wrong"}).encode()).decode()
    extra = f"auth:\n  htpasswd:\n    realm: test\n    path: {htpasswd}\n"

    async def main(host: str) -> None:
        async with serving_api(tmp_path) as api:
            path = f"/images/create?fromImage={host}/a&tag=b"
            code, body = await api.call("POST", path)
            assert (code, "no basic auth credentials" in body["message"]) == (401, True)
            code, body = await api.call("POST", path, headers={"X-Registry-Auth": header})
            assert (code, body["message"]) == (401, "unauthorized: authentication required")

    with running(extra=extra) as registry:
        trio.run(main, registry.host)


@pytest.mark.parametrize("tokens", [False, True])
def test_distribution_request_uses_only_the_credentials_that_it_contains(tmp_path: Path, tokens: bool) -> None:
    """Credentials are used only for the request that contains them: the next request without credentials is refused."""
    header = base64.urlsafe_b64encode(json.dumps({"username": USER, "password": PASSWORD}).encode()).decode()
    mine, home = {"X-Registry-Auth": header}, tmp_path / "registry"
    home.mkdir()

    async def main(host: str) -> None:
        if tokens:
            refusal = (403, "denied: requested access to the resource is denied")
        else:
            refusal = (500, f'Get "http://{host}/v2/": no basic auth credentials')
        async with serving_api(tmp_path) as api:
            name = f"{host}/private/app:v1"
            await api.call("POST", "/images/load", content=docker_archive({name: APP}))
            _, pushed = await api.call("POST", f"/images/{host}/private/app/push?tag=v1", headers=mine)
            code, found = await api.call("GET", f"/distribution/{name}/json", headers=mine)
            assert (code, found["Descriptor"]["digest"]) == (200, pushed[-1]["aux"]["Digest"])
            assert found["Platforms"] == [{"architecture": "amd64", "os": "linux"}]
            code, body = await api.call("GET", f"/distribution/{name}/json")
            assert (code, body["message"]) == refusal

    with ExitStack() as stack:
        registry = stack.enter_context(with_tokens(home))[0] if tokens else stack.enter_context(with_password(home))
        trio.run(main, registry.host)


def test_disconnected_client_cancels_its_pull(tmp_path: Path) -> None:
    async def main() -> None:
        with serving() as registry, trio.fail_after(150):
            registry.add("app", "v1", APP)
            registry.misbehave(BASE.digest, *[stall(100_000)] * 9)
            async with serving_api(tmp_path) as api:
                request = api.client.stream("POST", f"/images/create?fromImage={registry.host}/app&tag=v1")
                async with request as answer:
                    assert answer.status_code == 200
                    while not api.images.images._transfers._downloads._shared.waiting(BASE.digest):
                        await trio.testing.wait_all_tasks_blocked()
                    await answer.aclose()
                while api.images.images._transfers._downloads._shared.waiting(BASE.digest):
                    await trio.testing.wait_all_tasks_blocked()
                assert not api.images.images.all()

    trio.run(main)


@pytest.mark.parametrize("status", [200, 404])
def test_import_downloads_the_archive_of_a_url(tmp_path: Path, status: int) -> None:
    from tests.registry.hostile import replace

    async def main() -> None:
        with serving() as server:
            server.misbehave("x.tar", replace(tar({"hi": b"there"})) if status == 200 else failing(404))
            async with serving_api(tmp_path) as api:
                code, body = await api.call("POST", f"/images/create?fromSrc={server.host}/x.tar&repo=imp")
                assert code == status
                if status == 200:
                    assert body[0]["status"] == f"Downloading from http://{server.host}/x.tar"
                    assert body[-1]["status"] == api.images.images.resolve("imp").id
                else:
                    expected = f"failed to GET http://{server.host}/x.tar with status 404 Not Found"
                    assert body["message"] == expected
                    assert api.images.is_empty()

    trio.run(main)
