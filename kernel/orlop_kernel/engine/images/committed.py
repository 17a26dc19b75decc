"""An image of a container: its image's layers, one more of what it changed, and a configuration."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from orlop_kernel.spi import InvalidParameter
from orlop_kernel.types import rfc3339
from orlop_kernel.types.images import History, ImageConfig, ImageDocument, RootFS

from . import documents
from .policy import UNRESTRICTED, ImagePolicy, check_names
from .records import Image, Layer
from .references import Reference
from .stock import Stock

__all__ = ["CommitRequest", "Committer", "merge"]


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """Without a name the image is untagged. `created_by` is the command of the container."""

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
    """`own` with everything that it does not say from `below`: Docker's rules (daemon/commit.go)."""
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
    def __init__(self, stock: Stock, max_depth: int) -> None:
        self._stock, self._max_depth = stock, max_depth

    async def make(self, request: CommitRequest, diff: AsyncIterable[bytes]) -> Image:
        """Store and unpack the layer, then acknowledge the image."""
        base = request.base
        if len(base.layers) >= self._max_depth:
            raise InvalidParameter(f"max depth exceeded: an image has {self._max_depth} layers at most")
        stock = self._stock
        check_names(request.policy, stock.catalog, [request.name] if request.name else [], "")
        async with stock.making() as lease:
            lease.blobs.update((base.id, *(layer.blob for layer in base.layers)))
            lease.chains.update(base.chain_ids)
            blob, size = await stock.receive(diff, lease)
            diff_ids = [*(layer.diff_id for layer in base.layers), blob]  # a plain tar: its digest is its diffID
            chain_id = documents.chain_ids(diff_ids)[-1]
            await stock.hold(lease, chain_id=chain_id)
            built = await stock.layers.build(chain_id, base.chain_id, blob, blob, lambda _: None, lambda *_: None)
            layers = [*base.layers, Layer(blob, "", size, blob, chain_id, built.size)]
            document = self._document(request, diff_ids)
            return await stock.make(document, layers, request.name, lease, base.id, request.policy)

    def _document(self, request: CommitRequest, diff_ids: list[str]) -> ImageDocument:
        below, now = request.base.document, rfc3339(time.time_ns())
        step = History(created=now, created_by=request.created_by, author=request.author, comment=request.comment)
        return ImageDocument(
            architecture=below.architecture,
            author=request.author,
            comment=request.comment,
            config=request.config,
            created=now,
            history=[*(below.history or ()), step],
            os=below.os,
            os_version=below.os_version,
            rootfs=RootFS("layers", diff_ids),
            variant=below.variant,
        )
