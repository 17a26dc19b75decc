"""Makes the documents of a result: configurations, manifests and attestations for each platform, and an index if needed.

All documents and blobs are stored in an artifact of the daemon. The caller drops this artifact.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import trio

from orlop_build_dockerfile.attest.statements import Predicate, purl, statement
from orlop_build_dockerfile.cache.records import Record
from orlop_build_dockerfile.contracts import (
    Blob,
    BuildFailed,
    Download,
    ImagePart,
    LayerBlob,
    LayerForm,
    Manifest,
    Ref,
    Report,
    Result,
)
from orlop_build_dockerfile.contracts import Vertex as Shown
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.ops.source import diff_ids
from orlop_sdk import OrlopError

from . import documents
from .config import BuiltLayer, complete
from .options import ImageOptions

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["Composed", "Composer", "Target", "artifact", "reporter", "targets"]

_PACKING = 2  # number of layers that are compressed at the same time
_REFERENCE = {"vnd.docker.reference.type": "attestation-manifest"}


class Target(msgspec.Struct, frozen=True):
    """A result for one platform. `key` is its name in the result, "" if there is only one platform."""

    key: str
    platform: str
    ref: Ref


class Composed(msgspec.Struct, frozen=True):
    """`manifests` are sorted: each manifest comes before the index that lists it, and the last one is the root. `config` is
    the digest of the configuration, "" if there are several. `parts` are the images for the daemon's store, by platform."""

    root: Blob
    manifests: Sequence[Manifest]
    parts: Sequence[tuple[str, ImagePart]]
    config: str
    platform: str
    layers: tuple[str, ...] = ()
    annotations: Mapping[str, str] = {}

    @property
    def index(self) -> str:
        return "" if self.config else self.root.digest

    @property
    def blobs(self) -> list[Blob]:
        """All blobs except the root, without duplicates."""
        found = {blob.digest: blob for manifest in self.manifests for blob in manifest.blobs}
        found.update((one.descriptor.digest, one.descriptor) for one in self.manifests[:-1])
        return list(found.values())


def targets(job: SolverJob, result: Result) -> list[Target]:
    """The results, with their platforms."""
    host = (job.core.settings.platforms or ("linux/amd64",))[0]
    platforms: list[str] = []
    try:
        listed = json.loads(result.metadata.get("refs.platforms", b"{}")).get("Platforms") or []
        platforms = [str(entry["ID"]) for entry in listed]
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise BuildFailed(f"failed to parse platforms passed to exporter: {error}") from None
    if "" in result.refs:
        if len(result.refs) > 1 or len(platforms) > 1:
            raise BuildFailed("cannot export multiple platforms without multi-platform enabled")
        return [Target("", _platform(platforms[0] if platforms else host), result.refs[""])]
    if platforms and set(platforms) != set(result.refs):
        raise BuildFailed(f"number of platforms does not match references {len(platforms)} {len(result.refs)}")
    return [Target(key, _platform(key), result.refs[key]) for key in platforms or result.refs]


def _platform(text: str) -> str:
    if len(text) > 100 or not 2 <= len(text.split("/")) <= 3:
        raise BuildFailed(f"invalid platform {text[:100]!r}", code=3)
    return text


@asynccontextmanager
async def artifact(job: SolverJob) -> AsyncIterator[str]:
    """An artifact until the end of the block."""
    name = uuid.uuid4().hex
    try:
        yield name
    finally:
        with trio.move_on_after(30, shield=True):
            try:
                await job.core.backend.drop(name)
            except OrlopError:
                pass  # the daemon drops the artifact when the builder disconnects


