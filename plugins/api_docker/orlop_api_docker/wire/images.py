"""Images in answers of the API. The order of fields is Docker's, because clients show raw JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from orlop_api_docker.responses import encode
from orlop_api_docker.wire.descriptors import DescriptorView, PlatformView
from orlop_engine.images.documents import go_compat
from orlop_engine.images.records import unix_time
from orlop_engine.types.containers import ContainerConfig
from orlop_sdk.base import ZERO_TIME

if TYPE_CHECKING:
    from orlop_engine.images.attestations import Attestation
    from orlop_engine.images.details import HistoryStep, ImageDetails, ListedImage, ManifestDetails, RemovedItem
    from orlop_engine.images.inspection import Distribution, DistributionPlatform
    from orlop_engine.images.manifests import Descriptor
    from orlop_engine.images.records import Image

__all__ = [
    "AttestationView",
    "DeletedItem",
    "DistributionView",
    "HistoryItem",
    "ImageSummary",
    "ImageView",
    "PruneReport",
    "attestation_view",
    "deleted_items",
    "distribution_view",
    "history_items",
    "image_summary",
    "image_view",
]

Version = tuple[int, int]

# Fields that 1.50 and 1.51 show even if empty (api/types/image, legacy fields)
_ALWAYS: dict[str, Any] = {
    "Cmd": None,
    "Entrypoint": None,
    "Env": None,
    "Labels": None,
    "OnBuild": None,
    "User": "",
    "Volumes": None,
    "WorkingDir": "",
}


class _Wire(Struct, frozen=True, rename="pascal"):
    """Base of the structs of answers. They are frozen, because an answer is built once and then only encoded."""


class ManifestSize(_Wire, frozen=True):
    """`content`: the bytes of blobs. `total`: the bytes of blobs and unpacked files."""

    content: int
    total: int


class UnpackedSize(_Wire, frozen=True):
    unpacked: int


class PullIdentity(_Wire, frozen=True):
    """A repository that the image was pulled from or pushed to."""

    repository: str


class IdentityView(_Wire, frozen=True):
    """The origin of an image, as far as the daemon itself has seen it. Signatures are not verified."""

    pull: list[PullIdentity]


class ImageData(_Wire, frozen=True):
    platform: PlatformView
    identity: IdentityView | UnsetType
    containers: list[str]
    size: UnpackedSize


class AttestationData(_Wire, frozen=True):
    """`for_`: the digest of the manifest that the attestation is about."""

    for_: str = field(name="For")


class ManifestView(_Wire, frozen=True):
    """An item of `Manifests` in list (since API 1.47) and inspect (since 1.48)."""

    id: str = field(name="ID")
    descriptor: DescriptorView
    available: bool
    size: ManifestSize
    kind: str
    image_data: ImageData | UnsetType = UNSET
    attestation_data: AttestationData | UnsetType = UNSET


class ImageSummary(_Wire, frozen=True):
    """One item of `GET /images/json`. `virtual_size` is for clients before 1.44. -1 means unknown."""

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
    manifests: list[ManifestView] | UnsetType = UNSET
    descriptor: DescriptorView | UnsetType = UNSET


class ImageMetadata(_Wire, frozen=True):
    last_tag_time: str = ZERO_TIME


class InspectRootFS(_Wire, frozen=True):
    type: str
    layers: list[str]


class InspectGraphDriver(_Wire, frozen=True):
    data: dict[str, str] | None
    name: str


class ImageView(_Wire, frozen=True):
    """`GET /images/{name}/json`. `container_config` is for clients before 1.45, `virtual_size` before 1.44. Since 1.52,
    empty texts are omitted."""

    id: str
    repo_tags: list[str]
    repo_digests: list[str]
    parent: str | UnsetType
    comment: str | UnsetType
    created: str | UnsetType
    container_config: Raw | UnsetType
    docker_version: str | UnsetType
    author: str | UnsetType
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
    descriptor: DescriptorView | UnsetType = UNSET
    manifests: list[ManifestView] | UnsetType = UNSET
    identity: IdentityView | UnsetType = UNSET


class HistoryItem(_Wire, frozen=True):
    """One item of `GET /images/{name}/history`, newest first."""

    comment: str
    created: int
    created_by: str
    id: str
    size: int
    tags: list[str] | None


class DeletedItem(_Wire, frozen=True, omit_defaults=True):
    """One item of a removal's answer. Exactly one of the fields is set."""

    untagged: str = ""
    deleted: str = ""


class PruneReport(_Wire, frozen=True):
    images_deleted: list[DeletedItem] | None
    space_reclaimed: int


class AttestationView(_Wire, frozen=True):
    """An item of `GET /images/{name}/attestations`."""

    descriptor: DescriptorView
    predicate_type: str
    statement: Raw | UnsetType = UNSET


class DistributionView(_Wire, frozen=True):
    """`GET /distribution/{name}/json`."""

    descriptor: DescriptorView
    platforms: list[PlatformView] | None


def _descriptor(blob: Descriptor) -> DescriptorView:
    given, platform = blob.platform, None
    if given:
        platform = PlatformView(given.architecture, given.os, given.os_version, list(given.os_features), given.variant)
    return DescriptorView(blob.media_type, blob.digest, blob.size, blob.annotations, platform, blob.artifact_type)


