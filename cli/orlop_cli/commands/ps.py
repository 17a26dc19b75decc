"""`orlop ps`."""

from __future__ import annotations

import sys
import time

from orlop_cli import _config
from orlop_cli._command import command, fail, flag, many, option
from orlop_cli.daemon.client import filters_json
from orlop_cli.tables.format import print_rows
from orlop_cli.tables.row import Row
from orlop_cli.tables.table import ellipsis
from orlop_cli.values import ports, units
from orlop_cli.values.jsontext import quote
from orlop_cli.values.types import INT

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session


HEADERS = {
    "ID": "CONTAINER ID",
    "Names": "NAMES",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Ports": "PORTS",
    "State": "STATE",
    "Status": "STATUS",
    "HealthStatus": "HEALTH STATUS",
    "Size": "SIZE",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
    "Platform": "PLATFORM",
}
RAW = {
    "container_id": "ID",
    "image": "Image",
    "command": "Command",
    "created_at": "CreatedAt",
    "state": "State",
    "status": "Status",
    "names": "Names",
    "labels": "Labels",
    "ports": "Ports",
}
COLUMNS = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")


class Container(Row):
    """One container of the list."""

    FIELDS = tuple(sorted(HEADERS))

    def __init__(self, data: dict[str, Any], trunc: bool) -> None:
        self._data = data
        self._trunc = trunc

    def ID(self) -> str:  # noqa: N802 - the placeholders' names
        return str(self._data["Id"][:12] if self._trunc else self._data["Id"])

    def Names(self) -> str:  # noqa: N802
        names = [name.removeprefix("/") for name in self._data.get("Names") or []]
        # Names that still contain a slash are legacy links of other containers to this container.
        return ",".join(name for name in names if not (self._trunc and "/" in name))

    def Image(self) -> str:  # noqa: N802
        image = self._data.get("Image") or "<no image>"
        if self._trunc:
            if image == self._data.get("ImageID"):
                return str(image.removeprefix("sha256:")[:12])
            name, at, _digest = image.partition("@sha256:")
            return str(name if at else image)
        return str(image)

    def Command(self) -> str:  # noqa: N802
        text = self._data.get("Command") or ""
        return quote(ellipsis(text, 20) if self._trunc else text)

    def CreatedAt(self) -> str:  # noqa: N802
        from orlop_cli.values.times import local_text

        return local_text(self._data["Created"])

    def RunningFor(self) -> str:  # noqa: N802
        return units.human_duration(time.time() - self._data["Created"]) + " ago"

    def Ports(self) -> str:  # noqa: N802
        return ports.displayable(self._data.get("Ports") or [])

    def State(self) -> str:  # noqa: N802
        return str(self._data.get("State", ""))

    def Status(self) -> str:  # noqa: N802
        return str(self._data.get("Status", ""))

    def HealthStatus(self) -> str:  # noqa: N802
        health = (self._data.get("Health") or {}).get("Status", "")
        for text in () if health else ("healthy", "unhealthy", "health: starting"):
            if f"({text})" in self.Status():
                return text.removeprefix("health: ")
        return "" if health == "none" else str(health)

    def Size(self) -> str:  # noqa: N802
        own = units.human_size(self._data.get("SizeRw") or 0)
        virtual = self._data.get("SizeRootFs") or 0
        return f"{own} (virtual {units.human_size(virtual)})" if virtual > 0 else own

    def Labels(self) -> str:  # noqa: N802
        return ",".join(f"{key}={value}" for key, value in sorted((self._data.get("Labels") or {}).items()))

    def Label(self, name: str) -> str:  # noqa: N802
        return str((self._data.get("Labels") or {}).get(name, ""))

    def Mounts(self) -> str:  # noqa: N802
        mounts = [mount.get("Name") or mount.get("Source") or "" for mount in self._data.get("Mounts") or []]
        return ",".join(ellipsis(mount, 15) if self._trunc else mount for mount in mounts)

    def LocalVolumes(self) -> str:  # noqa: N802
        return str(sum(mount.get("Driver") == "local" for mount in self._data.get("Mounts") or []))

    def Networks(self) -> str:  # noqa: N802
        return ",".join(sorted((self._data.get("NetworkSettings") or {}).get("Networks") or {}))

    def Platform(self) -> str:  # noqa: N802
        platform = (self._data.get("ImageManifestDescriptor") or {}).get("platform") or {}
        return "/".join(str(platform[key]) for key in ("os", "architecture", "variant") if platform.get(key))


def _limit(last: int, latest: bool) -> int | None:
    return 1 if latest and last <= 0 else last if last > 0 else None


def _asks_size(form: str | None) -> bool:
    """Whether sizes are printed. They are only requested if they are printed, because they are expensive for the daemon."""
    return form is not None and (".Size" in form or "json ." in form)


def _print_tree(containers: list[dict[str, Any]]) -> None:
    import sys

    from orlop_cli.tables.container_tree import render

    sys.stdout.write(render(containers, (sys.stdout.encoding or "").lower().startswith("utf")))


@command(
    "ps",
    "List containers",
    examples=[
        "orlop ps                                          running containers",
        "orlop ps -a -f status=exited -f label=app         stopped containers with a label",
        "orlop ps -q | xargs orlop stop                    ids, for other commands",
        "orlop ps -a --tree                                compose projects, networks, dependencies, volumes",
        "orlop ps --format 'table {{.Names}}\\t{{.Status}}'  columns of your choice",
    ],
)
@flag("-a", "--all", "everything", help="Show all containers (default shows just running)")
@many(
    "-f",
    "--filter",
    "filters",
    metavar="filter",
    help="Filter output based on conditions provided (name=, status=, label=...)",
)
@option("--format", "form", metavar="string", help="'table', 'table TEMPLATE', 'json', 'raw', or a Go template")
@option("-n", "--last", type=INT, default=-1, help="Show n last created containers (includes all states)")
@flag("-l", "--latest", help="Show the latest created container (includes all states)")
@flag("--no-trunc", help="Don't truncate output")
@flag("-q", "--quiet", help="Only display container IDs")
@flag("-s", "--size", help="Display total file sizes")
@flag("--tree", help="Group containers by compose projects and networks")
def ps(
    session: Session,
    args: tuple[str, ...],
    everything: bool,
    filters: tuple[str, ...],
    form: str | None,
    last: int,
    latest: bool,
    no_trunc: bool,
    quiet: bool,
    size: bool,
    tree: bool,
) -> None:
    if tree and (form or quiet or size or no_trunc):
        fail("conflicting options: --tree cannot be used with --format, --no-trunc, --quiet or --size")
    if quiet and form:
        print("WARNING: Ignoring custom format, because both --format and --quiet are set.", file=sys.stderr)
    if form != "raw":  # the only format that -q does not replace
        form = None if quiet else form or _config.text("psFormat")
    limit = _limit(last, latest)
    query = {
        "all": 1 if everything or limit else None,
        "limit": limit,
        "size": 1 if size or _asks_size(form) else None,
        "filters": filters_json(filters),
    }
    if form and ".Platform" in form:
        session.engine.prefer((1, 48))
    found = session.engine.get("/containers/json", query)
    if tree:
        _print_tree(found)
        return
    columns = (*COLUMNS, "Size") if size else COLUMNS
    raw = {**RAW, "size": "Size"} if size else RAW
    print_rows([Container(item, not no_trunc) for item in found], columns, HEADERS, form, "ID" if quiet else "", raw)
