"""OCI descriptors in answers of the API (image-spec descriptor.md)."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["DescriptorView", "PlatformView"]


class PlatformView(
    Struct, frozen=True, omit_defaults=True, rename={"os_version": "os.version", "os_features": "os.features"}
):
    """A platform, with its fields in the OCI specification's order. The first two fields are always set."""

    architecture: str
    os: str
    os_version: str = ""
    os_features: list[str] = []
    variant: str = ""


class DescriptorView(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An OCI descriptor of a manifest."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    platform: PlatformView | None = None
    artifact_type: str | None = None
