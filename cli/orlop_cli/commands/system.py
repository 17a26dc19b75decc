"""`orlop system df`: the disk space of images, containers, volumes and build cache, and the reclaimable part of it.

The sums and the meaning of reclaimable are the same as in Docker (cli/command/formatter/disk_usage.go).
"""

from __future__ import annotations

import sys

from orlop_cli._command import command, flag, option
from orlop_cli.commands.images import HEADERS as IMAGE_HEADERS
from orlop_cli.commands.images import NONE, Image
from orlop_cli.commands.ps import HEADERS as CONTAINER_HEADERS
from orlop_cli.commands.ps import Container
from orlop_cli.commands.volume import HEADERS as VOLUME_HEADERS
from orlop_cli.commands.volume import Volume
from orlop_cli.tables.format import print_rows, render_rows, render_values
from orlop_cli.tables.row import Row
from orlop_cli.values.times import ago
from orlop_cli.values.units import human_size

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session

    Usage = dict[str, Any]


HEADERS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
RAW = {"type": "Type", "total": "TotalCount", "active": "Active", "size": "Size", "reclaimable": "Reclaimable"}
CACHE_HEADERS = {
    "ID": "CACHE ID",
    "Parent": "PARENT",
    "CacheType": "CACHE TYPE",
    "Description": "DESCRIPTION",
    "Size": "SIZE",
    "CreatedAt": "CREATED AT",
    "CreatedSince": "CREATED",
    "LastUsedAt": "LAST USED AT",
    "LastUsedSince": "LAST USED",
    "UsageCount": "USAGE",
    "InUse": "IN USE",
    "Shared": "SHARED",
}
_LIVING = ("running", "paused", "restarting")


class Kind(Row):
    """One kind of object in the summary. `percent`: show the reclaimable size also as a share of the total."""

    FIELDS = tuple(sorted(HEADERS))

    def __init__(self, name: str, count: int, active: int, size: int, reclaimable: int, percent: bool = True) -> None:
        self._name, self._count, self._active = name, count, active
        self._size, self._reclaimable, self._percent = size, reclaimable, percent and size > 0

    def Type(self) -> str:  # noqa: N802 - the placeholders' names
        return self._name

    def TotalCount(self) -> str:  # noqa: N802
        return str(self._count)

    def Active(self) -> str:  # noqa: N802
        return str(self._active)

    def Size(self) -> str:  # noqa: N802
        return human_size(self._size, 4)

    def Reclaimable(self) -> str:  # noqa: N802
        share = f" ({self._reclaimable * 100 // self._size}%)" if self._percent else ""
        return human_size(self._reclaimable, 4) + share


class Cache(Row):
    """One record of the build cache."""

    FIELDS = tuple(sorted(CACHE_HEADERS))

    def __init__(self, data: dict[str, Any], trunc: bool) -> None:
        self._data, self._trunc = data, trunc

    def ID(self) -> str:  # noqa: N802 - the placeholders' names
        text = str(self._data.get("ID", ""))
        text = text[:12] if self._trunc else text
        return f"{text}*" if self._data.get("InUse") else text

    def Parent(self) -> str:  # noqa: N802
        parents = self._data.get("Parents") or [self._data.get("Parent") or ""]
        return ", ".join(parent[:12] if self._trunc else parent for parent in parents)

    def CacheType(self) -> str:  # noqa: N802
        return str(self._data.get("Type", ""))

    def Description(self) -> str:  # noqa: N802
        return str(self._data.get("Description", ""))

    def Size(self) -> str:  # noqa: N802
        return human_size(self._data.get("Size") or 0)

    def CreatedAt(self) -> str:  # noqa: N802
        return str(self._data.get("CreatedAt") or "")

    def CreatedSince(self) -> str:  # noqa: N802
        return ago(self._data.get("CreatedAt") or "")

    def LastUsedAt(self) -> str:  # noqa: N802
        return str(self._data.get("LastUsedAt") or "")

    def LastUsedSince(self) -> str:  # noqa: N802
        return ago(self._data.get("LastUsedAt") or "")

    def UsageCount(self) -> str:  # noqa: N802
        return str(self._data.get("UsageCount") or 0)

    def InUse(self) -> str:  # noqa: N802
        return str(bool(self._data.get("InUse"))).lower()

    def Shared(self) -> str:  # noqa: N802
        return str(bool(self._data.get("Shared"))).lower()


