"""`GET /system/df`: the lists of older versions, and the sums by type of API 1.52 and newer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from orlop_engine.system.usage import ContainerUsage, Measured
from orlop_engine.volumes.record import VolumeUsage

from .container_views import ContainerViews
from .wire.images import ImageSummary, image_summary
from .wire.system import DiskUsage, ObjectUsage
from .wire.volumes import UsageData, Volume, volume_view

__all__ = ["disk_usage"]


def disk_usage(
    measured: Measured, views: ContainerViews, types: Collection[str], version: tuple[int, int], *, verbose: bool
) -> DiskUsage:
    """The answer for these types of objects."""
    volumes = None if measured.volumes is None else [_volume(each) for each in measured.volumes]
    images = None if measured.images is None else [image_summary(each, version) for each in measured.images]
    containers = None if measured.containers is None else _container_items(measured.containers, views)
    cache: list[Any] | None = [] if "build-cache" in types else None  # nothing is built here
    lists = DiskUsage(
        layers_size=measured.layers_size,
        images=images,
        containers=containers,
        volumes=volumes,
        build_cache=cache,
    )
    if version < (1, 42):
        return replace(lists, builder_size=0)
    if version < (1, 52):
        return lists
    return replace(
        DiskUsage() if verbose else lists,
        image_usage=_images(measured, images, verbose),
        container_usage=_containers(measured.containers, containers, verbose),
        volume_usage=_volumes(measured.volumes, volumes, verbose),
        build_cache_usage=UNSET if cache is None else _usage(0, 0, 0, cache, verbose),
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
    """As in Docker, what an image in use shares with others counts as reclaimable."""
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


def _volumes(found: Sequence[VolumeUsage] | None, shown: Sequence[Volume] | None, verbose: bool) -> ObjectUsage | UnsetType:
    if found is None or shown is None:
        return UNSET
    sizes = [(each.users > 0, max(each.size, 0)) for each in found]
    idle = sum(size for used, size in sizes if not used)
    return _usage(sum(used for used, _ in sizes), idle, sum(size for _, size in sizes), shown, verbose)
