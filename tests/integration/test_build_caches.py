"""Caches of builds in registries, in directories of clients, and in images (`--cache-to`, `--cache-from`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.engine import Engine
from tests.integration.parity import Side
from tests.integration.test_build_clients import Client, Clients
from tests.integration.test_build_outputs import client, raw, registry
from tests.registry.server import Registry

__all__ = ["client", "registry"]  # fixtures

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

# Each run of the step has another result
UUID = "cat /proc/sys/kernel/random/uuid"
STAGES = f"""FROM busybox AS build
RUN {UUID} > /out
FROM busybox
RUN {UUID} > /made
COPY file /copied
COPY --from=build /out /from-build
"""


@pytest.fixture(autouse=True)
def _stages(client: Client) -> None:
    (client.directory / "Dockerfile").write_text(STAGES)


def layers_in(store: Path) -> set[str]:
    """The digests of the layers of a cache in a directory."""
    (entry,) = json.loads((store / "index.json").read_text())["manifests"]
    manifest = json.loads((store / "blobs" / entry["digest"].replace(":", "/")).read_text())
    return {each["digest"] for each in manifest["manifests"][:-1]}


def built(client: Client, *options: str, forget: bool = True) -> tuple[str, str]:
    """Build after removing the daemon's cache. Returns the files that the steps have made, and the output."""
    if forget:
        client.run("image", "rm", "-f", "tb-cached")
        client.ok("builder", "prune", "-af")
    result = client.build("-t", "tb-cached", *options, ".")
    assert result.code == 0, result.err
    return client.ok("run", "--rm", "--network=none", "tb-cached", "cat", "/made", "/from-build").out, result.err


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("options", ["", ",image-manifest=true", ",oci-mediatypes=false", ",compression=zstd"])
def test_exported_cache_in_a_registry_is_imported(client: Client, registry: Registry, mode: str, options: str) -> None:
    name = f"{registry.host}/tb/cache:{mode}"
    first, shown = built(client, "--cache-to", f"type=registry,ref={name},mode={mode}{options}")
    assert "exporting cache to registry" in shown
    manifest = raw(client, name)
    entries = manifest.get("manifests") or [*manifest["layers"], manifest["config"]]
    assert entries[-1]["mediaType"] == "application/vnd.buildkit.cacheconfig.v0"
    assert len(entries) == {"min": 5, "max": 6}[mode]
    again, shown = built(client, "--cache-from", f"type=registry,ref={name}")
    assert again == first
    assert shown.count("CACHED") >= 4
    # The step above a change is found in the cache, and so is an unchanged stage
    (client.directory / "file").write_text("changed\n")
    changed, shown = built(client, "--cache-from", name)
    assert changed.splitlines()[0] == first.splitlines()[0]
    assert (changed.splitlines()[1] == first.splitlines()[1]) == (mode == "max")
    assert built(client)[0] != first


@pytest.mark.parametrize("mode", ["min", "max"])
def test_exported_cache_in_a_directory_is_imported(client: Client, mode: str) -> None:
    first, _ = built(client, "--cache-to", f"type=local,dest=cache,mode={mode}")
    again, shown = built(client, "--cache-from", "type=local,src=cache")
    assert again == first
    assert "importing cache manifest from cache" in shown
    # An imported cache can be exported again, with its complete content
    again, _ = built(client, "--cache-from", "type=local,src=cache", "--cache-to", f"type=local,dest=second,mode={mode}")
    assert again == first
    assert layers_in(client.directory / "cache") == layers_in(client.directory / "second")
    # Equal steps are found in the daemon's own cache, and are unchanged
    here, _ = built(client, "--cache-from", "type=local,src=cache", forget=False)
    assert here == first


def test_inline_cache_of_an_image_is_imported(client: Client, registry: Registry) -> None:
    name = f"{registry.host}/tb/inline:1"
    first, _ = built(client, "--cache-to", "type=inline", "-t", name, "--provenance=false")
    client.ok("push", "-q", name)
    client.ok("image", "rm", name)
    again, shown = built(client, "--cache-from", name)
    assert again == first
    assert shown.count("CACHED") >= 4
    # The image is complete, so it can be pushed again
    client.ok("tag", "tb-cached", f"{registry.host}/tb/inline:2")
    client.ok("push", "-q", f"{registry.host}/tb/inline:2")
    client.ok("save", "-o", "out.tar", "tb-cached")


def test_option_no_cache_disables_an_imported_cache(client: Client, registry: Registry) -> None:
    name = f"{registry.host}/tb/cache:1"
    first, _ = built(client, "--cache-to", f"type=registry,ref={name},mode=max")
    again, _ = built(client, "--no-cache", "--cache-from", name)
    assert not set(again.split()) & set(first.split())
    other, _ = built(client, "--no-cache-filter", "build", "--cache-from", name)
    assert other.split()[0] == first.split()[0]
    assert other.split()[1] != first.split()[1]


