"""The files of an image archive, as `docker save` writes them. The archive is an OCI image layout (image-spec
image-layout.md). It also contains Docker's `manifest.json` and `repositories`, so that older engines can load the archive.
This module does no I/O.

Members are sorted and have fixed times and owners, so the same images always result in the same bytes. A blob that several
images share is written once. An index (Docker's "manifest list") lists the manifests of images, one for each platform.
Content that an index lists, but that is not stored on this host, is omitted. `manifest.json` lists only one image of each
index.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from orlop_monitor.unpack.encode import END, entry_header, padding
from orlop_monitor.unpack.header import Entry

from .manifests import OCI_INDEX, Descriptor
from .outgoing import Outgoing
from .outgoing_index import OutgoingIndex
from .records import Layer
from .references import Reference

__all__ = ["LayerContent", "Saved", "SavedImage", "SavedIndex", "blob_content", "blob_path", "layout_parts", "parts"]

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_NAME, _REF_NAME = "io.containerd.image.name", "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class SavedImage:
    """An image with the tags under which it is saved. `tags` is empty if the request named the image by its ID."""

    outgoing: Outgoing
    tags: tuple[Reference, ...]

    @property
    def descriptor(self) -> Descriptor:
        return self.outgoing.descriptor

    @property
    def images(self) -> tuple[Outgoing, ...]:
        return (self.outgoing,)


@dataclass(frozen=True, slots=True)
class SavedIndex:
    """An index with the tags under which it is saved. `outgoing` is the one image that `manifest.json` lists, for engines in
    which a name refers to only one image."""

    outgoing: Outgoing
    index: OutgoingIndex
    tags: tuple[Reference, ...]

    @property
    def descriptor(self) -> Descriptor:
        return self.index.descriptor

    @property
    def images(self) -> tuple[Outgoing, ...]:
        return self.index.images


Saved = SavedImage | SavedIndex


@dataclass(frozen=True, slots=True)
class LayerContent:
    """A placeholder for the content of a blob (a layer or a document). The content has exactly `size` bytes, and is read
    when the archive is sent."""

    layer: Layer
    size: int


class _Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename={"media_type": "mediaType"}):
    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None


class _Index(msgspec.Struct, frozen=True, rename={"schema_version": "schemaVersion", "media_type": "mediaType"}):
    schema_version: int
    media_type: str
    manifests: list[_Descriptor]


class _Entry(msgspec.Struct, frozen=True, rename="pascal"):
    """One image in `manifest.json` (moby's `manifestItem`)."""

    config: str
    repo_tags: list[str] | None
    layers: list[str]


def blob_path(digest: str) -> str:
    """The name of a blob in the archive."""
    return "blobs/sha256/" + digest.removeprefix("sha256:")


def parts(images: Sequence[Saved]) -> Iterator[bytes | LayerContent]:
    """Yields the archive in order: bytes, and a `LayerContent` at each place where the content of a blob must be
    inserted."""
    yield from _archive(dict(itertools.chain(_blobs(images), _documents(images))))


def layout_parts(
    root: Descriptor,
    blobs: Sequence[Descriptor],
    names: Sequence[Reference],
    annotations: Mapping[str, str],
    docker: tuple[str, Sequence[str]] | None,
) -> Iterator[bytes | LayerContent]:
    """The archive of a manifest or index (`root`), which `engine.building` has made. In the archive, this document has all
    of these `names`. `blobs` are all blobs that the document refers to. `docker` contains the digests of the configuration
    and of the layers for `manifest.json`; if it is None, no `manifest.json` is written."""
    members: dict[str, bytes | LayerContent] = {blob_path(blob.digest): blob_content(blob) for blob in (root, *blobs)}
    named = [{**annotations, _NAME: str(name), _REF_NAME: name.tag} for name in names] or [dict(annotations)]
    entries = [_Descriptor(root.media_type, root.digest, root.size, entry or None) for entry in named]
    members["index.json"] = msgspec.json.encode(_Index(2, OCI_INDEX, entries))
    members["oci-layout"] = _LAYOUT
    if docker is not None:
        config, layers = docker
        entry = _Entry(blob_path(config), [name.familiar for name in names] or None, [blob_path(one) for one in layers])
        members["manifest.json"] = msgspec.json.encode([entry])
    yield from _archive(members)


def blob_content(blob: Descriptor) -> LayerContent:
    """The `LayerContent` for a blob of the content store."""
    return LayerContent(Layer(blob.digest, blob.media_type, blob.size, "", "", 0), blob.size)


def _archive(members: Mapping[str, bytes | LayerContent]) -> Iterator[bytes | LayerContent]:
    for name in ("blobs/", "blobs/sha256/"):
        yield _header(name, 0)
    for name, content in sorted(members.items()):
        size = content.size if isinstance(content, LayerContent) else len(content)
        yield _header(name, size)
        yield content
        yield padding(size)
    yield END


def _header(name: str, size: int) -> bytes:
    kind, mode = (b"5", 0o755) if name.endswith("/") else (b"0", 0o644)
    return entry_header(Entry(name.encode(), kind, mode, 0, 0, size, 0, b"", 0, 0))


def _blobs(images: Sequence[Saved]) -> Iterator[tuple[str, bytes | LayerContent]]:
    for saved in images:
        for found in saved.images:
            yield blob_path(found.digest), found.manifest
            yield blob_path(found.config.digest), found.image.raw
            for layer, descriptor in zip(found.image.layers, found.layers, strict=True):
                yield blob_path(descriptor.digest), LayerContent(layer, descriptor.size)
        if isinstance(saved, SavedIndex):
            yield from _index_blobs(saved.index)


def _index_blobs(index: OutgoingIndex) -> Iterator[tuple[str, bytes | LayerContent]]:
    yield blob_path(index.descriptor.digest), index.data
    for attestation in index.attestations:
        yield blob_path(attestation.descriptor.digest), attestation.manifest
        for part in attestation.parts:
            yield blob_path(part.digest), blob_content(part)


def _documents(images: Sequence[Saved]) -> Iterator[tuple[str, bytes]]:
    encode = msgspec.json.encode
    yield "index.json", encode(_Index(2, OCI_INDEX, [entry for saved in images for entry in _index_entries(saved)]))
    yield "manifest.json", encode([_entry(saved) for saved in images])
    yield "oci-layout", _LAYOUT
    if repositories := _repositories(images):
        yield "repositories", encode(repositories, order="sorted")


def _index_entries(saved: Saved) -> Iterator[_Descriptor]:
    """The entries of `index.json`: one for each tag. containerd, podman and skopeo read the names of images from these
    entries."""
    manifest = saved.descriptor
    for tag in saved.tags:
        yield _descriptor(manifest, {_NAME: str(tag), _REF_NAME: tag.tag})
    if not saved.tags:
        yield _descriptor(manifest, None)


def _descriptor(manifest: Descriptor, annotations: dict[str, str] | None) -> _Descriptor:
    return _Descriptor(manifest.media_type, manifest.digest, manifest.size, annotations)


def _entry(saved: Saved) -> _Entry:
    tags = [tag.familiar for tag in saved.tags] or None
    layers = [blob_path(layer.digest) for layer in saved.outgoing.layers]
    return _Entry(blob_path(saved.outgoing.config.digest), tags, layers)


def _repositories(images: Sequence[Saved]) -> dict[str, dict[str, str]]:
    """Repository -> tag -> top layer, for engines before Docker 1.10. An image without layers has no entry."""
    found: dict[str, dict[str, str]] = {}
    for saved in images:
        for tag in saved.tags if saved.outgoing.layers else ():
            top = saved.outgoing.layers[-1].digest.removeprefix("sha256:")
            found.setdefault(tag.familiar_name, {})[tag.tag] = top
    return found
