"""Platforms, manifests, configurations: which documents of a registry are accepted, and which are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_engine.images import documents, manifests, platforms
from orlop_engine.images.manifests import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Index, Manifest
from orlop_engine.images.platforms import Platform
from orlop_sdk import DriverError, InvalidParameter, NotFound, OrlopError

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("linux/x86_64", Platform("linux", "amd64")),
        ("linux/arm64/v8", Platform("linux", "arm64")),
        ("LINUX/AARCH64", Platform("linux", "arm64")),
        ("linux/arm", Platform("linux", "arm", "v7")),
        ("linux/armhf", Platform("linux", "arm", "v7")),
        ("linux/arm/6", Platform("linux", "arm", "v6")),
        ("arm64", Platform("linux", "arm64")),
        ("windows/amd64", Platform("windows", "amd64")),
    ],
)
def test_platforms_are_normalized(text: str, expected: Platform) -> None:
    assert platforms.parse(text) == expected


@pytest.mark.parametrize("text", ["a/b/c/d", "", "linux/", "li nux/amd64", "toaster"])
def test_invalid_platforms_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        platforms.parse(text)


def test_compatible_platforms_are_ranked() -> None:
    v6 = Platform("linux", "arm", "v6")
    assert platforms.rank(platforms.parse("linux/arm/v7"), v6) == 1
    assert platforms.rank(v6, platforms.parse("linux/arm/v7")) is None
    assert platforms.rank(platforms.parse("linux/arm64"), Platform("linux", "arm64", "v8")) == 0
    assert platforms.rank(platforms.parse("linux/amd64"), Platform("linux", "386")) == 1
    assert platforms.rank(Platform("linux", "amd64", "v3"), Platform("linux", "amd64")) == 2
    assert platforms.rank(platforms.parse("linux/amd64"), Platform("windows", "amd64")) is None


def descriptor(digest: str = A, media: str = DOCKER_MANIFEST, size: int = 3, **more: Any) -> dict[str, Any]:
    return {"mediaType": media, "digest": digest, "size": size, **more}


CONFIG = descriptor(media=manifests.DOCKER_CONFIG)
LAYER = descriptor(B, "application/vnd.oci.image.layer.v1.tar+zstd")


def image(**more: Any) -> bytes:
    body = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": [LAYER], **more}
    return json.dumps({key: value for key, value in body.items() if value is not None}).encode()


def index(*entries: dict[str, Any], media: str = OCI_INDEX) -> Index:
    found = manifests.parse(media, json.dumps({"schemaVersion": 2, "mediaType": media, "manifests": entries}).encode())
    assert isinstance(found, Index)
    return found


def test_image_manifest_is_read() -> None:
    found = manifests.parse(f"{OCI_MANIFEST}; charset=utf-8", image())
    assert isinstance(found, Manifest)
    assert (found.config.digest, [layer.digest for layer in found.layers]) == (A, [B])


def test_manifest_with_a_missing_or_useless_media_type_is_parsed() -> None:
    assert isinstance(manifests.parse(OCI_MANIFEST, image(mediaType=None)), Manifest)
    assert isinstance(manifests.parse("text/plain", image()), Manifest)


@pytest.mark.parametrize(
    ("media", "data", "message"),
    [
        (OCI_MANIFEST, b"<html>", "cannot read manifest: JSON"),
        (OCI_MANIFEST, b"[" * 200_000, "cannot read manifest"),
        (OCI_MANIFEST, b"\xff\xfe", "cannot read manifest"),
        ("text/html", image(mediaType=None), "unsupported media type 'text/html'"),
        (OCI_INDEX, image(), "header says"),
        (OCI_MANIFEST, image(manifests=[]), "a manifest and a manifest list at once"),
        (OCI_MANIFEST, image(config=None), "configuration or layers missing"),
        (OCI_MANIFEST, image(layers=None), "configuration or layers missing"),
        (OCI_MANIFEST, image(config=descriptor(media="application/vnd.cncf.helm.config.v1+json")), "not a container image"),
        (OCI_MANIFEST, image(layers=[descriptor(B, "application/pdf")]), "unsupported layer media type 'application/pdf'"),
        (OCI_MANIFEST, image(layers=[descriptor("sha256:../../etc/passwd")]), "unsupported digest"),
        (OCI_MANIFEST, image(layers=[descriptor("sha512:" + "a" * 128)]), "unsupported digest"),
        (OCI_MANIFEST, image(layers=[{**LAYER, "size": -1}]), "impossible size"),
        (OCI_MANIFEST, image(config={**CONFIG, "size": 5 << 20}), "too large"),
        (OCI_MANIFEST, image(layers=[LAYER] * 1025), "1025 layers are too many"),
        (OCI_MANIFEST, image(schemaVersion=1), "schema 1"),
        (OCI_MANIFEST, image(fsLayers=[]), "schema 1"),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", image(), "schema 1"),
        (OCI_MANIFEST, b" " * (documents.MAX_MANIFEST + 1), "larger than 4194304 bytes"),
    ],
)
def test_invalid_manifests_are_refused(media: str, data: bytes, message: str) -> None:
    with pytest.raises(DriverError, match=message):
        manifests.parse(media, data)


@given(st.binary(max_size=200), st.sampled_from([*manifests.ACCEPT, "text/html", ""]))
def test_any_bytes_are_parsed_as_a_manifest_or_refused(data: bytes, media: str) -> None:
    try:
        manifests.parse(media, data)
    except OrlopError:
        pass


def on(os: str, architecture: str, variant: str = "") -> dict[str, str]:
    return {"os": os, "architecture": architecture, "variant": variant}


def test_best_platform_of_a_manifest_list_is_chosen() -> None:
    found = index(
        descriptor("sha256:" + "1" * 64, platform=on("linux", "arm", "v5")),
        descriptor("sha256:" + "2" * 64, platform=on("linux", "arm", "v7")),
        descriptor("sha256:" + "3" * 64, platform=on("linux", "arm64", "v8")),
    )
    assert manifests.choose(found, Platform("linux", "arm64")).digest[-1] == "3"
    assert manifests.choose(found, Platform("linux", "arm", "v6")).digest[-1] == "1"
    assert manifests.choose(found, Platform("linux", "arm", "v7")).digest[-1] == "2"
    with pytest.raises(NotFound) as caught:
        manifests.choose(found, Platform("linux", "amd64"))
    assert str(caught.value) == "no matching manifest for linux/amd64 in the manifest list entries"


def test_best_amd64_variant_that_the_host_supports_is_chosen() -> None:
    """A host chooses the best level that it runs (containerd: platforms, amd64 variants)."""
    found = index(
        descriptor("sha256:" + "1" * 64, platform=on("linux", "amd64")),
        descriptor("sha256:" + "2" * 64, platform=on("linux", "amd64", "v2")),
        descriptor("sha256:" + "3" * 64, platform=on("linux", "amd64", "v3")),
    )
    assert [manifests.choose(found, Platform("linux", "amd64", f"v{n}")).digest[-1] for n in (1, 2, 3, 4)] == [*"1233"]
    v2 = {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}
    v3 = {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
    v4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
    assert platforms.amd64_level(v2 | v3 | v4) == "v4"
    assert platforms.amd64_level(v2 | v3 | v4 - {"avx512f"}) == "v3"
    assert platforms.amd64_level(v2 | v4) == "v2"
    assert platforms.amd64_level(v3) == platforms.amd64_level(()) == ""
    assert not platforms.default().variant or platforms.default().architecture != "amd64"


def test_attestations_and_foreign_entries_are_never_chosen() -> None:
    note = {"vnd.docker.reference.type": "attestation-manifest"}
    bad = [
        descriptor(platform=on("unknown", "unknown")),
        descriptor(platform=on("linux", "amd64"), annotations=note),
        descriptor(media=OCI_INDEX, platform=on("linux", "amd64")),
    ]
    with pytest.raises(NotFound):
        manifests.choose(index(*bad), Platform("linux", "amd64"))
    found = index(*bad, descriptor(B), media=DOCKER_LIST)
    assert manifests.choose(found, Platform("linux", "amd64")).digest == B, "an entry that names no platform"


def test_chain_ids_are_computed() -> None:
    # The example of the OCI image specification, computed by hand with sha256sum
    chains = documents.chain_ids([A, B])
    assert chains[0] == A
    assert chains[1] == documents.digest(f"{A} {B}".encode())
    assert documents.chain_ids([]) == []


def configuration(**more: Any) -> bytes:
    return json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [A]}, **more}
    ).encode()


def test_image_configuration_is_parsed_as_by_go() -> None:
    document = documents.parse(
        configuration(
            config={"Env": None, "Cmd": "sh", "Entrypoint": ["/x"], "Labels": {"a": "b"}, "Unknown": 1},
            history=[{"created_by": "x", "empty_layer": True, "author": None}],
            created=None,
        ),
        layers=1,
    )
    assert document.config is not None
    assert (document.config.env, document.config.cmd, document.config.entrypoint) == (None, ["sh"], ["/x"])
    assert document.created == ""


@pytest.mark.parametrize(
    ("data", "layers", "message"),
    [
        (b"no", None, "cannot read image configuration"),
        (b"[]", None, "cannot read image configuration"),
        (b"[" * 200_000, None, "cannot read image configuration"),
        (b"{}", None, "it has no rootfs section"),
        (configuration(), 2, documents.ROOTFS_MISMATCH),
        (configuration(rootfs={"diff_ids": ["sha256:x"]}), 1, "unsupported digest"),
        (configuration(config={"Env": "x"}), 1, "cannot read image configuration"),
        (configuration(config=[1]), 1, "cannot read image configuration"),
    ],
)
def test_invalid_configurations_are_refused(data: bytes, layers: int | None, message: str) -> None:
    with pytest.raises(DriverError, match=message):
        documents.parse(data, layers=layers)
