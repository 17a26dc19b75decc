"""Tables, configurations, manifests and names that are wrong."""

from __future__ import annotations

import json
from typing import Any

from .cases import case
from .errors import ANY, BAD_CONFIG, BAD_MANIFEST, NO_FILE, NO_TABLE
from .making import (
    CONFIG,
    END,
    FILES,
    INDEX,
    LAYER,
    MANIFEST,
    MANY,
    OTHER,
    PACKERS,
    blob,
    docker,
    document,
    dumps,
    member,
    oci,
    part,
)

# --- tables and documents ---

for text_ in (
    b"",
    b"{",
    b"nonsense",
    b"\xff\xfe",
    b"[1]",
    b"[null]",
    b'["x"]',
    b"{}",
    b'"x"',
    b"1e999",
    b"NaN",
    b'[{"Config": 1}]',
    b'[{"Layers": "x"}]',
    b'[{"RepoTags": [null]}]',
    b'[{"Layers": [1]}]',
):
    case(f"table {text_!r}", docker(table=text_), ANY)
case("table null", docker(table=b"null"), None, ())
case("table []", docker(table=b"[]"), None, ())
case("table [{}]", docker(table=b"[{}]"), NO_FILE)
case(
    "keys given twice",
    docker(table=b'[{"Config": "x", "Config": "config.json", "RepoTags": ["app:1"], "Layers": ["0/layer.tar"]}]'),
    None,
)
for value in (
    "{}",
    "[]",
    "null",
    '"x"',
    "",
    "nonsense",
    '{"rootfs": null}',
    '{"rootfs": {}}',
    '{"rootfs": []}',
    '{"rootfs": {"diff_ids": "x"}}',
    '{"rootfs": {"diff_ids": [1]}}',
    '{"rootfs": {"diff_ids": ["x"]}}',
    '{"rootfs": {"diff_ids": ["sha256:' + "0" * 64 + '"], "type": 1}}',
):
    case(
        f"configuration {value[:50]}",
        docker(config=value.encode()),
        rf"{BAD_CONFIG}|invalid manifest, layers length mismatch.*",
    )
LENGTH = "invalid manifest, layers length mismatch: expected .*"
case("fewer layers than diffIDs", docker([FILES, OTHER], entry={"Layers": ["0/layer.tar"]}), LENGTH)
case("more layers than diffIDs", docker(entry={"Layers": ["0/layer.tar"] * 2}), LENGTH)
case(
    "layers out of order",
    docker([FILES, OTHER], entry={"Layers": ["1/layer.tar", "0/layer.tar"]}),
    "invalid diffID for layer [01].*",
)
case("second layer wrong", docker([FILES, OTHER], stored=[FILES, FILES]), "invalid diffID for layer 1.*")
case("second layer missing", docker([FILES, OTHER], stored=[FILES]), NO_FILE)
case("the same layer twice", docker([FILES, FILES]), None)
case("an image of windows", docker(config=document([FILES], os="windows")), "cannot load windows image on linux.*")
case("an image of no system", docker(config=document([FILES], os="")), None)
case("an image of a strange machine", docker(config=document([FILES], architecture="z80")), None)
case("odd creation time", docker(config=document([FILES], created="yesterday")), None)
for key, odd in {
    "Env": "A=b",
    "Cmd": {"x": 1},
    "Labels": ["a"],
    "ExposedPorts": ["80"],
    "Volumes": "x",
    "Healthcheck": 1,
}.items():
    case(f"{key} of a wrong type", docker(config=document([FILES], config={key: odd})), BAD_CONFIG)
case("Cmd as one string", docker(config=document([FILES], config={"Cmd": "sh"})), None)
case("an image without layers", docker([]), None)
case("a second image that is wrong", docker(table=dumps([MANY, {**MANY, "Config": "nosuch"}])), NO_FILE)

# --- indexes and media types ---


def nested(depth: int, **more: Any) -> bytes:
    """An index in an index, `depth` times, around a good image."""
    raw = document([FILES])
    inner = dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": part(raw, CONFIG), "layers": [part(FILES, LAYER)]})
    platform = {"platform": {"os": "linux", "architecture": "amd64"}, **more}
    found, kind, blobs = inner, MANIFEST, [blob(FILES), blob(raw), blob(inner)]
    for _ in range(depth):
        found = dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [part(found, kind, **platform)]})
        kind = INDEX
        blobs.append(blob(found))
    named = part(found, kind, annotations={"org.opencontainers.image.ref.name": "docker.io/library/app:1"})
    return oci(index={"schemaVersion": 2, "manifests": [named]}, blobs=blobs)


