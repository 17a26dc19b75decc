"""Push an index (Docker's "manifest list"), which lists the manifests of images, one for each platform, and attestations.
First the layers of all images are pushed in parallel, then each image and attestation, and then the index.

A registry accepts an index only if it has all manifests that the index lists. So after a failed push, the registry has no
tag for the index.
"""

from __future__ import annotations

from functools import partial

from .outgoing import Outgoing
from .outgoing_index import OutgoingIndex
from .policy import check_names
from .progress import state
from .push_target import PushTarget, progress_id
from .records import Layer
from .tasks import run_all

__all__ = ["push_index", "push_layers"]


async def push_layers(target: PushTarget, index: OutgoingIndex) -> None:
    """Upload the layers of all images that an index lists. A layer that several images share is uploaded only once."""
    images = [image.image for image in index.images]
    for image in images:
        for layer in reversed(image.layers):
            target.report(state(progress_id(layer), "Preparing"))
    distinct = {layer.blob: layer for image in images for layer in reversed(image.layers)}
    await run_all(partial(_layer, target, layer) for layer in distinct.values())


async def _layer(target: PushTarget, layer: Layer) -> None:
    async with target.uploads.slot(progress_id(layer), target.report):
        await target.layer(layer)


async def push_index(target: PushTarget, index: OutgoingIndex) -> None:
    """Push an index under the target's tag, after its layers were uploaded. The caller's lease contains the content of the
    index."""
    store, by_digest = target.image_store, target.name.with_digest(index.descriptor.digest)
    check_names(target.request.policy, store.catalog, [by_digest], index.images[0].image.id)
    for image in index.images:
        await _image(target, image)
    for attestation in index.attestations:
        for part in attestation.parts:
            await target.blob(part)
        about = attestation.descriptor
        await target.manifest(about.digest, about.media_type, attestation.manifest)
        await target.remember(attestation.parts)
    await target.manifest(target.name.tag, index.descriptor.media_type, index.data)
    manifests = {image.image.id: image.digest for image in index.images}
    await store.add_index(by_digest, index.descriptor.digest, manifests, target.request.policy)


async def _image(target: PushTarget, image: Outgoing) -> None:
    await target.blob(image.config)
    await target.manifest(image.digest, image.media_type, image.manifest)
    await target.remember((image.config, *image.layers))
