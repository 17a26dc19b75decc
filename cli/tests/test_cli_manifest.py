"""`manifest`: what orlop checks in answers of registries, and the layouts of JSON text."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orlop_cli.manifests.layout import compact, indent
from orlop_cli.manifests.registry import MAX_SIZE, is_loopback

pytestmark = pytest.mark.usefixtures("clean")

CONFIG = json.dumps({"architecture": "amd64", "os": "linux"}).encode()
MEDIA = "application/vnd.oci.image.manifest.v1+json"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


MANIFEST = json.dumps({"schemaVersion": 2, "config": {"digest": digest(CONFIG)}, "layers": []}).encode()
Answer = tuple[int, dict[str, str], bytes]


class FakeRegistry:
    """`answers` maps "METHOD path" to the answer; other requests get 404. `seen`: path and Authorization of each request."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {
            "GET /v2/": (200, {}, b"{}"),
            "GET /v2/app/manifests/1": (200, {"Content-Type": MEDIA}, MANIFEST),
            f"GET /v2/app/blobs/{digest(CONFIG)}": (200, {}, CONFIG),
        }
        self.seen: list[tuple[str, str]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                fake.seen.append((path, self.headers.get("Authorization", "")))
                status, headers, body = fake.answers.get(f"{self.command} {path}", (404, {}, b""))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(body)
                except ConnectionError:
                    pass  # the client has read enough

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    fake = FakeRegistry()
    thread = threading.Thread(target=fake.server.serve_forever, args=(0.01,))
    thread.start()
    yield fake
    fake.server.shutdown()
    thread.join()
    fake.server.server_close()


@pytest.fixture
def inspect(orlop: Any, registry: FakeRegistry) -> Callable[[str], Any]:
    return lambda name: orlop("manifest", "inspect", "--insecure", f"{registry.host}/{name}")


def test_a_manifest_is_shown(inspect: Callable[[str], Any]) -> None:
    done = inspect("app:1")
    assert (done.code, json.loads(done.out)) == (0, json.loads(MANIFEST))


def test_manifest_whose_digest_differs_from_the_requested_digest_is_refused(
    inspect: Callable[[str], Any], registry: FakeRegistry
) -> None:
    wanted = digest(b"other")
    registry.answers[f"GET /v2/app/manifests/{wanted}"] = registry.answers["GET /v2/app/manifests/1"]
    assert f"manifest verification failed for digest {wanted}" in inspect(f"app@{wanted}").err


def test_manifest_list_whose_digest_differs_from_the_requested_digest_is_refused(
    inspect: Callable[[str], Any], registry: FakeRegistry
) -> None:
    wanted, headers = digest(b"other"), {"Content-Type": "application/vnd.oci.image.index.v1+json"}
    registry.answers[f"GET /v2/app/manifests/{wanted}"] = (200, headers, b'{"manifests": []}')
    assert f"manifest verification failed for digest {wanted}" in inspect(f"app@{wanted}").err


def test_image_configuration_whose_digest_differs_from_the_manifest_is_refused(
    inspect: Callable[[str], Any], registry: FakeRegistry
) -> None:
    registry.answers[f"GET /v2/app/blobs/{digest(CONFIG)}"] = (200, {}, CONFIG + b" ")
    assert f"image config verification failed for digest {digest(CONFIG)}" in inspect("app:1").err


def test_registry_answer_that_is_too_long_is_refused(inspect: Callable[[str], Any], registry: FakeRegistry) -> None:
    registry.answers["GET /v2/app/manifests/1"] = (200, {"Content-Type": MEDIA}, b" " * (MAX_SIZE + 1))
    assert "is longer than 4 MiB" in inspect("app:1").err


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"config": 1}', b"\xff", b"[" * 100000])
def test_registry_answer_that_is_no_manifest_is_refused(
    inspect: Callable[[str], Any], registry: FakeRegistry, body: bytes
) -> None:
    registry.answers["GET /v2/app/manifests/1"] = (200, {"Content-Type": MEDIA}, body)
    done = inspect("app:1")
    assert (done.code, done.err) == (1, f"orlop: {registry.host}/app:1 is not a manifest\n")


@pytest.mark.parametrize("path", ["/v2/", "/v2/app/manifests/1"])
def test_registry_answer_that_is_not_http_is_an_error(
    inspect: Callable[[str], Any], registry: FakeRegistry, path: str
) -> None:
    registry.answers[f"GET {path}"] = (200, {"Transfer-Encoding": "chunked"}, b"no chunk\r\n")
    done = inspect("app:1")
    assert done.code == 1 and "invalid http: incompleteread" in done.err


