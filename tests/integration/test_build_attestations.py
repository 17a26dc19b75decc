"""Attestations of builds, beside a dockerd with the containerd image store: only with this store does dockerd make them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration.building.clients import Client, Clients
from tests.integration.docker_root import Dockerd
from tests.integration.engine import Engine, archive
from tests.integration.parity import Side
from tests.integration.test_build_outputs import document, member
from tests.registry import busybox, docker_archive, image, layer

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

METADATA = "https://mobyproject.org/buildkit@v1#metadata"
OTHER = "tb-other:1"


@pytest.fixture(scope="module")
def clients(shared: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """The client with dockerd and with orlopd, and two images in both."""
    home = tmp_path_factory.mktemp("att")
    dockerd = Dockerd(home, containerd=True)
    try:
        dockerd.start()
        made = []
        for name, socket in (("dockerd", dockerd.socket), ("orlopd", shared.socket)):
            (home / name).mkdir()
            client = Client(Side(name, socket, home, ""), shared.env, home / name)
            client.env.pop("BUILDX_NO_DEFAULT_ATTESTATIONS", None)
            other = docker_archive({OTHER: image([layer(busybox()), layer({"given": b"x"})])})
            for data in (archive(), other):
                client.ok("load", "-q", stdin=data)
            made.append(client)
        yield Clients(*made)
        made[1].ok("builder", "prune", "-af")
        made[1].run("image", "rm", "-f", OTHER)
    finally:
        dockerd.close()


def attested(client: Client, *options: str) -> tuple[list[str], list[Any]]:
    """Build an archive. Returns the digests of its image's layers, and the predicates about the image."""
    result = client.build(*options, "-o", "type=oci,dest=out.tar", ".")
    assert result.code == 0, f"{client.name}: {result.err}"
    with tarfile.open(client.directory / "out.tar") as opened:
        (root,) = json.loads(member(opened, "index.json"))["manifests"]
        made, about = (document(opened, each["digest"]) for each in document(opened, root["digest"])["manifests"])
        predicates = [document(opened, each["digest"])["predicate"] for each in about["layers"]]
    return [each["digest"] for each in made["layers"]], predicates


def shown_steps(client: Client) -> tuple[dict[str, list[list[Any]]], dict[str, Any]]:
    """By step and output: the positions in the image of the chains of layers. By step: its form."""
    image_layers, (predicate,) = attested(client, "--provenance=mode=max")
    steps = {each["id"]: each["op"] for each in predicate["buildConfig"]["llbDefinition"]}
    assert list(steps) == [f"step{number}" for number in range(len(steps))]
    shown: dict[str, list[list[Any]]] = {}
    for name, chains in predicate["metadata"][METADATA]["layers"].items():
        step, _, output = name.partition(":")
        assert all(each.keys() == {"mediaType", "digest", "size"} and each["size"] > 0 for chain in chains for each in chain)
        shown[f"{_named(steps[step])} {output}"] = [
            [image_layers.index(each["digest"]) if each["digest"] in image_layers else "" for each in chain]
            for chain in chains
        ]
    return shown, {_named(op): _form(op) for op in steps.values()}


def _form(value: Any) -> Any:
    """A value with types in place of strings and numbers."""
    if isinstance(value, dict):
        return {name: _form(each) for name, each in value.items()}
    return list(map(_form, value)) if isinstance(value, list) else type(value)


def _named(step: dict[str, Any]) -> str:
    """The part of a step that the Dockerfile determines."""
    op = step["Op"] or {}
    if "exec" in op:
        return str(op["exec"]["meta"]["args"])
    if "file" in op:
        return str([action["Action"]["copy"]["src"] for action in op["file"]["actions"]])
    return str(op["source"]["identifier"]).partition("@")[0] if op else "end"


def test_provenance_names_the_layers_that_dockerd_names(clients: Clients) -> None:
    clients.write("file", "from the context\n")
    clients.write(
        "Dockerfile",
        "FROM scratch AS files\nCOPY file /in-no-image\n"
        "FROM busybox AS build\nRUN echo built > /out\n"
        "FROM busybox\nRUN echo made > /made\nCOPY file /copied\n"
        "RUN --mount=from=files,target=/m,rw touch /m/x\n"
        f"COPY --from=build /out /from-build\nCOPY --from={OTHER} /given /\n",
    )
    for number in range(2):
        (theirs, their_forms), (ours, our_forms) = map(shown_steps, clients)
        if number:  # all steps are in the cache: Orlop does not look at the image that the last of them had copied from
            theirs = {name: chains for name, chains in theirs.items() if OTHER not in name}
        assert ours == theirs
        assert len(ours) == 7 - number
        assert our_forms == their_forms
    _, (least,) = attested(clients.orlop, "--provenance=mode=min")
    assert "layers" not in least["metadata"][METADATA]
