"""The configuration of a cache, and the manifests that contain it (buildkit cache/remotecache). This module does no I/O.

A record contains the digest of a step's key, and results. A result is the number of its top layer in the list of layers. A
layer contains the number of its parent. Records with BuildKit's keys also have inputs; those with Orlop's keys have none.
Imported caches are not trusted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from orlop_build_dockerfile.contracts import Blob, BuildFailed, LayerBlob
from orlop_build_dockerfile.export.documents import described, digest_of, encoded, layer_part

from .buildkit import CacheGraph, CacheRecord

__all__ = [
    "CONFIG",
    "CachedLayer",
    "Document",
    "Found",
    "Result",
    "cache_manifest",
    "configuration",
    "encode",
    "inline",
    "parse_document",
    "read",
    "read_inline",
]

CONFIG = "application/vnd.buildkit.cacheconfig.v0"
_UNCOMPRESSED, _CREATED = "containerd.io/uncompressed", "buildkit/createdat"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MOST = 100_000
_DEEPEST = 1024


class _Layer(msgspec.Struct):
    """`parent` is the number of the layer below, -1 for none. Go omits a 0."""

    blob: str = ""
    parent: int = 0


class _Result(msgspec.Struct):
    layer: int
    created: str = msgspec.field(name="createdAt", default="")


class _Chain(msgspec.Struct):
    layers: list[int]


class _Link(msgspec.Struct):
    """`link` is 0 if the JSON does not contain it, because Go leaves out a 0."""

    link: int = 0
    selector: str = ""


class _Record(msgspec.Struct, omit_defaults=True):
    digest: str = ""
    inputs: list[list[_Link]] = []
    layers: list[_Result] = []
    chains: list[_Chain] = []


class _Config(msgspec.Struct, omit_defaults=True):
    layers: list[_Layer] = []
    records: list[_Record] = []


class CachedLayer(msgspec.Struct, frozen=True):
    """A layer of a cache that was read."""

    blob: Blob
    diff_id: str
    created: str = ""


class Found(msgspec.Struct, frozen=True):
    """A cache that was read. `results` maps the digest of a record to the layers of its result, lowest first. `graph` has
    all records."""

    results: Mapping[str, tuple[CachedLayer, ...]] = {}
    graph: CacheGraph = CacheGraph()


class _Descriptor(msgspec.Struct):
    digest: str = ""
    size: int = 0
    media_type: str = msgspec.field(name="mediaType", default="")
    annotations: dict[str, str] | None = None


class Document(msgspec.Struct):
    """A manifest or an index. In a cache, the entries of an index are layers."""

    config: _Descriptor | None = None
    layers: list[_Descriptor] = []
    manifests: list[_Descriptor] = []


class _RootFS(msgspec.Struct):
    diff_ids: list[str] = []


class _ImageConfig(msgspec.Struct):
    rootfs: _RootFS = msgspec.field(default_factory=_RootFS)
    cache: bytes | None = msgspec.field(name="moby.buildkit.cache.v0", default=None)


def parse_document(data: bytes) -> Document:
    found: Document = _decoded(data, Document)
    return found


def _decoded(data: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BuildFailed(f"cannot read the cache: {error}") from None


def configuration(document: Document) -> _Descriptor | None:
    """The descriptor of a cache's configuration; None for an image, which may have an inline cache."""
    found = [each for each in document.manifests if each.media_type == CONFIG]
    if document.config is not None and document.config.media_type == CONFIG:
        found.append(document.config)
    return found[0] if found else None


def read(document: Document, config: bytes) -> Found:
    """Read the content of a cache. Raises `BuildFailed`."""
    parsed: _Config = _decoded(config, _Config)
    layers = {each.digest: layer for each in (*document.manifests, *document.layers) if (layer := _layer(each))}
    return _results(parsed, layers)


def read_inline(document: Document, config: bytes) -> Found:
    """Read the inline cache in an image's configuration. The layers of its records are layers of the image."""
    image: _ImageConfig = _decoded(config, _ImageConfig)
    if image.cache is None or len(image.rootfs.diff_ids) != len(document.layers):
        return Found()
    layers = {}
    for each, diff_id in zip(document.layers, image.rootfs.diff_ids, strict=True):
        if layer := _layer(each, diff_id):
            layers[each.digest] = layer
    chain = [_Layer(each.digest, number - 1) for number, each in enumerate(document.layers)]
    return _results(_Config(chain, _decoded(image.cache, list[_Record])), layers)


def _layer(found: _Descriptor, diff_id: str = "") -> CachedLayer | None:
    notes = found.annotations or {}
    diff_id = diff_id or notes.get(_UNCOMPRESSED, "")
    if not _DIGEST.fullmatch(found.digest) or not _DIGEST.fullmatch(diff_id) or found.size < 0:
        return None
    return CachedLayer(Blob(found.media_type, found.digest, found.size), diff_id, notes.get(_CREATED, ""))


