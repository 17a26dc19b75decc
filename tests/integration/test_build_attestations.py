"""Attestations of builds, compared with a dockerd. It uses the containerd image store, because dockerd makes attestations
only with this store."""

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
    """Returns, for each output of each step, the positions of its layers in the image. Also returns the form of each
    step."""
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
    """The members of a step that depend only on the Dockerfile."""
    op = step["Op"] or {}
    if "exec" in op:
        return str(op["exec"]["meta"]["args"])
    if "file" in op:
        return str([action["Action"]["copy"]["src"] for action in op["file"]["actions"]])
    return str(op["source"]["identifier"]).partition("@")[0] if op else "end"


def test_provenance_contains_the_same_layers_as_with_dockerd(clients: Clients) -> None:
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
        if number:  # all steps are in the cache, so Orlop does not read the image from which the last step copied
            theirs = {name: chains for name, chains in theirs.items() if OTHER not in name}
        assert ours == theirs
        assert len(ours) == 7 - number
        assert our_forms == their_forms
    _, (least,) = attested(clients.orlop, "--provenance=mode=min")
    assert "layers" not in least["metadata"][METADATA]


# Writes the files that it finds in the result and in each additional file system
SCANNER = r"""FROM busybox
COPY --chmod=755 <<'END' /scan
#!/bin/sh
set -e
extras=$BUILDKIT_SCAN_SOURCE_EXTRAS
seen="result: $(cd $BUILDKIT_SCAN_SOURCE && ls marker* 2>/dev/null | xargs)"
for each in $(test -z "$extras" || ls $extras); do
    ! touch $extras/$each/written 2>/dev/null || exit 3
    seen="$seen, $each: $(cd $extras/$each && ls | grep marker | xargs)"
done
cat > $BUILDKIT_SCAN_DESTINATION/sbom.spdx.json <<JSON
{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document",
 "predicate": {"SPDXID": "SPDXRef-DOCUMENT", "name": "$seen", "extras": "$extras",
  "again": "$(cat /proc/sys/kernel/random/uuid)"}}
JSON
END
ENTRYPOINT ["/scan"]
"""

STAGES = """{before}FROM busybox AS first
{first}
RUN touch /marker-first
FROM busybox AS unused
ARG BUILDKIT_SBOM_SCAN_STAGE=true
RUN touch /marker-unused
FROM first AS second
{second}
RUN touch /marker-second
FROM busybox AS third
RUN touch /marker-third
COPY marker-context marker-other /
FROM busybox
{target}
RUN touch /marker-target
COPY --from=second /marker-second /
COPY --from=third /marker-third /
"""

STAGE, CONTEXT = "ARG BUILDKIT_SBOM_SCAN_STAGE", "ARG BUILDKIT_SBOM_SCAN_CONTEXT"
# For each case, parts of the Dockerfile, and options
SCANS: dict[str, tuple[dict[str, str], list[str]]] = {
    "nothing": ({"first": f"{CONTEXT}=true"}, ["--build-arg", "BUILDKIT_SBOM_SCAN_STAGE=true"]),
    "all-but-one": ({"before": f"{STAGE}=true\n{CONTEXT}=1\n", "first": f"{STAGE}=false"}, []),
    "list": ({"before": f"{STAGE}=third,first,nosuch\n"}, []),
    "one-and-context": ({"first": f"{STAGE}=t", "target": f"{CONTEXT}=T\nRUN touch /marker$BUILDKIT_SBOM_SCAN_CONTEXT"}, []),
    "option": ({"before": f"{STAGE}=false\n", "first": STAGE}, ["--build-arg", "BUILDKIT_SBOM_SCAN_STAGE=third"]),
}


@pytest.fixture(scope="module")
def scanner(clients: Clients) -> str:
    clients.write("Scanner", SCANNER)
    for name in ("context", "other", "that-is-not-used"):
        clients.write(f"marker-{name}", name)
    for each in clients:
        each.ok("build", "-t", "tb-scanner", "-f", "Scanner", "--provenance=false", ".")
    return "--sbom=generator=tb-scanner"


@pytest.mark.parametrize("name", SCANS)
def test_scanner_reads_the_stages_that_the_dockerfile_selects(clients: Clients, scanner: str, name: str) -> None:
    def scanned(client: Client) -> dict[str, str]:
        _, (found,) = attested(client, scanner, "--provenance=false", *options)
        assert found.pop("again")
        return dict(found)

    parts, options = SCANS[name]
    clients.write("Dockerfile", STAGES.format(**{**dict.fromkeys(("before", "first", "second", "target"), ""), **parts}))
    clients.same(scanned)


def test_scanner_runs_again_if_the_cache_of_a_scanned_stage_is_disabled(clients: Clients, scanner: str) -> None:
    def runs(client: Client) -> int:
        found = []
        for options in ([], [], ["--no-cache-filter", "third"], ["--no-cache-filter", "first"]):
            _, (said,) = attested(client, scanner, "--provenance=false", *options)
            found.append(said["again"])
        return [found.index(each) for each in found]

    clients.write("Dockerfile", STAGES.format(before=f"{STAGE}=third\n", first="", second="", target=""))
    clients.same(runs)
