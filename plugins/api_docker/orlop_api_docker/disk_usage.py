"""`GET /system/df`: the lists of older versions, and the sums by type of API 1.52 and newer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from orlop_engine.system.usage import ContainerUsage, Measured
from orlop_engine.volumes.record import VolumeUsage
from orlop_sdk.base import rfc3339

from .builder import CacheRecord
from .container_views import ContainerViews
from .wire.images import ImageSummary, image_summary
from .wire.system import BuildCache, DiskUsage, ObjectUsage
from .wire.volumes import UsageData, Volume, volume_view

__all__ = ["disk_usage"]


def disk_usage(
    measured: Measured,
    views: ContainerViews,
    types: Collection[str],
    version: tuple[int, int],
    builds: Sequence[CacheRecord] = (),
    *,
    verbose: bool,
) -> DiskUsage:
    """The answer for these types of objects. `builds`: the records of the build cache."""
    volumes = None if measured.volumes is None else [_volume(each) for each in measured.volumes]
    images = None if measured.images is None else [image_summary(each, version) for each in measured.images]
    containers = None if measured.containers is None else _container_items(measured.containers, views)
    cache = [_cache(record, version) for record in builds] if "build-cache" in types else None
    lists = DiskUsage(
        layers_size=measured.layers_size,
        images=images,
        containers=containers,
        volumes=volumes,
        build_cache=cache,
    )
    if version < (1, 42):
        return replace(lists, builder_size=sum(record.size for record in builds))
    if version < (1, 52):
        return lists
    return replace(
        DiskUsage() if verbose else lists,
        image_usage=_images(measured, images, verbose),
        container_usage=_containers(measured.containers, containers, verbose),
        volume_usage=_volumes(measured.volumes, volumes, verbose),
        build_cache_usage=_builds(builds, cache, verbose),
    )


def _volume(usage: VolumeUsage) -> Volume:
    return volume_view(usage.record, UsageData(ref_count=usage.users, size=usage.size))


def _container_items(found: Sequence[ContainerUsage], views: ContainerViews) -> list[Raw]:
    sizes = {usage.container.id: usage.sizes for usage in found}
    return [Raw(item) for item in views.items([usage.container for usage in found], sizes)]


def _usage(active: int, reclaimable: int, total: int, items: Sequence[Any], verbose: bool) -> ObjectUsage:
    return ObjectUsage(
        active_count=active,
        total_count=len(items),
        reclaimable=reclaimable,
        total_size=total,
        items=items if verbose else UNSET,
    )


def _images(measured: Measured, shown: Sequence[ImageSummary] | None, verbose: bool) -> ObjectUsage | UnsetType:
    """The usage of images. As in Docker, data that an image in use shares with other images counts as reclaimable."""
    if measured.images is None or shown is None:
        return UNSET
    used = [image for image in measured.images if image.containers]
    kept = sum(image.size - (image.shared_size or 0) for image in used)
    total = measured.layers_size
    return _usage(len(used), max(total - kept, 0), total, shown, verbose)


def _containers(
    found: Sequence[ContainerUsage] | None, shown: Sequence[Raw] | None, verbose: bool
) -> ObjectUsage | UnsetType:
    if found is None or shown is None:
        return UNSET
    sizes = [(each.container.record.state.running, each.sizes.written if each.sizes else 0) for each in found]
    idle = sum(size for up, size in sizes if not up)
    return _usage(sum(up for up, _ in sizes), idle, sum(size for _, size in sizes), shown, verbose)


def _cache(record: CacheRecord, version: tuple[int, int]) -> BuildCache:
    parents = list(record.parents) or None
    return BuildCache(
        id=record.id,
        parent=UNSET if version >= (1, 42) or not parents else parents[0],
        parents=parents if version >= (1, 42) and parents else UNSET,
        type=record.kind,
        description=record.description,
        in_use=record.in_use,
        shared=record.shared,
        size=record.size,
        created_at=rfc3339(int(record.created * 1e9)),
        last_used_at=rfc3339(int(record.last_used * 1e9)) if record.last_used else None,
        usage_count=record.uses,
    )


def _builds(found: Sequence[CacheRecord], shown: Sequence[BuildCache] | None, verbose: bool) -> ObjectUsage | UnsetType:
    """The usage of the build cache. As in Docker, data that a record shares with images is counted with the images."""
    if shown is None:
        return UNSET
    own = [record for record in found if not record.shared]
    idle = sum(record.size for record in own if not record.in_use)
    return _usage(sum(record.in_use for record in found), idle, sum(record.size for record in own), shown, verbose)


def _volumes(found: Sequence[VolumeUsage] | None, shown: Sequence[Volume] | None, verbose: bool) -> ObjectUsage | UnsetType:
    if found is None or shown is None:
        return UNSET
    sizes = [(each.users > 0, max(each.size, 0)) for each in found]
    idle = sum(size for used, size in sizes if not used)
    return _usage(sum(used for used, _ in sizes), idle, sum(size for _, size in sizes), shown, verbose)
