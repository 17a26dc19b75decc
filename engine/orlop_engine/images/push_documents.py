"""Push of manifests that others have written (`building`): the blobs that they name, then the manifests, the root last."""

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
    """A manifest or an index. `blobs` are what it names, without other documents."""

    media_type: str
    data: bytes
    blobs: tuple[Descriptor, ...] = ()

    @property
    def digest(self) -> str:
        return documents.digest(self.data)


async def push_documents(
    target: PushTarget, found: Sequence[Document], shown: Mapping[str, str], *, by_digest: bool
) -> None:
    """Push documents: an index comes after what it lists, and the last gets the target's tag, unless `by_digest`. `shown`:
    the names of blobs in progress records. The caller's lease holds the blobs."""
    blobs = {blob.digest: blob for document in found for blob in document.blobs}
    # The largest first: small ones fill the gaps
    order = sorted(blobs.values(), key=lambda blob: -blob.size)
    await run_all(partial(_blob, target, blob, shown.get(blob.digest, "")) for blob in order)
    for document in found:
        last = document is found[-1] and not by_digest
        await target.manifest(target.name.tag if last else document.digest, document.media_type, document.data)
    await target.remember(blobs.values())


async def _blob(target: PushTarget, blob: Descriptor, id: str) -> None:
    async with target.uploads.slot(id, target.report):
        await target.blob(blob, id)