def test_unreadable_cache_does_not_fail_the_build(client: Client, registry: Registry) -> None:
    result = client.build("--cache-from", f"{registry.host}/tb/none:1", "--cache-from", "type=local,src=none", ".")
    assert result.code == 0
    assert "importing cache manifest from" in result.err
    assert "ERROR" in result.err
    refused = client.build("--cache-to", f"type=registry,ref={registry.host}1/x:1", ".")
    assert refused.code != 0
    ignored = client.build("--cache-to", f"type=registry,ref={registry.host}1/x:1,ignore-error=true", ".")
    assert ignored.code == 0


def test_cache_without_its_layers_is_not_used(client: Client) -> None:
    first, _ = built(client, "--cache-to", "type=local,dest=cache,mode=max")
    for path in (client.directory / "cache" / "blobs" / "sha256").iterdir():
        if path.read_bytes()[:2] == b"\x1f\x8b":
            path.unlink()
    again, _ = built(client, "--cache-from", "type=local,src=cache")
    assert not set(again.split()) & set(first.split())


def test_damaged_layers_of_a_cache_are_not_used(client: Client) -> None:
    first, _ = built(client, "--cache-to", "type=local,dest=cache,mode=max")
    for path in (client.directory / "cache" / "blobs" / "sha256").iterdir():
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            path.chmod(0o644)
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    again, _ = built(client, "--cache-from", "type=local,src=cache")
    assert not set(again.split()) & set(first.split())


def test_bake_and_compose_export_and_import_caches(client: Client, registry: Registry) -> None:
    name = f"{registry.host}/tb/bake:1"
    (client.directory / "docker-bake.json").write_text(
        json.dumps({"target": {"default": {"tags": ["tb-cached"], "cache-to": [f"type=registry,ref={name},mode=max"]}}})
    )
    client.ok("builder", "prune", "-af")
    client.ok("buildx", "bake")
    first = client.ok("run", "--rm", "--network=none", "tb-cached", "cat", "/made", "/from-build").out
    (client.directory / "compose.yaml").write_text(
        f"services:\n  web:\n    image: tb-cached\n    build:\n      context: .\n      cache_from: ['{name}']\n"
    )
    client.ok("builder", "prune", "-af")
    client.ok("compose", "build")
    assert client.ok("run", "--rm", "--network=none", "tb-cached", "cat", "/made", "/from-build").out == first


@pytest.fixture
def both(client: Client, sides: tuple[Side, Side], tmp_path: Path) -> Iterator[Clients]:
    theirs = Client(sides[0], client.env, tmp_path / "theirs")
    theirs.directory.mkdir()
    found = Clients(theirs, client)
    found.write("Dockerfile", STAGES)
    found.write("file", "from the context\n")
    yield found
    theirs.run("image", "rm", "-f", *(theirs.run("images", "-q", "--filter", "reference=tb-*").out.split() or ["none"]))


def test_inline_caches_can_be_exchanged_between_dockerd_and_orlop(both: Clients, registry: Registry, shared: Engine) -> None:
    """Each engine reads the cache of the other without an error, and Orlop finds all steps."""
    for maker, reader in (both, both[::-1]):
        name = f"{registry.host}/tb/{maker.name}:1"
        maker.ok("build", "--build-arg", "BUILDKIT_INLINE_CACHE=1", "--provenance=false", "-t", name, ".")
        maker.ok("push", "-q", name)
        maker.ok("image", "rm", "-f", name)
        result = reader.build("-t", "tb-other", "--cache-from", name, ".")
        assert result.code == 0, result.err
        assert f"importing cache manifest from {name}" in result.err
        assert "ERROR" not in result.err
        found = re.findall(r"^#(\d+) \[\S+ +\S+\] (RUN|COPY) .*\n(?:#\1 .*\n)*?#\1 CACHED", result.err, re.MULTILINE)
        assert reader is both.dockerd or len(found) == 4, result.err
        # The engine finds the steps that it has cached itself
        again = maker.build("-t", "tb-own", "--cache-from", name, ".")
        assert again.code == 0
        assert again.err.count("CACHED") >= 3


def test_classic_builds_and_docker_py_import_inline_caches(client: Client, registry: Registry, shared: Engine) -> None:
    name = f"{registry.host}/tb/classic:1"
    first, _ = built(client, "--cache-to", "type=inline", "-t", name, "--provenance=false")
    client.ok("push", "-q", name)
    client.ok("image", "rm", "-f", name, "tb-cached")
    client.ok("builder", "prune", "-af")
    image, _ = shared.sdk.images.build(path=str(client.directory), tag="tb-cached", cache_from=[name])
    assert client.ok("run", "--rm", "--network=none", image.id, "cat", "/made", "/from-build").out == first
    client.ok("builder", "prune", "-af")
    client.ok("image", "rm", "-f", "tb-cached")
    client.env["DOCKER_BUILDKIT"] = "0"
    client.ok("build", "-t", "tb-cached", "--cache-from", name, ".")
    assert client.ok("run", "--rm", "--network=none", "tb-cached", "cat", "/made", "/from-build").out == first
