"""Images in the API: inspect, history, list items, by the client's API version. Sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from orlop_engine.types.containers import ContainerConfig
from orlop_engine.types.images import (
    HistoryItem,
    ImageInspect,
    ImageMetadata,
    ImageSummary,
    InspectGraphDriver,
    InspectRootFS,
)

from .catalog import Catalog
from .documents import go_compat
from .listing import Listed
from .records import Image, unix_time

__all__ = ["history", "inspect", "nameless", "summary"]

Version = tuple[int, int]
_NEVER = "0001-01-01T00:00:00Z"
_encode = msgspec.json.encode

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


def _config(image: Image, version: Version) -> msgspec.Raw:
    if version >= (1, 50):
        shown = msgspec.to_builtins(image.config)
        return msgspec.Raw(_encode(shown if version >= (1, 52) else {**_ALWAYS, **shown}))
    raw = go_compat(msgspec.json.decode(image.raw))
    try:
        old = msgspec.convert(raw.get("config", {}), ContainerConfig)
    except msgspec.ValidationError:
        # Fields that only old builders wrote may have any content; those that matter were checked when the image was added
        old = msgspec.convert(msgspec.to_builtins(image.config), ContainerConfig)
    return msgspec.Raw(_encode(old))


def inspect(
    image: Image, driver: str, data: Mapping[str, str], version: Version, names: tuple[list[str], list[str]] | None = None
) -> ImageInspect:
    """`GET /images/{name}/json`. `data` is the storage driver's description of the top layer. `names`: tags and digests to
    show, if not all of them."""
    document = image.document
    tags, digests = names or (image.repo_tags, image.repo_digests)
    return ImageInspect(
        id=image.id,
        repo_tags=tags,
        repo_digests=digests,
        parent=image.parent,
        comment=document.comment or _last_comment(image),
        created=document.created or (_NEVER if version < (1, 44) else UNSET),
        container_config=msgspec.Raw(_encode(ContainerConfig())) if version < (1, 45) else UNSET,
        docker_version=document.docker_version,
        author=document.author,
        config=_config(image, version),
        architecture=image.architecture,
        variant=image.variant or UNSET,
        os=image.os,
        os_version=document.os_version or UNSET,
        size=image.size,
        virtual_size=image.size if version < (1, 44) else UNSET,
        graph_driver=InspectGraphDriver(dict(data) or None, driver),
        root_fs=InspectRootFS("layers", [layer.diff_id for layer in image.layers]),
        metadata=ImageMetadata(image.record.tagged or _NEVER),
    )


def _last_comment(image: Image) -> str:
    steps = image.document.history
    return steps[-1].comment if steps else ""


def history(image: Image, catalog: Catalog) -> list[HistoryItem]:
    """Newest step first. IDs are known for the image and for the parents that still exist."""
    ids: dict[str, Image] = {}
    at: Image | None = image
    while at is not None and at.id not in ids:
        ids[at.id] = at
        at = catalog.images.get(at.parent)
    owners = list(ids.values())
    sizes = deque(layer.size for layer in image.layers)
    items = []
    for step in image.document.history or ():
        size = 0
        if not step.empty_layer and sizes:
            size = sizes.popleft()
        items.append((step, size))
    result = []
    for number, (step, size) in enumerate(reversed(items)):
        owner = owners[number] if number < len(owners) else None
        result.append(
            HistoryItem(
                comment=step.comment,
                created=unix_time(step.created),
                created_by=step.created_by,
                id=owner.id if owner else "<missing>",
                size=size,
                tags=owner.repo_tags or None if owner else None,
            )
        )
    return result


def summary(item: Listed, version: Version, shared_size: int, containers: int) -> ImageSummary:
    """One item of a list."""
    image = item.image
    return ImageSummary(
        containers=containers,
        created=image.created_unix,
        id=image.id,
        labels=image.config.labels,
        parent_id=image.parent,
        repo_digests=item.digests,
        repo_tags=item.tags,
        shared_size=shared_size,
        size=image.size,
        virtual_size=image.size if version < (1, 44) else UNSET,
    )


def nameless(item: Listed, version: Version) -> Listed:
    """In lists before 1.43 an image without names is called `<none>:<none>`."""
    if version >= (1, 43) or item.tags or item.digests:
        return item
    return Listed(item.image, ["<none>:<none>"], ["<none>@<none>"])