def _results(config: _Config, layers: Mapping[str, CachedLayer]) -> Found:
    links = sum(len(each) for record in config.records for each in record.inputs)
    if max(len(config.records), len(config.layers), links) > _MOST:
        raise BuildFailed(f"cannot read the cache: it has more than {_MOST} records, layers or inputs")
    found: dict[str, tuple[CachedLayer, ...]] = {}
    records = []
    for record in config.records:
        best: tuple[CachedLayer, ...] = ()
        numbers = [_path(config.layers, result.layer) for result in record.layers] + [each.layers for each in record.chains]
        for chain in numbers:
            result = _chain(config.layers, chain, layers)
            if result:
                found[record.digest] = best = result
        inputs = [[(each.link, each.selector) for each in links] for links in record.inputs]
        records.append(CacheRecord(record.digest, inputs, best))
    return Found(found, CacheGraph(records))


def _path(layers: Sequence[_Layer], number: int) -> list[int]:
    """The numbers of a layer and of all layers below it, lowest first; [] if the parents form a cycle or do not exist."""
    found: list[int] = []
    while number != -1:
        if not 0 <= number < len(layers) or len(found) > _DEEPEST:
            return []
        found.append(number)
        number = layers[number].parent
    return found[::-1]


def _chain(layers: Sequence[_Layer], numbers: Sequence[int], known: Mapping[str, CachedLayer]) -> tuple[CachedLayer, ...]:
    found = []
    for number in numbers:
        layer = known.get(layers[number].blob) if 0 <= number < len(layers) else None
        if layer is None:
            return ()
        found.append(layer)
    return tuple(found)


class Result(msgspec.Struct, frozen=True):
    """The exported record of a step: its key, the time when it was run, and its layers, lowest first."""

    key: str
    created: str
    layers: Sequence[LayerBlob]


def encode(results: Sequence[Result], foreign: Sequence[CacheRecord] = ()) -> tuple[bytes, list[LayerBlob]]:
    """The configuration of a cache, and its layers without duplicates. `foreign` are records with BuildKit's keys, whose
    `result` is the key of one of the results, or ""."""
    layers: list[dict[str, Any]] = []
    numbers: dict[tuple[str, ...], int] = {}
    blobs: dict[str, LayerBlob] = {}
    records = []
    for result in sorted(results, key=lambda each: each.key):
        path: tuple[str, ...] = ()
        for layer in result.layers:
            parent = numbers[path] if path else -1
            path = (*path, layer.digest)
            if path not in numbers:
                numbers[path] = len(layers)
                layers.append({"blob": layer.digest, "parent": parent})
            blobs[layer.digest] = layer
        records.append(_record(result, numbers[path]))
    records += _foreign(foreign, {record["digest"]: record["layers"] for record in records}, len(records))
    return json.dumps({"layers": layers, "records": records}, separators=(",", ":")).encode(), list(blobs.values())


def _record(result: Result, layer: int) -> dict[str, Any]:
    return {"digest": result.key, "layers": [{"layer": layer, "createdAt": result.created}]}


def _foreign(records: Sequence[CacheRecord], layers: Mapping[str, Sequence[Any]], first: int) -> Iterable[dict[str, Any]]:
    """Records with BuildKit's keys, the first of which gets the number `first`."""
    for record in records:
        inputs = [
            [{"link": first + link, **({"selector": selector} if selector else {})} for link, selector in links]
            for links in record.inputs
        ]
        found = layers.get(str(record.result), ())
        yield {"digest": record.digest, **({"layers": found} if found else {}), **({"inputs": inputs} if inputs else {})}


def inline(results: Sequence[Result], image: Sequence[str], foreign: Sequence[CacheRecord] = ()) -> bytes:
    """The records for the configuration of an image with these layers (digests, lowest first); b"" if there are no
    records."""
    records = [
        _record(result, len(result.layers) - 1)
        for result in sorted(results, key=lambda each: each.key)
        if result.layers and [layer.digest for layer in result.layers] == list(image[: len(result.layers)])
    ]
    if records:
        records += _foreign(foreign, {record["digest"]: record["layers"] for record in records}, len(records))
    return json.dumps(records, separators=(",", ":")).encode() if records else b""


def cache_manifest(
    config: bytes, layers: Sequence[LayerBlob], created: Mapping[str, str], *, oci: bool, as_image: bool
) -> tuple[bytes, Blob, list[Blob]]:
    """The manifest of a cache, its descriptor, and the blobs that it refers to."""
    about = described(config, CONFIG)
    parts = [layer_part(layer, oci) for layer in layers]
    entries = [
        {
            "mediaType": part.media_type,
            "digest": part.digest,
            "size": part.size,
            "annotations": {  # BuildKit does not read a cache with an empty time
                **({_CREATED: created[part.digest]} if part.digest in created else {}),
                _UNCOMPRESSED: layer.diff_id,
            },
        }
        for part, layer in zip(parts, layers, strict=True)
    ]
    own = {"mediaType": CONFIG, "digest": about.digest, "size": about.size}
    document: dict[str, Any]
    if as_image:
        media_type = "application/vnd.oci.image.manifest.v1+json"
        document = {"schemaVersion": 2, "mediaType": media_type, "config": own, "layers": entries}
    else:
        media_type = f"application/vnd.{'oci.image.index.v1' if oci else 'docker.distribution.manifest.list.v2'}+json"
        document = {"schemaVersion": 2, "mediaType": media_type, "manifests": [*entries, own]}
    data = encoded(document)
    return data, Blob(media_type, digest_of(data), len(data)), [about, *parts]
