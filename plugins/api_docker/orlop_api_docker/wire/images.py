"""Images in answers of the API."""

from __future__ import annotations

from msgspec import UNSET, Raw, Struct, UnsetType

from orlop_engine.images.attestations import Attestation
from orlop_engine.types.images import ManifestDescriptor

__all__ = ["AttestationView", "attestation_view"]


class AttestationView(Struct, frozen=True, rename="pascal"):
    """An item of `GET /images/{name}/attestations`."""

    descriptor: ManifestDescriptor
    predicate_type: str
    statement: Raw | UnsetType = UNSET


def attestation_view(found: Attestation) -> AttestationView:
    blob = found.descriptor
    descriptor = ManifestDescriptor(blob.media_type, blob.digest, blob.size, blob.annotations)
    return AttestationView(descriptor, found.predicate_type, UNSET if found.statement is None else found.statement)