class Composer:
    """Composes one export of a build."""

    def __init__(self, job: SolverJob, shown: Shown, result: Result, options: ImageOptions) -> None:
        self._job, self._shown, self._result, self._options = job, shown, result, options

    def _config(self, kind: str, target: Target) -> bytes:
        return self._result.metadata.get(f"containerimage.{kind}" + (f"/{target.key}" if target.key else ""), b"")

    async def plain(self, target: Target) -> ImagePart:
        """The image of a result for the daemon's store, with its layers as snapshots."""
        chain = await self._chain(target)
        layers = await self._layers(target, chain)
        return ImagePart(self._complete(target, layers), chain)

    async def _chain(self, target: Target) -> list[str]:
        snapshot = await self._job.snapshot(target.ref)
        return list(self._job.core.records.chain(snapshot))[::-1]

    async def _layers(self, target: Target, chain: Sequence[str]) -> list[BuiltLayer]:
        """The layers of a chain of snapshots, lowest first. The lowest snapshot may be the top layer of an image."""
        records, backend = self._job.core.records, self._job.core.backend
        found = {snapshot: record for snapshot in chain if (record := records.of_snapshot(snapshot)) is not None}
        limiter = trio.CapacityLimiter(_PACKING)

        async def pack(snapshot: str, record: Record) -> None:
            async with limiter:
                record.layers[snapshot] = await backend.pack(snapshot)

        async with nursery() as packing:
            for snapshot, record in found.items():
                if snapshot not in record.layers:
                    packing.start_soon(pack, snapshot, record)
        base = [] if len(found) == len(chain) else await self._base_layers(chain[0])
        layers = [BuiltLayer(diff_id) for diff_id in base]
        for snapshot, record in found.items():
            layers.append(BuiltLayer(record.layers[snapshot].diff_id, record.created, record.description))
        return layers

    async def _base_layers(self, snapshot: str) -> Sequence[str]:
        """The diffIDs of the image whose top layer is `snapshot`."""
        known = self._job.core.records.base_layers.get(snapshot)
        if known is not None:
            return known
        base = await self._job.base_of(snapshot)
        if base is None:
            raise BuildFailed(f"cannot export layers: no image of this build has the snapshot {snapshot}")
        return diff_ids(base.config)

    def _complete(self, target: Target, layers: Sequence[BuiltLayer], cache: bytes = b"") -> bytes:
        return complete(
            self._config("config", target),
            layers,
            base=self._config("base.config", target),
            cache=cache,
            platform=target.platform,
            epoch=self._options.epoch,
            now=time.time(),
        )

    # --- documents

    async def compose(
        self, name: str, found: Sequence[Target], predicates: Mapping[str, Sequence[Predicate]], *, index: bool
    ) -> Composed:
        """The documents of an image, or of an `index` of images and attestations. The keys of `predicates` are the keys of
        the targets. The documents are stored in the artifact `name`."""
        oci, notes = self._options.oci or any(predicates.values()), self._options.annotations
        if notes.need_index and not index:
            raise BuildFailed("index annotations not supported for single platform export", code=3)
        images = [await self._image(name, target, oci) for target in found]
        if not index:
            (image,) = images
            annotations = notes.of("manifest-descriptor", found[0].platform)
            return Composed(
                image.manifest.descriptor,
                [image.manifest],
                [self._part(image, [image.manifest.descriptor.digest], ())],
                image.manifest.blobs[0].digest,
                found[0].platform,
                tuple(blob.digest for blob in image.manifest.blobs[1:]),
                annotations,
            )
        about = [
            await self._attestation(name, target, image, predicates.get(target.key, ()))
            for target, image in zip(found, images, strict=True)
        ]
        entries: list[tuple[Blob, str, Mapping[str, str]]] = [
            (image.manifest.descriptor, target.platform, notes.of("manifest-descriptor", target.platform))
            for target, image in zip(found, images, strict=True)
        ]
        for image, manifest in zip(images, about, strict=True):
            if manifest is not None:
                reference = {**_REFERENCE, "vnd.docker.reference.digest": image.manifest.descriptor.digest}
                entries.append((manifest.descriptor, "unknown/unknown", reference))
        data, root = documents.image_index(entries, notes.of("index"), oci=oci)
        await self._put(name, data, "manifest list", root)
        parts = [
            self._part(image, [root.digest, image.manifest.descriptor.digest], _all_of(manifest))
            for image, manifest in zip(images, about, strict=True)
        ]
        manifests = [*(image.manifest for image in images), *filter(None, about), Manifest(root)]
        return Composed(root, manifests, parts, "", "", (), notes.of("index-descriptor"))

    def _part(self, image: _Image, manifests: Sequence[str], attachments: Sequence[str]) -> tuple[str, ImagePart]:
        part = ImagePart(image.config, image.chain, image.layers, tuple(manifests), tuple(attachments))
        return image.platform, part

    async def _put(self, name: str, data: bytes, what: str, blob: Blob) -> None:
        text = f"exporting {what} {blob.digest}"
        await self._job.core.backend.put(name, data)
        self._shown.status(text, name=text, done=True)

    async def _image(self, name: str, target: Target, oci: bool) -> _Image:
        chain = await self._chain(target)
        packed = await self._layers(target, chain)
        blobs = await self.stored(name, chain, self._options.form)
        layers = [msgspec.structs.replace(layer, diff_id=blob.diff_id) for layer, blob in zip(packed, blobs, strict=True)]
        config = self._complete(target, layers, await self._inline_cache(target, chain, blobs))
        config = await self._job.core.backend.labelled(config)
        described = documents.image_config(config, oci)
        parts = [documents.layer_part(blob, oci) for blob in blobs]
        data, root = documents.image_manifest(
            described, parts, self._options.annotations.of("manifest", target.platform), oci=oci
        )
        await self._put(name, data, "manifest", root)
        await self._put(name, config, "config", described)
        shown = {blob.digest: _short(blob.digest) for blob in blobs}
        return _Image(target.platform, config, chain, blobs, Manifest(root, [described, *parts], shown))

    async def stored(self, name: str, chain: Sequence[str], form: LayerForm) -> Sequence[LayerBlob]:
        """The layers of a chain as blobs, reported on the vertex of the export."""
        if not chain:
            return ()
        return await self._job.core.backend.layers(name, chain, form, reporter(self._shown))

    async def _inline_cache(self, target: Target, chain: Sequence[str], blobs: Sequence[LayerBlob]) -> bytes:
        remote = self._job.remote
        if remote is None or not any(each.kind == "inline" for each in self._job.build.cache_exports):
            return b""
        from orlop_build_dockerfile.remote.exports import inline

        return await inline(self._job, remote, target.ref, blobs, chain)

    async def _attestation(
        self, name: str, target: Target, image: _Image, predicates: Sequence[Predicate]
    ) -> Manifest | None:
        if not predicates:
            return None
        digest = image.manifest.descriptor.digest
        subjects = [(purl(each, image.platform), digest) for each in self._options.names]
        stored: list[tuple[Blob, str]] = []
        for predicate in predicates:
            if predicate.names_layers:
                predicate = await self._with_layers(name, target, image, predicate)
            data = statement(predicate, subjects)
            stored.append((documents.described(data, documents.IN_TOTO), predicate.type))
            await self._job.core.backend.put(name, data)
        config = documents.attestation_config([blob for blob, _ in stored])
        await self._job.core.backend.put(name, config)
        described = documents.image_config(config, True)
        data, root = documents.attestation_manifest(described, stored)
        await self._put(name, data, "attestation manifest", root)
        return Manifest(root, [described, *(blob for blob, _ in stored)])

    async def _with_layers(self, name: str, target: Target, image: _Image, predicate: Predicate) -> Predicate:
        """The provenance of an image with the layers of its steps."""
        from orlop_build_dockerfile.attest.layers import Named, add_layers, layers_of_steps

        async def of_other(snapshot: str) -> Sequence[Blob]:
            # Existing blobs are used; a layer without a blob is described as a plain tar
            form = LayerForm("uncompressed")
            blobs = await self._job.core.backend.layers(name, [snapshot], form, lambda _: None)
            return [documents.layer_part(blob, oci=True) for blob in blobs]

        named = Named(image.manifest.blobs[1:], [blob.diff_id for blob in image.layers], image.chain)
        return await add_layers(predicate, await layers_of_steps(self._job, target.ref, named, of_other))


class _Image(msgspec.Struct, frozen=True):
    platform: str
    config: bytes
    chain: Sequence[str]
    layers: Sequence[LayerBlob]
    manifest: Manifest


def _all_of(manifest: Manifest | None) -> list[str]:
    return [manifest.descriptor.digest, *(blob.digest for blob in manifest.blobs)] if manifest else []


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def reporter(shown: Shown) -> Report:
    """A function that shows the progress of layers on a vertex."""

    def report(download: Download) -> None:
        name = f"{download.what} {download.layer}" if download.what != "done" else f"layer {download.layer}"
        shown.status(
            f"{download.layer}", name=name, current=download.current, total=download.total, done=download.what == "done"
        )

    return report
