"""`docker commit`: make an image from the layers of the container's image, a layer with the container's changes, and a
configuration."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from orlop_engine.types import rfc3339
from orlop_engine.types.images import History, ImageConfig, ImageDocument, RootFS
from orlop_sdk import InvalidParameter

from . import documents
from .image_store import ImageStore
from .leases import Lease
from .policy import UNRESTRICTED, ImagePolicy, check_names
from .records import Image, Layer
from .references import Reference

__all__ = ["CommitRequest", "Committer", "merge"]

_EMPTY = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
"""The tar without members, 1,024 zeros: `DigestSHA256EmptyTar` of moby's layer package."""


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """Without a name the image is untagged. `created_by` is the container's command."""

    base: Image
    config: ImageConfig
    name: Reference | None = None
    comment: str = ""
    author: str = ""
    created_by: str = ""
    policy: ImagePolicy = UNRESTRICTED


def _union(own: dict[str, Any] | None, below: dict[str, Any] | None) -> dict[str, Any] | None:
    return {**(below or {}), **(own or {})} or None


def merge(own: ImageConfig, below: ImageConfig) -> ImageConfig:
    """A copy of the configuration `own`. As in Docker (daemon/commit.go), a field that is not set in `own` has the value of
    the configuration `below`."""
    env = list(own.env or ())
    names = {entry.partition("=")[0] for entry in env}
    env += [entry for entry in below.env or () if entry.partition("=")[0] not in names]
    return replace(
        own,
        user=own.user or below.user,
        exposed_ports=_union(own.exposed_ports, below.exposed_ports),
        env=env or None,
        cmd=own.cmd if own.cmd or own.entrypoint else below.cmd,
        entrypoint=below.entrypoint if own.entrypoint is None else own.entrypoint,
        healthcheck=own.healthcheck or below.healthcheck,
        volumes=_union(own.volumes, below.volumes),
        working_dir=own.working_dir or below.working_dir,
        labels=_union(own.labels, below.labels),
        stop_signal=own.stop_signal or below.stop_signal,
        shell=own.shell or below.shell,
        on_build=own.on_build,
    )


class Committer:
    def __init__(self, image_store: ImageStore, max_depth: int) -> None:
        self._image_store, self._max_depth = image_store, max_depth

    async def make(self, request: CommitRequest, diff: AsyncIterable[bytes]) -> Image:
        """Store and unpack the layer, then commit the image. If the container has changed no file, no layer is added."""
        base, image_store = request.base, self._image_store
        check_names(request.policy, image_store.catalog, [request.name] if request.name else [], "")
        async with image_store.lease_for_new_image() as lease:
            lease.blobs.update((base.id, *(blob for layer in base.layers for blob in layer.blobs)))
            lease.chains.update(base.chain_ids)
            blob, size = await image_store.receive(diff, lease)
            layers = list(base.layers)
            if blob != _EMPTY:
                layers.append(await self._layer(base, blob, size, lease))
            document = self._document(request, layers, empty=blob == _EMPTY)
            made = await image_store.make(document, layers, request.name, lease, base.id, request.policy)
        if blob == _EMPTY:
            await image_store.collect()
        return made

    async def _layer(self, base: Image, blob: str, size: int, lease: Lease) -> Layer:
        if len(base.layers) >= self._max_depth:
            raise InvalidParameter(f"max depth exceeded: an image has {self._max_depth} layers at most")
        # The blob is an uncompressed tar, so its digest is the diffID
        chain_id = documents.chain_ids([*(layer.diff_id for layer in base.layers), blob])[-1]
        await self._image_store.hold(lease, chain_id=chain_id)
        built = await self._image_store.layers.build(chain_id, base.chain_id, blob, blob, lambda _: None, lambda *_: None)
        return Layer(blob, "", size, blob, chain_id, built.size)

    def _document(self, request: CommitRequest, layers: Sequence[Layer], *, empty: bool) -> ImageDocument:
        below, now = request.base.document, rfc3339(time.time_ns())
        step = History(now, request.created_by, request.author, request.comment, empty)
        return ImageDocument(
            architecture=below.architecture,
            author=request.author,
            comment=request.comment,
            config=request.config,
            created=now,
            history=[*(below.history or ()), step],
            os=below.os,
            os_version=below.os_version,
            rootfs=RootFS("layers", [layer.diff_id for layer in layers]),
            variant=below.variant,
        )
