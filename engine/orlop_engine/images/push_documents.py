"""Push manifests and indexes (Docker's "manifest lists") that `engine.building` has made: first the blobs that the manifests
refer to, then the manifests, and last the document that refers to all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from . import documents
from .manifests import Descriptor
from .push_target import PushTarget
from .tasks import run_all

__all__ = ["Document", "push_documents"]


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or an index. `blobs` are the blobs that the document refers to, except other manifests and indexes."""

    media_type: str
    data: bytes
    blobs: tuple[Descriptor, ...] = ()

    @property
    def digest(self) -> str:
        return documents.digest(self.data)


async def push_documents(
    target: PushTarget, found: Sequence[Document], shown: Mapping[str, str], *, by_digest: bool
) -> None:
    """Push the documents. They must be sorted so that an index follows the manifests that it lists. The last document gets
    the target's tag, unless `by_digest` is true. `shown` maps the digests of blobs to their ids in progress records. The
    caller's lease contains the blobs."""
    blobs = {blob.digest: blob for document in found for blob in document.blobs}
    # Upload the largest blobs first, so that all slots are busy until the end
    order = sorted(blobs.values(), key=lambda blob: -blob.size)
    await run_all(partial(_blob, target, blob, shown.get(blob.digest, "")) for blob in order)
    for document in found:
        last = document is found[-1] and not by_digest
        await target.manifest(target.name.tag if last else document.digest, document.media_type, document.data)
    await target.remember(blobs.values())


async def _blob(target: PushTarget, blob: Descriptor, id: str) -> None:
    async with target.uploads.slot(id, target.report):
        await target.blob(blob, id)
