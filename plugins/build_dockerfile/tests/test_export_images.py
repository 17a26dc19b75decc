"""Exporters of images, on a fake daemon: documents, attributes, attestations."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from test_solver import BASE, Engine, engine, trio_test

from orlop_build_dockerfile.attest.parse import parse
from orlop_build_dockerfile.attest.statements import Predicate, purl, statement
from orlop_build_dockerfile.contracts import BuildFailed, Export, LayerForm, Result
from orlop_build_dockerfile.export.config import BuiltLayer, complete
from orlop_build_dockerfile.export.options import read_options
from orlop_build_dockerfile.testing import FakeBuild, Llb

__all__ = ["engine"]  # a fixture

PLATFORMS = frozenset({"linux/amd64"})
CONFIG = json.dumps({"os": "linux", "architecture": "amd64"}).encode()


async def exported(engine: Engine, export: Export, *platforms: str, **options: str) -> tuple[dict[str, str], FakeBuild]:
    """Export a small image, or one for each platform."""
    llb = Llb()
    made = FakeBuild(engine.session)
    made.options = options
    async with engine.solver() as solver, solver.open(made) as job:
        ref = job.define(llb.define(llb.run(llb.image(BASE), "write /made yes")))
        refs = dict.fromkeys(platforms, ref) if platforms else {"": ref}
        metadata = {"containerimage.config" + (f"/{each}" if each else ""): CONFIG for each in refs}
        answer = await job.export(Result(refs, metadata), export)
    assert not engine.backend.blobs, "the artifact was dropped"
    return dict(answer), made


def stored(engine: Engine, digest: str) -> Any:
    return json.loads(engine.backend.stored[digest])


@trio_test
async def test_push_sends_an_index_after_the_manifests_in_the_index(engine: Engine) -> None:
    """A registry refuses an index whose manifests are missing."""
    attributes = {"name": "example.com/a:1", "push": "true", "annotation.k": "v", "annotation-index.i": "w"}
    answer, _ = await exported(engine, Export("image", attributes), "linux/amd64", "linux/arm64")
    ((name, manifests, _),) = engine.backend.pushed
    assert name == "example.com/a:1"
    index = stored(engine, answer["containerimage.digest"])
    assert manifests[-1].descriptor.digest == answer["containerimage.digest"]
    assert index["annotations"] == {"i": "w"}
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == ["amd64", "arm64"]
    for entry in index["manifests"]:
        manifest = stored(engine, entry["digest"])
        assert manifest["annotations"] == {"k": "v"}
        config = stored(engine, manifest["config"]["digest"])
        assert len(config["rootfs"]["diff_ids"]) == len(manifest["layers"]) == 2
    descriptor = json.loads(base64.b64decode(answer["containerimage.descriptor"]))
    assert descriptor["digest"] == answer["containerimage.digest"]
    assert "containerimage.config.digest" not in answer


@trio_test
async def test_exported_archive_has_the_digest_that_is_reported_to_the_client(engine: Engine) -> None:
    answer, _ = await exported(engine, Export("docker", {"name": "a"}, 3))
    (archive,) = engine.backend.archives
    assert list(archive.names) == ["docker.io/library/a:latest"]
    assert archive.docker is not None
    assert archive.docker[0] == answer["containerimage.config.digest"]
    assert "3" in engine.session.sent
    await exported(engine, Export("oci", {"tar": "false"}))
    assert engine.backend.archives == [archive]
    assert len(engine.session.contents["export"]) == 4  # two layers, a configuration and a manifest
    refused = pytest.RaisesExc(BuildFailed, match="manifest lists")
    with pytest.RaisesGroup(refused, allow_unwrapped=True, flatten_subgroups=True):
        await exported(engine, Export("docker"), "linux/amd64", "linux/arm64")


@trio_test
async def test_provenance_is_added_by_default_only_to_pushed_images(engine: Engine) -> None:
    default = {"attest:provenance": "mode=min,inline-only=true"}
    answer, _ = await exported(engine, Export("moby", {"name": "a"}), **default)
    assert answer["containerimage.digest"] == answer["containerimage.config.digest"]
    answer, _ = await exported(engine, Export("oci", {"tar": "false"}), **default)
    assert "containerimage.config.digest" in answer, "one manifest, no index"
    answer, _ = await exported(engine, Export("moby", {"name": "a", "push": "true"}), **default)
    index = stored(engine, answer["containerimage.digest"])
    about = stored(engine, index["manifests"][1]["digest"])
    said = stored(engine, about["layers"][0]["digest"])
    assert said["predicateType"] == "https://slsa.dev/provenance/v0.2"
    assert said["subject"] == [
        {
            "name": "pkg:docker/a@latest?platform=linux%2Famd64",
            "digest": {"sha256": index["manifests"][0]["digest"].removeprefix("sha256:")},
        }
    ]
    (material,) = said["predicate"]["materials"]
    assert material["uri"] == "pkg:docker/base@latest?platform=linux%2Famd64"
    assert said["predicate"]["metadata"]["completeness"]["materials"]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"compression": "estargz"}, "unsupported compression"),
        ({"compression-level": "x"}, "compression-level"),
        ({"compression": "zstd", "compression-level": "23"}, "compression-level"),
        ({"push": "maybe"}, "non-bool"),
        ({"source-date-epoch": "-1"}, "SOURCE_DATE_EPOCH"),
        ({"annotation-thing.k": "v"}, "unrecognized annotation type"),
        ({"annotation[linux/s390x].k": "v"}, "no platform linux/s390x"),
        ({"name": "A"}, "failed to parse target name"),
        (
            {"name": "h:5000/a,h:5000/a:1", "push": "", "push-by-digest": "true"},
            "can't push tagged ref h:5000/a:1 by digest",
        ),
    ],
)
def test_invalid_exporter_attributes_are_refused(attributes: dict[str, str], message: str) -> None:
    with pytest.raises(BuildFailed, match=message):
        read_options(Export("image", attributes), {}, {}, PLATFORMS)


def test_exporter_attributes_are_parsed() -> None:
    options = read_options(
        Export("image", {"name": "a, b:2,a", "compression": "zstd", "rewrite-timestamp": ""}),
        {"annotation.from-frontend": b"x"},
        {"build-arg:SOURCE_DATE_EPOCH": "5"},
        PLATFORMS,
    )
    assert options.names == ("docker.io/library/a", "docker.io/library/b:2")
    assert options.form == LayerForm("zstd", -1, False, 5)
    assert options.oci, "Docker has no media type for zstd"
    assert options.annotations.of("manifest", "linux/amd64") == {"from-frontend": "x"}
    assert options.epoch == 5
    assert not read_options(Export("image"), {}, {}, PLATFORMS).oci
    assert read_options(Export("oci"), {}, {}, PLATFORMS).oci


@pytest.mark.parametrize(
    ("options", "sbom", "provenance"),
    [
        ({}, None, None),
        ({"attest:sbom": ""}, {"generator": "docker/buildkit-syft-scanner:stable-1"}, None),
        ({"attest:sbom": "generator=x"}, {"generator": "x"}, None),
        ({"attest:provenance": "mode=min", "attest:sbom": "disabled=true"}, None, {"mode": "min"}),
        ({"build-arg:BUILDKIT_ATTEST_PROVENANCE": "mode=max"}, None, {"mode": "max"}),
    ],
)
def test_requested_attestations_are_parsed(options: dict[str, str], sbom: object, provenance: object) -> None:
    wanted = parse(options)
    assert (wanted.sbom, wanted.provenance) == (sbom, provenance)


@pytest.mark.parametrize("options", [{"attest:other": ""}, {"attest:provenance": "mode=x"}, {"attest:sbom": '"'}])
def test_unknown_attestations_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(BuildFailed):
        parse(options)


@pytest.mark.parametrize(
    ("name", "platform", "expected"),
    [
        ("busybox", "linux/amd64", "pkg:docker/busybox@latest?platform=linux%2Famd64"),
        ("user/app:1", "", "pkg:docker/user/app@1"),
        ("localhost:5000/a/b:2", "linux/arm/v7", "pkg:docker/localhost:5000/a/b@2?platform=linux%2Farm%2Fv7"),
        ("a@sha256:" + "0" * 64, "", "pkg:docker/a?digest=sha256:" + "0" * 64),
    ],
)
def test_package_urls_of_images_are_the_same_as_in_buildkit(name: str, platform: str, expected: str) -> None:
    assert purl(name, platform) == expected


def test_attestation_statement_contains_the_predicate_byte_for_byte() -> None:
    raw = statement(Predicate("t", b'{"a":  1}', None), [("n", "sha256:ab")])
    assert json.loads(raw)["subject"] == [{"name": "n", "digest": {"sha256": "ab"}}]
    assert b'{"a":  1}' in raw, "the predicate is passed on as it is"


def test_history_entries_of_the_base_image_keep_their_times() -> None:
    old = {"created": "2020-01-01T00:00:00Z", "created_by": "base"}
    base = json.dumps({"history": [old]}).encode()
    config = json.dumps({"os": "linux", "architecture": "amd64", "history": [old, {"created_by": "new"}]}).encode()
    layers = [BuiltLayer("sha256:a"), BuiltLayer("sha256:b", 1.0)]
    made = json.loads(complete(config, layers, platform="linux/amd64", epoch=0, now=5.0, base=base))
    assert [entry["created"] for entry in made["history"]] == ["2020-01-01T00:00:00Z", "1970-01-01T00:00:00Z"]
    without = json.loads(complete(config, layers, platform="linux/amd64", epoch=0, now=5.0))
    assert {entry["created"] for entry in without["history"]} == {"1970-01-01T00:00:00Z"}