def _images(usage: Usage) -> Kind:
    found, total = usage.get("Images") or [], usage.get("LayersSize") or 0
    own = [image["Size"] - image["SharedSize"] for image in found if image.get("Containers") and image["SharedSize"] >= 0]
    active = sum((image.get("Containers") or 0) > 0 for image in found)
    return Kind("Images", len(found), active, total, total - sum(own))


def _containers(usage: Usage) -> Kind:
    found = usage.get("Containers") or []
    living = [item for item in found if item.get("State") in _LIVING]
    total, held = (sum(item.get("SizeRw") or 0 for item in items) for items in (found, living))
    return Kind("Containers", len(found), len(living), total, total - held)


def _volumes(usage: Usage) -> Kind:
    found = [volume.get("UsageData") or {"Size": -1, "RefCount": -1} for volume in usage.get("Volumes") or []]
    measured = [data for data in found if data["Size"] > 0]
    total = sum(data["Size"] for data in measured)
    unused = sum(data["Size"] for data in measured if not data["RefCount"])
    return Kind("Local Volumes", len(found), sum(data["RefCount"] > 0 for data in found), total, unused)


def _cache(usage: Usage) -> Kind:
    found = usage.get("BuildCache") or []
    own = [item for item in found if not item.get("Shared")]
    total = usage.get("BuilderSize") or sum(item.get("Size") or 0 for item in own)
    used = sum(item.get("Size") or 0 for item in own if item.get("InUse"))
    return Kind("Build Cache", len(found), sum(bool(item.get("InUse")) for item in found), total, total - used, False)


def _objects(usage: Usage, trunc: bool) -> dict[str, list[Row]]:
    """One row for each object. Images are listed by their first name. A container's size excludes its image."""
    images: list[Row] = []
    for image in usage.get("Images") or []:
        name = next(iter(image.get("RepoTags") or []), "")
        repository, _, tag = name.rpartition(":") if name else (NONE, "", NONE)
        images.append(Image(image, repository, tag, "", trunc))
    return {
        "Images": images,
        "Containers": [Container({**item, "SizeRootFs": 0}, trunc) for item in usage.get("Containers") or []],
        "Volumes": [Volume(item) for item in usage.get("Volumes") or []],
        "BuildCache": [Cache(item, trunc) for item in usage.get("BuildCache") or []],
    }


_TABLES = {
    "Images": (
        "Images space usage:",
        ("Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers"),
        IMAGE_HEADERS,
    ),
    "Containers": (
        "Containers space usage:",
        ("ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names"),
        CONTAINER_HEADERS,
    ),
    "Volumes": ("Local Volumes space usage:", ("Name", "Links", "Size"), VOLUME_HEADERS),
    "BuildCache": (
        "Build cache usage: {}",
        ("ID", "CacheType", "Size", "CreatedSince", "LastUsedSince", "UsageCount", "Shared"),
        CACHE_HEADERS,
    ),
}


def _verbose(usage: Usage) -> str:
    objects = _objects(usage, trunc=True)
    tables = [
        f"{title.format(_cache(usage).Size())}\n\n{render_rows(objects[kind], columns, headers, None)}"
        for kind, (title, columns, headers) in _TABLES.items()
    ]
    return "\n".join(tables)


@command(
    "df",
    "Show docker disk usage",
    examples=["orlop system df", "orlop system df -v", "orlop system df --format '{{.Type}}\\t{{.Reclaimable}}'"],
)
@option("--format", "form", metavar="string", help="'table', 'table TEMPLATE', 'json', 'raw', or a Go template")
@flag("-v", "--verbose", help="Show detailed information on space usage")
def df(session: Session, args: tuple[str, ...], form: str | None, verbose: bool) -> None:
    usage: Usage = session.engine.get("/system/df")
    if verbose and form in (None, "", "table"):
        sys.stdout.write(_verbose(usage))
    elif verbose:
        sys.stdout.write(render_values([_objects(usage, trunc=False)], str(form)))
    else:
        kinds = [_images(usage), _containers(usage), _volumes(usage), _cache(usage)]
        print_rows(kinds, tuple(HEADERS), HEADERS, form, raw=RAW)