def _manifest(found: ManifestDetails) -> ManifestView:
    image: ImageData | UnsetType = UNSET
    if found.platform is not None:
        platform = PlatformView(found.platform.architecture, found.platform.os, variant=found.platform.variant)
        identity = _identity(found.repositories)
        image = ImageData(platform, identity, list(found.containers), UnpackedSize(found.unpacked))
    attestation = AttestationData(found.about) if found.kind == "attestation" else UNSET
    size = ManifestSize(found.stored, found.stored + found.unpacked)
    blob = found.descriptor
    return ManifestView(blob.digest, _descriptor(blob), found.available, size, found.kind, image, attestation)


def _identity(repositories: Sequence[str]) -> IdentityView | UnsetType:
    return IdentityView([PullIdentity(name) for name in repositories]) if repositories else UNSET


def _target(found: Descriptor | None) -> DescriptorView | UnsetType:
    return UNSET if found is None else _descriptor(found)


def _manifests(found: Iterable[ManifestDetails] | None) -> list[ManifestView] | UnsetType:
    return UNSET if found is None else [_manifest(each) for each in found]


def image_summary(item: ListedImage, version: Version) -> ImageSummary:
    """One item of a list. Before 1.43 an image without names is called `<none>:<none>`."""
    image, tags, digests = item.image, item.tags, item.digests
    if version < (1, 43) and not tags and not digests:
        tags, digests = ["<none>:<none>"], ["<none>@<none>"]
    return ImageSummary(
        containers=-1 if item.containers is None else item.containers,
        created=image.created_unix,
        id=image.id,
        labels=image.config.labels,
        parent_id=image.parent,
        repo_digests=digests,
        repo_tags=tags,
        shared_size=-1 if item.shared_size is None else item.shared_size,
        size=item.size,
        virtual_size=image.size if version < (1, 44) else UNSET,
        manifests=_manifests(item.manifests),
        descriptor=_target(item.target),
    )


def _config(image: Image, version: Version) -> Raw:
    if version >= (1, 50):
        shown = msgspec.to_builtins(image.config)
        return Raw(encode(shown if version >= (1, 52) else {**_ALWAYS, **shown}))
    raw = go_compat(msgspec.json.decode(image.raw))
    try:
        old = msgspec.convert(raw.get("config", {}), ContainerConfig)
    except msgspec.ValidationError:
        # Fields that only old builders wrote were not checked, and may have any content. All other fields were checked when
        # the image was added
        old = msgspec.convert(msgspec.to_builtins(image.config), ContainerConfig)
    return Raw(encode(old))


def _last_comment(image: Image) -> str:
    steps = image.document.history
    return steps[-1].comment if steps else ""


def image_view(found: ImageDetails, version: Version) -> ImageView:
    """The answer of inspect. For API versions before 1.50, this function parses the image's document, which may be large."""
    image, document = found.image, found.image.document

    def text(value: str) -> str | UnsetType:
        return value or (UNSET if version >= (1, 52) else "")

    return ImageView(
        id=image.id,
        repo_tags=found.tags,
        repo_digests=found.digests,
        parent=text(image.parent),
        comment=text(document.comment or _last_comment(image)),
        created=document.created or (ZERO_TIME if version < (1, 44) else UNSET),
        container_config=Raw(encode(ContainerConfig())) if version < (1, 45) else UNSET,
        docker_version=text(document.docker_version),
        author=text(document.author),
        config=_config(image, version),
        architecture=image.architecture,
        variant=image.variant or UNSET,
        os=image.os,
        os_version=document.os_version or UNSET,
        size=image.size,
        virtual_size=image.size if version < (1, 44) else UNSET,
        graph_driver=InspectGraphDriver(dict(found.storage) or None, found.storage_driver),
        root_fs=InspectRootFS("layers", [layer.diff_id for layer in image.layers]),
        metadata=ImageMetadata(image.record.tagged or ZERO_TIME),
        descriptor=_target(found.target),
        manifests=_manifests(found.manifests),
        identity=_identity(found.repositories),
    )


def history_items(steps: Iterable[HistoryStep]) -> list[HistoryItem]:
    return [
        HistoryItem(
            comment=step.comment,
            created=unix_time(step.created),
            created_by=step.created_by,
            id=image.id if image else "<missing>",
            size=size,
            tags=image.repo_tags or None if image else None,
        )
        for step, size, image in steps
    ]


def deleted_items(items: Iterable[RemovedItem]) -> list[DeletedItem]:
    return [DeletedItem(*item) for item in items]


def attestation_view(found: Attestation) -> AttestationView:
    blob = found.descriptor
    descriptor = DescriptorView(blob.media_type, blob.digest, blob.size, blob.annotations)
    return AttestationView(descriptor, found.predicate_type, UNSET if found.statement is None else found.statement)


def _distribution_platform(found: DistributionPlatform) -> PlatformView:
    return PlatformView(found.architecture, found.os, found.os_version, list(found.os_features), found.variant)


def distribution_view(found: Distribution) -> DistributionView:
    platforms = None if found.platforms is None else [_distribution_platform(each) for each in found.platforms]
    return DistributionView(_descriptor(found.descriptor), platforms)
