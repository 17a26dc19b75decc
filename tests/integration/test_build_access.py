"""Builds through restricted listeners: an operation that is refused to a client in other requests is refused in a build,
too."""

from __future__ import annotations

import http.server
import io
import json
import re
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import Engine, Result, UnixConnection, patience, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

LABELS = "com.example.team"
TEAM = f"{LABELS}=web"


class Listeners:
    """One engine, whose listeners have the names that tests use."""

    def __init__(self) -> None:
        self.engine = Engine()
        entries: dict[str, dict[str, Any]] = {
            "reader": {"role": "read-only"},
            "noexec": {"role": "no-exec", "image-names": ["ci/*"]},
            "web": {"role": "full", "labels": [TEAM]},
            "db": {"role": "full", "labels": [f"{LABELS}=db"], "shared-images": True},
            "any": {"role": "full", "labels": [LABELS]},
        }
        listeners = [{"host": f"unix://{self.socket(name)}", **entry} for name, entry in entries.items()]
        config = {
            "listeners": listeners,
            "audit-log": {"path": str(self.engine.home / "audit.log")},
            "builder": {"entitlements": {"security-insecure": True}},
            "features": {"buildkit": True},
        }
        self.engine.configure(config)
        self.engine.start()
        self.engine.load()
        self.engine.ok("tag", "busybox", "other:1")
        self.context = self.engine.home / "context"
        self.context.mkdir()
        made = self._labelled_base()
        assert made.code == 0, made.err

    def _labelled_base(self) -> Result:
        """An image of the team `web`, to build from: made with full rights."""
        (self.context / "Dockerfile").write_text(f"FROM busybox\nLABEL {TEAM}\n")
        return self.engine.docker("build", "-t", "base-web", str(self.context))

    def socket(self, name: str) -> str:
        return str(self.engine.home / f"{name}.sock")

    def docker(self, name: str, *argv: str) -> Result:
        env = {**self.engine.env, "DOCKER_HOST": f"unix://{self.socket(name)}"}
        done = subprocess.run(
            ["docker", *argv],
            env=env,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=patience(60),
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def build(self, name: str, text: str, *argv: str, files: Mapping[str, str] | None = None) -> Result:
        """Build with buildx."""
        for file, content in {"Dockerfile": text, **(files or {})}.items():
            (self.context / file).write_text(content)
        return self.docker(name, "buildx", "build", "--progress=plain", *argv, str(self.context))

    def classic(self, name: str, text: str, query: str = "") -> tuple[int, str]:
        """Build with `POST /build`."""
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            entry = tarfile.TarInfo("Dockerfile")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
        return self.api(name, "POST", f"/build?{query}", made.getvalue())

    def api(self, name: str, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        connection = UnixConnection(self.socket(name))
        try:
            connection.request(method, path, body, {"Content-Type": "application/x-tar"} if body else {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def labels(self, image: str) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.engine.ok("image", "inspect", "-f", "{{json .Config.Labels}}", image)) or {}
        return found

    def audit(self, **wanted: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.engine.home / "audit.log").read_text().splitlines()]
        return [line for line in lines if all(line.get(key) == value for key, value in wanted.items())]


@pytest.fixture(scope="module")
def listeners() -> Iterator[Listeners]:
    made = Listeners()
    yield made
    assert made.engine.close() == []


def is_cached(result: Result) -> bool:
    """Whether the step of the build has been taken from the cache."""
    assert result.code == 0, result.err
    (number,) = set(re.findall(r"^#(\d+) \[2/2\] RUN", result.err, re.MULTILINE))
    return f"#{number} CACHED\n" in result.err


def refused(result: Result, text: str) -> None:
    assert result.code != 0, result.err
    assert text in result.err, result.err


BASE = {"web": "base-web", "db": "busybox", "noexec": "busybox"}


def test_read_only_clients_cannot_build(listeners: Listeners) -> None:
    for path in ("/grpc", "/session", "/build", "/build/cancel?id=x", "/build/prune"):
        assert listeners.api("reader", "POST", path)[0] == 403, path


@pytest.mark.parametrize("name", ["web", "db", "noexec"])
def test_built_image_gets_the_labels_of_the_listener(listeners: Listeners, name: str) -> None:
    text = f"FROM {BASE[name]}\nRUN echo built > /made\nCOPY file /file\n"
    tag = f"ci/{name}:1"
    result = listeners.build(name, text, "-t", tag, files={"file": "of the context\n"})
    assert result.code == 0, result.err
    status, said = listeners.classic(name, f"FROM {BASE[name]}\nRUN echo classic\n", f"t=ci/{name}:2")
    assert status == 200 and "Successfully tagged" in said, said
    for image in (tag, f"ci/{name}:2"):
        assert listeners.labels(image).get(LABELS) == {"web": "web", "db": "db"}.get(name)
        ran = listeners.docker(name, "run", "--rm", "--network=none", image, "true")
        assert ran.code == 0, ran.err


def test_cached_build_steps_of_other_listeners_are_neither_shown_nor_used(listeners: Listeners) -> None:
    text = "FROM busybox\nRUN echo shared between nobody; cat /proc/sys/kernel/random/uuid > /uuid\n"
    for name in ("db", "noexec"):
        assert not is_cached(listeners.build(name, text, "-t", f"ci/{name}-uuid"))
        assert is_cached(listeners.build(name, text, "-t", f"ci/{name}-uuid"))
    listeners.engine.ok("build", "-t", "uuid", str(listeners.context))
    uuids = {
        listeners.engine.ok("run", "--rm", "--network=none", image, "cat", "/uuid")
        for image in ("ci/db-uuid", "ci/noexec-uuid", "uuid")
    }
    assert len(uuids) == 3
    everything = listeners.engine.ok("buildx", "du", "--verbose")
    assert "uuid" in everything
    seen = listeners.docker("any", "buildx", "du", "--verbose")
    assert seen.code == 0 and "uuid" not in seen.out, seen.out
    assert listeners.docker("any", "builder", "prune", "-af").code == 0
    assert is_cached(listeners.build("db", text, "-t", "ci/db-uuid"))
    total = json.loads(listeners.engine.raw("GET", "/system/df?type=build-cache")[1])["BuildCache"]
    assert len([record for record in total if "uuid" in record["Description"]]) == 3, total


def test_local_contexts_are_not_shared_between_listeners(listeners: Listeners) -> None:
    """A client may send only the changes of a context if the context was sent through the same listener before."""
    text = "FROM busybox\nCOPY . /all\n"
    for name in ("db", "noexec"):
        result = listeners.build(name, text, files={"large": "x" * 100_000})
        assert result.code == 0, result.err
        assert "transferring context: 100" in result.err, result.err


@pytest.mark.parametrize("name, image", [("web", "busybox"), ("web", "other:1"), ("any", "other:1")])
def test_base_image_outside_of_the_labels_is_refused(listeners: Listeners, name: str, image: str) -> None:
    refused(listeners.build(name, f"FROM {image}\n"), f"image docker.io/library/{image}")
    refused(listeners.build(name, f"FROM scratch\nCOPY --from={image} /bin /bin\n"), "is not allowed for role full")
    identifier = listeners.engine.ok("image", "inspect", "-f", "{{.Id}}", image)
    result = listeners.build(name, f"FROM {identifier.removeprefix('sha256:')}\n")
    assert result.code != 0, result.err
    status, said = listeners.classic(name, f"FROM {image}\n")
    assert "is not allowed for role full" in said, (status, said)


def test_base_image_from_a_registry_is_refused_without_shared_images(listeners: Listeners) -> None:
    refused(listeners.build("web", "FROM 203.0.113.1:5000/never:1\n"), "pulling or importing images is outside the labels")
    refused(listeners.build("web", f"FROM {BASE['web']}\n", "--pull"), "pulling or importing images is outside the labels")
    for name in ("db", "noexec"):
        refused(listeners.build(name, "FROM 127.0.0.1:5000/never:1\n"), "which is neither public nor a configured registry")


def test_build_that_sets_labels_outside_of_the_scope_is_refused(listeners: Listeners) -> None:
    result = listeners.build("db", f"FROM busybox\nLABEL {TEAM}\n", "-t", "ci/stolen")
    refused(result, "an image with these labels is outside the labels")
    refused(listeners.build("any", "FROM scratch\nLABEL a=b\n", "-t", "ci/none"), "an image with these labels is outside")
    assert listeners.build("any", f"FROM scratch\nLABEL {LABELS}=mine\n", "-t", "ci/any").code == 0


def test_build_cannot_move_the_name_of_an_image_of_another_team(listeners: Listeners) -> None:
    before = listeners.engine.ok("image", "inspect", "-f", "{{.Id}}", "other:1")
    for name in ("db", "noexec"):
        refused(listeners.build(name, "FROM busybox\nRUN echo evil\n", "-t", "other:1"), "moving the name other:1")
        status, said = listeners.classic(name, "FROM busybox\nRUN echo evil\n", "t=other:1")
        assert "moving the name other:1" in said, (status, said)
    refused(listeners.build("noexec", "FROM busybox\nRUN echo evil\n", "-t", "free:1"), "the name free:1 is not allowed")
    assert listeners.engine.ok("image", "inspect", "-f", "{{.Id}}", "other:1") == before


@pytest.mark.parametrize("name", ["db", "noexec"])
def test_build_step_cannot_get_host_access(listeners: Listeners, name: str) -> None:
    run = "FROM busybox\nRUN --network=host true\n"
    refused(listeners.build(name, run, "--allow", "network.host"), "granting entitlement network.host is not allowed")
    refused(listeners.build(name, run), "network.host is not allowed")
    insecure = "# syntax=docker/dockerfile:1-labs\nFROM busybox\nRUN --security=insecure true\n"
    refused(listeners.build(name, insecure, "--allow", "security.insecure"), "security.insecure is not allowed")
    refused(listeners.build(name, "FROM busybox\nRUN --device=vendor.com/x=y,required true\n"), "device vendor.com/x=y")
    refused(listeners.build(name, "FROM busybox\nRUN true\n", "--network=host"), "network.host is not allowed")
    refused(listeners.build(name, "FROM busybox\nRUN true\n", "--cgroup-parent=/mine"), "CgroupParent in a step of a build")
    refused(listeners.build(name, "FROM busybox\nRUN true\n", "--add-host=h:host-gateway"), "host-gateway")
    for query, text in {
        "networkmode=host": "NetworkMode host in a step of a build",
        "cgroupparent=/mine": "CgroupParent in a step of a build",
    }.items():
        status, said = listeners.classic(name, "FROM busybox\nRUN echo $RANDOM\n", query)
        assert text in said, (status, said)


class _Secret(http.server.BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"secret")

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def loopback() -> Iterator[str]:
    """The address of a server on loopback, which builds must not reach."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Secret)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    _Secret.asked = 0
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["web", "db", "noexec"])
def test_exports_of_images_with_the_labels_succeed(listeners: Listeners, name: str) -> None:
    text = f"FROM {BASE[name]}\nCOPY file /file\n"
    file = {"file": f"of {name}\n"}
    archive = listeners.context.parent / f"{name}.tar"
    result = listeners.build(name, text, "-o", f"type=oci,dest={archive},name=ci/{name}:3", files=file)
    assert result.code == 0, result.err
    tag = f"ci/{name}:4"
    result = listeners.build(name, text, "-t", tag, "--provenance=true", "--annotation", "a=b", "--cache-to", "type=inline")
    assert result.code == 0, result.err
    assert listeners.labels(tag).get(LABELS) == {"web": "web", "db": "db"}.get(name)
    # The manifest is that of the image with the labels
    saved = listeners.context.parent / f"{name}-saved.tar"
    assert listeners.engine.docker("save", "-o", str(saved), tag).code == 0
    with tarfile.open(saved) as opened:
        assert len(json.load(opened.extractfile("index.json"))["manifests"]) == 1  # type: ignore[arg-type]
        index = json.load(opened.extractfile("index.json"))["manifests"][0]  # type: ignore[arg-type]
    assert index["mediaType"].endswith("index.v1+json"), "with its attestation"


@pytest.mark.parametrize("name", ["db", "noexec"])
def test_pushes_and_caches_outside_of_the_labels_are_refused(listeners: Listeners, name: str) -> None:
    text = f"FROM {BASE[name]}\nRUN echo pushed\n"
    for options in (
        ["-t", f"127.0.0.1:5000/ci/{name}:1", "--push"],
        ["--cache-to", "type=registry,ref=127.0.0.1:5000/ci/c:1"],
    ):
        result = listeners.build(name, text, *options)
        assert result.code != 0, result.err
        assert "neither public nor a registry" in result.err or "is not allowed" in result.err, result.err
    refused(
        listeners.build(name, text, "-o", "type=image,name=other:1,push=true,store=false"),
        "moving the name other:1",
    )
    # A cache names layers by digests, which a client may know without having the layers
    result = listeners.build(name, text, "--cache-to", f"type=local,dest={listeners.context.parent}/cache-{name}")
    assert result.code == 0, result.err
    assert listeners.docker(name, "builder", "prune", "-af").code == 0
    result = listeners.build(name, text, "--cache-from", f"type=local,src={listeners.context.parent}/cache-{name}")
    assert result.code == 0, result.err
    assert not is_cached(result)


@pytest.mark.parametrize("name", ["db", "noexec"])
def test_build_steps_and_sources_cannot_reach_private_addresses(listeners: Listeners, name: str, loopback: str) -> None:
    denied = "which is not public, is not allowed on this listener"
    for host in (loopback, loopback.replace("127.0.0.1", "localhost"), loopback.replace("127.0.0.1", "[::ffff:127.0.0.1]")):
        refused(listeners.build(name, f"FROM busybox\nADD http://{host}/secret /secret\n"), denied)
    refused(listeners.docker(name, "buildx", "build", f"http://{loopback}/context.tar"), denied)
    status, said = listeners.classic(name, "", f"remote=http://{loopback}/context.tar")
    assert denied in said, (status, said)
    for source in (f"http://{loopback}/repo.git", "https://github.com/a/b.git"):
        refused(listeners.build(name, f"FROM busybox\nADD {source} /repo\n"), "git repositories are not allowed")
    refused(listeners.docker(name, "buildx", "build", f"http://{loopback}/repo.git"), "git repositories are not allowed")
    assert _Secret.asked == 0
    assert listeners.engine.docker("build", "-", stdin=f"FROM busybox\nADD http://{loopback}/s /s\n").code == 0
    assert _Secret.asked == 1


def test_client_cannot_cancel_builds_of_other_clients(listeners: Listeners) -> None:
    """Another client may know the id of a build."""
    started = "FROM busybox\nRUN echo started; sleep 2; echo done\n"
    result: list[Result] = []
    thread = threading.Thread(target=lambda: result.append(listeners.build("db", started, "-t", "ci/slow")))
    thread.start()
    builds = listeners.engine.data_root / "builds"
    until(lambda: builds.is_dir(), "a builder")
    for name in ("noexec", "any"):
        assert listeners.api(name, "POST", "/build/cancel?id=x")[0] == 200
    thread.join()
    assert result[0].code == 0, result[0].err


def test_audit_log_records_allowed_and_refused_builds(listeners: Listeners) -> None:
    refused(listeners.build("db", "FROM busybox\nRUN echo evil\n", "-t", "other:1"), "moving the name")
    host = f"unix://{listeners.socket('db')}"

    def reasons() -> list[str]:
        return [line["reason"] for line in listeners.audit(listener=host, event="build", decision="denied", by="role full")]

    until(lambda: [reason for reason in reasons() if reason.startswith("moving the name other:1")], "the denial")
    refused(listeners.build("any", "FROM scratch\nLABEL a=b\n", "-t", "ci/none"), "an image with these labels")
    until(lambda: listeners.audit(listener=f"unix://{listeners.socket('any')}", event="build", by="labels"), "the denial")
    assert listeners.audit(listener=host, route="/session", event="begin", decision="allowed")
    listeners.classic("db", "FROM busybox\n", "t=ci/seen:1")
    until(lambda: listeners.audit(listener=host, route="/build", event="end", outcome="complete"), "a classic build")


def test_prune_removes_the_contexts_and_cache_mounts_of_every_listener(listeners: Listeners) -> None:
    """This test prunes the cache after all tests above. The consistency check knows the builder of each object."""
    for name in ("web", "db", "noexec", "any"):
        assert listeners.docker(name, "builder", "prune", "-af").code == 0
    listeners.engine.ok("builder", "prune", "-af")
    listeners.engine.until_sound()
    for root in (listeners.engine.data_root / "build", *(listeners.engine.data_root / "builds").iterdir()):
        assert not [path for name in ("contexts", "cachemounts") for path in Path(root).glob(f"{name}/*")], root