def test_token_service_address_with_an_invalid_port_is_an_error(
    inspect: Callable[[str], Any], registry: FakeRegistry
) -> None:
    registry.answers["GET /v2/"] = (401, {"WWW-Authenticate": 'Bearer realm="http://localhost:port/"'}, b"")
    done = inspect("app:1")
    assert done.code == 1 and "cannot get a token from http://localhost:port/: invalid http: " in done.err


def test_password_is_not_sent_to_the_target_of_a_redirect(
    inspect: Callable[[str], Any], registry: FakeRegistry, tmp_path: Path
) -> None:
    auth = base64.b64encode(b"me:secret").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
    registry.answers["GET /v2/"] = (401, {"WWW-Authenticate": 'Basic realm="x"'}, b"")
    elsewhere = f"http://localhost:{registry.server.server_address[1]}/storage"
    registry.answers[f"GET /v2/app/blobs/{digest(CONFIG)}"] = (307, {"Location": elsewhere}, b"")
    registry.answers["GET /storage"] = (200, {}, CONFIG)
    assert inspect("app:1").code == 0
    assert registry.seen[-2:] == [(f"/v2/app/blobs/{digest(CONFIG)}", f"Basic {auth}"), ("/storage", "")]


@pytest.mark.parametrize("realm", ["", "file:///etc/passwd", "ftp://127.0.0.1/token"])
def test_address_of_a_token_service_must_be_an_http_or_https_url(
    inspect: Callable[[str], Any], registry: FakeRegistry, realm: str
) -> None:
    """The address of a token service must be an HTTP or HTTPS URL."""
    registry.answers["GET /v2/"] = (401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}, b"")
    assert f"names a token service without TLS: {realm!r}" in inspect("app:1").err


@pytest.mark.parametrize("body", [b"{}", b"[]", b"no"])
def test_token_service_answer_without_a_token_is_refused(
    inspect: Callable[[str], Any], registry: FakeRegistry, body: bytes
) -> None:
    realm = f"http://{registry.host}/token"
    registry.answers["GET /v2/"] = (401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}, b"")
    registry.answers["GET /token"] = (200, {}, body)
    assert "contains no token" in inspect("app:1").err


def test_error_about_an_invalid_manifest_file_contains_its_path(orlop: Any, tmp_path: Path) -> None:
    path = tmp_path / "manifests/reg.example_app-1/reg.example_app-2"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    done = orlop("manifest", "push", "reg.example/app:1")
    assert done.code == 1 and done.err.startswith(f"orlop: cannot read {path}: not a manifest of an image")


def test_a_manifest_without_layers_is_not_pushed_to_another_repository(orlop: Any, registry: FakeRegistry) -> None:
    registry.answers["GET /v2/app/manifests/1"] = (200, {"Content-Type": MEDIA}, MANIFEST.replace(b"layers", b"others"))
    target = f"{registry.host}/list:1"
    assert orlop("manifest", "create", "--insecure", target, f"{registry.host}/app:1").code == 0
    done = orlop("manifest", "push", target)
    assert done.err == f"orlop: the manifest of {registry.host}/app:1 does not name its configuration and layers\n"


def test_manifest_files_of_older_docker_clients_are_read(orlop: Any, tmp_path: Path) -> None:
    path = tmp_path / "manifests/reg.example_app-1/reg.example_app-2"
    path.parent.mkdir(parents=True)
    descriptor = {"mediaType": MEDIA, "digest": digest(MANIFEST), "size": 1, "platform": {"architecture": "a", "os": "b"}}
    path.write_text(json.dumps({"Ref": "reg.example/app:2", "Descriptor": descriptor, "OCIManifest": json.loads(MANIFEST)}))
    done = orlop("manifest", "inspect", "reg.example/app:1", "reg.example/app:2")
    assert json.loads(done.out) == json.loads(MANIFEST)


def test_reformatted_json_keeps_the_spelling_of_strings_and_numbers() -> None:
    text = '{ "a\\u003c\\"": [ ], "b" : { }, "c": [1.50, {"d": "<é ,:[ "}] }'
    assert compact(text) == '{"a\\u003c\\"":[],"b":{},"c":[1.50,{"d":"\\u003cé ,:[ "}]}'
    lines = '{\n  "a\\u003c\\"": [],\n  "b": {},\n  "c": [\n    1.50,\n    {\n      "d": "<é ,:[ "\n    }\n  ]\n}'
    assert indent(text, "  ") == lines


@pytest.mark.parametrize(
    ("domain", "expected"),
    [("127.3.2.1:5000", True), ("localhost", True), ("[::1]:80", True), ("10.0.0.1", False), ("localhost.example", False)],
)
def test_registries_on_this_machine_are_recognized(domain: str, expected: bool) -> None:
    assert is_loopback(domain) is expected
