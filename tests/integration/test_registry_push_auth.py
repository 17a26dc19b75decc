"""Credentials and tokens of a push."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.integration.push_fixture import error_of, pushed, run
from tests.registry.fakes import ImagesFixture
from tests.registry.receiving import Receiving, receiving, refuse

from orlop_engine.images.connector import Access
from orlop_engine.images.references import parse
from orlop_engine.images.registry_auth import Credentials


def test_push_requests_tokens_whose_scope_covers_the_repositories_involved(tmp_path: Path) -> None:
    """For a cross-repository mount, the token may read the source repository. Identity tokens are exchanged for tokens."""

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        await pushed(images, registry)
        await images.images.tag(f"{registry.host}/app:v1", f"{registry.host}/two", "v1")
        realm = f'Bearer realm="http://{registry.host}/token",service="s"'

        def challenge(handler: Any) -> None:
            if handler.headers.get("Authorization") != "Bearer t0ken":
                handler.body()
                handler.fail(401, "UNAUTHORIZED", "", {"WWW-Authenticate": realm})
            else:
                registry.honest(handler)

        for method in ("HEAD", "POST", "PATCH", "PUT", "DELETE"):
            registry.script(method, *[challenge] * 99, path="/v2/")
        registry.ping = lambda handler, _: handler.fail(401, "UNAUTHORIZED", "", {"WWW-Authenticate": realm})
        registry.script("GET", *[lambda handler: handler.send(200, b'{"token":"t0ken"}')] * 9, path="/token")
        registry.requests.clear()
        assert not error_of(await pushed(images, registry, "two:v1", credentials=Credentials("me", "secret")))
        tokens = [path for path in registry.asked("GET") if "/token" in path]
        assert any("scope=repository%3Atwo%3Apull%2Cpush&service=s" in path for path in tokens)
        assert any("scope=repository%3Aapp%3Apull" in path for path in tokens)
        proofs = {h.get("authorization", "")[:6] for _, path, h in registry.requests if "/token" in path}
        assert proofs == {"Basic "}
        assert all("Basic" not in h.get("authorization", "") for _, path, h in registry.requests if "/token" not in path)

    run(tmp_path, check)


def test_push_fails_if_the_registry_accepts_no_token(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        realm = f'Bearer realm="http://{registry.host}/token",service="s"'
        no = refuse(401, "UNAUTHORIZED", "again", WWW_Authenticate=realm)
        registry.script("HEAD", *[no] * 99)
        registry.script("POST", *[no] * 99)
        registry.script("GET", *[lambda handler: handler.send(200, b'{"token":"t0ken"}')] * 99, path="/token")
        assert "unauthorized" in error_of(await pushed(images, registry))
        assert len(registry.requests) < 20

    run(tmp_path, check)


def test_push_without_credentials_fails_with_dockers_message(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        basic = {"WWW-Authenticate": 'Basic realm="r"'}
        registry.ping = lambda handler, _: handler.fail(401, "UNAUTHORIZED", "", basic)
        assert error_of(await pushed(images, registry)) == "no basic auth credentials"

    run(tmp_path, check)


@pytest.mark.parametrize("leads", ["location", "redirect"])
def test_push_sends_no_credentials_to_the_host_of_an_upload_location(tmp_path: Path, leads: str) -> None:
    """If the registry names an upload location on another host, that host gets the content, but no credentials."""

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        basic = {"WWW-Authenticate": 'Basic realm="r"'}
        registry.ping = lambda handler, _: handler.fail(401, "UNAUTHORIZED", "", basic)
        with receiving() as elsewhere:
            elsewhere.uploads |= {str(number): _upload() for number in range(10)}
            numbers = iter(range(10))

            def lead(handler: Any) -> None:
                handler.body()
                where = {"Location": f"http://{elsewhere.host}/v2/app/blobs/uploads/{next(numbers)}"}
                handler.send(202 if leads == "location" else 307, b"", where)

            registry.script("POST" if leads == "location" else "PATCH", *[lead] * 9)
            await pushed(images, registry, credentials=Credentials("me", "secret"))
            assert elsewhere.requests and not any("authorization" in headers for _, _, headers in elsewhere.requests)
            assert any("authorization" in headers for _, _, headers in registry.requests)

    run(tmp_path, check)


def _upload() -> Any:
    from tests.registry.receiving import Upload

    return Upload("app")


def test_repr_of_a_registry_access_contains_no_secrets() -> None:
    shown = repr(Access(parse("a/b"), Credentials("me", "s3cret", "s3cret", "s3cret")))
    assert "s3cret" not in shown
