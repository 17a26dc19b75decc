"""Images: the configuration document (OCI image-spec config.md, Docker's additions), and the API's answers about images.

Documents from registries may have unknown fields; their bytes are kept beside the parsed form, because an image's ID is
their hash. Field order is Docker's, as clients show raw JSON.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Raw, Struct, UnsetType, field

__all__ = [
    "DeletedItem",
    "History",
    "HistoryItem",
    "ImageConfig",
    "ImageDocument",
    "ImageHealthcheck",
    "ImageInspect",
    "ImageSummary",
    "PruneReport",
    "RootFS",
    "SearchResult",
]


class _Wire(Struct, frozen=True, rename="pascal"):
    """Frozen, unlike request bodies: all answers that show an image share these values."""


class ImageHealthcheck(_Wire, frozen=True, omit_defaults=True):
    """`HEALTHCHECK` of an image. Durations in ns."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ImageConfig(_Wire, frozen=True, omit_defaults=True):
    """An image's defaults for containers created from it. `None` where the image sets none."""

    user: str = ""
    exposed_ports: dict[str, Any] | None = None
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: ImageHealthcheck | None = None
    args_escaped: bool = False
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    shell: list[str] | None = None


class RootFS(Struct, frozen=True):
    """`diff_ids`: digests of the uncompressed layers, lowest first."""

    type: str = "layers"
    diff_ids: list[str] = []


class History(Struct, frozen=True, omit_defaults=True):
    """One build step. `empty_layer`: it created no layer."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageDocument(Struct, frozen=True, omit_defaults=True):
    """The configuration document whose hash is the image's ID. Times are RFC 3339."""

    architecture: str = ""
    comment: str = ""
    config: ImageConfig | None = None
    created: str = ""
    docker_version: str = ""
    history: list[History] | None = None
    os: str = ""
    os_version: str = field(name="os.version", default="")
    rootfs: RootFS | None = None
    variant: str = ""
    author: str = ""


class ManifestPlatform(Struct, frozen=True):
    """A platform in an OCI descriptor."""

    architecture: str
    os: str
    variant: str | UnsetType = UNSET


class ManifestDescriptor(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An OCI descriptor of a manifest."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    platform: ManifestPlatform | None = None


class ManifestSize(_Wire, frozen=True):
    """`content`: bytes of blobs; `total`: with unpacked files."""

    content: int
    total: int


class UnpackedSize(_Wire, frozen=True):
    unpacked: int


class ImageData(_Wire, frozen=True):
    platform: ManifestPlatform
    containers: list[str]
    size: UnpackedSize


class AttestationData(_Wire, frozen=True):
    """`for_`: the digest of the manifest that the attestation is about."""

    for_: str = field(name="For")


class ManifestSummary(_Wire, frozen=True):
    """One of `Manifests` in list (1.47) and inspect (1.48). `kind` is image, attestation or unknown."""

    id: str = field(name="ID")
    descriptor: ManifestDescriptor
    available: bool
    size: ManifestSize
    kind: str
    image_data: ImageData | UnsetType = UNSET
    attestation_data: AttestationData | UnsetType = UNSET


class ImageSummary(_Wire, frozen=True):
    """One item of `GET /images/json`. `virtual_size` is for clients before 1.44."""

    containers: int
    created: int
    id: str
    labels: dict[str, str] | None
    parent_id: str
    repo_digests: list[str]
    repo_tags: list[str]
    shared_size: int
    size: int
    virtual_size: int | UnsetType = UNSET
    manifests: list[ManifestSummary] | UnsetType = UNSET


class ImageMetadata(_Wire, frozen=True):
    last_tag_time: str = "0001-01-01T00:00:00Z"


class InspectRootFS(_Wire, frozen=True):
    type: str
    layers: list[str]


class InspectGraphDriver(_Wire, frozen=True):
    data: dict[str, str] | None
    name: str


class ImageInspect(_Wire, frozen=True):
    """`GET /images/{name}/json`. `container_config` is for clients before 1.45, `virtual_size` before 1.44."""

    id: str
    repo_tags: list[str]
    repo_digests: list[str]
    parent: str
    comment: str
    created: str | UnsetType
    container_config: Raw | UnsetType
    docker_version: str
    author: str
    config: Raw
    architecture: str
    variant: str | UnsetType
    os: str
    os_version: str | UnsetType
    size: int
    virtual_size: int | UnsetType
    graph_driver: InspectGraphDriver
    root_fs: InspectRootFS = field(name="RootFS")
    metadata: ImageMetadata = ImageMetadata()
    manifests: list[ManifestSummary] | UnsetType = UNSET


class HistoryItem(_Wire, frozen=True):
    """One item of `GET /images/{name}/history`, newest first."""

    comment: str
    created: int
    created_by: str
    id: str
    size: int
    tags: list[str] | None


class DeletedItem(_Wire, frozen=True, omit_defaults=True):
    """One item of a removal's answer: exactly one field is set."""

    untagged: str = ""
    deleted: str = ""


class SearchResult(Struct, frozen=True):
    """One item of `GET /images/search`; field names are those of the index. `is_automated` is always false (deprecated)."""

    star_count: int = 0
    is_official: bool = False
    name: str = ""
    is_automated: bool = False
    description: str = ""


class PruneReport(_Wire, frozen=True):
    images_deleted: list[DeletedItem] | None
    space_reclaimed: int