case("an index inside", nested(1), None)
case("an index in an index", nested(2), "no matching manifest for .*|.*inside another manifest list")
case("an index for another machine", nested(1, platform={"os": "linux", "architecture": "z80"}), None)
case(
    "an index of attestations only",
    nested(1, annotations={"vnd.docker.reference.type": "attestation-manifest"}),
    "no matching manifest for .*",
)
case(
    "an index that names itself",
    oci(
        entry={"digest": "sha256:" + "1" * 64, "mediaType": INDEX},
        blobs=[
            blob(
                dumps({"schemaVersion": 2, "manifests": [{"digest": "sha256:" + "1" * 64, "size": 1, "mediaType": INDEX}]}),
                "1" * 64,
            )
        ],
    ),
    ".*does not match its digest",
)
case("manifest and index at once", oci(manifest={"manifests": []}), ".*manifest and a manifest list at once")
case("a manifest declared as index", oci(entry={"mediaType": INDEX}), BAD_MANIFEST)
case("an index declared as manifest", oci(manifest={"mediaType": INDEX}), BAD_MANIFEST)
case("a manifest of unknown type", oci(entry={"mediaType": "application/x"}, manifest={"mediaType": ""}), BAD_MANIFEST)
case("a manifest of schema 1", oci(manifest={"schemaVersion": 1}), ".*schema 1.*")
case("a manifest without layers", oci(manifest={"layers": None}), BAD_MANIFEST)
case("a manifest without configuration", oci(manifest={"config": None}), BAD_MANIFEST)
case(
    "no image, but a chart",
    oci(about={"mediaType": "application/vnd.cncf.helm.config.v1+json"}),
    ".*not a container image.*",
)
case("a layer of unknown type", oci(layer={"mediaType": "application/x-evil"}), ".*unsupported layer media type.*")
case("a plain layer declared as gzip", oci(layer={"mediaType": LAYER + "+gzip"}), None)
case(
    "a gzip layer declared as zstd",
    oci(stored=PACKERS["gzip"](FILES), config=document([FILES]), layer={"mediaType": LAYER + "+zstd"}),
    None,
)
case("layout without its index", member("oci-layout", b"{}") + END, NO_TABLE)
case("index without manifests", oci(index={"schemaVersion": 2}), None, ())
case("index of null", oci(index={"manifests": None}), None, ())
for odd_ in ([], "x", 1, {"manifests": {}}, {"manifests": [1]}, {"manifests": [{}]}, {"manifests": [None]}):
    case(f"index {json.dumps(odd_)}", oci(index=odd_), ANY)
case("a good table beside a bad index", docker(before=member("index.json", b"nonsense")), None)
case(
    "a good table beside an index of lies",
    docker(before=member("index.json", dumps({"manifests": [part(FILES, MANIFEST)] * 5000}))),
    None,
)

# --- names ---

BAD_NAME = r"refusing to create .*|invalid (tag|reference format|repository name|checksum digest).*|repository name .*"
for tag in (
    "",
    "app",
    "APP:1",
    "a:b:c",
    ":b",
    "a:",
    "../x:y",
    "a/../b:c",
    "a b:c",
    "a:\n",
    "é:1",
    "a" * 300 + ":1",
    "a:" + "b" * 200,
    "sha256:" + "0" * 64,
    "a@sha256:" + "0" * 64,
    "http://a/b:c",
    "a:1@sha256:" + "0" * 64,
    "-a:1",
    "a//b:1",
):
    case(f"name {tag[:30]!a}", docker(entry={"RepoTags": [tag]}), BAD_NAME)
for tag in ("APP:1", "../x:y", "a:b:c", "x/y:" + "z" * 200, "docker.io/library/app:1@sha256:" + "0" * 64):
    case(f"layout with name {tag[:30]!a}", oci(name=tag), BAD_NAME)
case("layout with a bare tag as name", oci(name="latest"), None, ("",))
case("the same name twice", docker(entry={"RepoTags": ["app:1", "app:1"]}), None, ("app:1", "app:1"))
case(
    "a name of another registry",
    docker(entry={"RepoTags": ["registry.example:5000/a/b:c"]}),
    None,
    ("registry.example:5000/a/b:c",),
)
