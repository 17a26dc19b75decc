"""`orlop volume ls`, `create`, `rm`."""

from __future__ import annotations

from orlop_cli import _config
from orlop_cli._command import command, each, fail, flag, many, option
from orlop_cli.create.values import pairs, strict_pairs
from orlop_cli.daemon.client import filters_json, segment
from orlop_cli.tables.format import print_rows
from orlop_cli.tables.row import Row
from orlop_cli.values.units import human_size

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session


HEADERS = {
    "Name": "VOLUME NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "Mountpoint": "MOUNTPOINT",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Size": "SIZE",
}

RAW = {"name": "Name", "driver": "Driver"}


class Volume(Row):
    """One volume of the list."""

    FIELDS = tuple(sorted(HEADERS))

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def Name(self) -> str:  # noqa: N802 - the placeholders' names
        return str(self._data["Name"])

    def Driver(self) -> str:  # noqa: N802
        return str(self._data["Driver"])

    def Scope(self) -> str:  # noqa: N802
        return str(self._data.get("Scope", ""))

    def Mountpoint(self) -> str:  # noqa: N802
        return str(self._data.get("Mountpoint", ""))

    def Labels(self) -> str:  # noqa: N802
        return ",".join(f"{key}={value}" for key, value in sorted((self._data.get("Labels") or {}).items()))

    def Label(self, name: str) -> str:  # noqa: N802
        return str((self._data.get("Labels") or {}).get(name, ""))

    def Links(self) -> str:  # noqa: N802
        usage = self._data.get("UsageData")
        return str(usage["RefCount"]) if usage else "N/A"

    def Size(self) -> str:  # noqa: N802
        usage = self._data.get("UsageData")
        return human_size(usage["Size"], 4) if usage and usage["Size"] >= 0 else "N/A"


@command("ls", "List volumes", examples=["orlop volume ls -f dangling=true"])
@many("-f", "--filter", "filters", metavar="filter", help='Provide filter values (e.g. "dangling=true")')
@option("--format", "form", metavar="string", help="'table', 'table TEMPLATE', 'json', 'raw', or a Go template")
@flag("-q", "--quiet", help="Only display volume names")
def ls(session: Session, args: tuple[str, ...], filters: tuple[str, ...], form: str | None, quiet: bool) -> None:
    form = form or (None if quiet else _config.text("volumesFormat"))
    found = session.engine.get("/volumes", {"filters": filters_json(filters)}).get("Volumes") or []
    listed = [Volume(item) for item in sorted(found, key=lambda item: str(item["Name"]))]
    print_rows(listed, ("Driver", "Name"), HEADERS, form, "Name" if quiet else "", RAW)


@command(
    "create",
    "Create a volume",
    usage="[VOLUME]",
    most=1,
    examples=["orlop volume create data", "orlop volume create -o type=nfs -o o=addr=10.0.0.1 -o device=:/export share"],
)
@option("-d", "--driver", metavar="string", default="local", help="Specify volume driver name (default local)")
@many("--label", help="Set metadata for a volume")
@many("-o", "--opt", metavar="map", help="Set driver specific options")
@option("--name", metavar="string", help="Specify volume name", hidden=True)
def create(
    session: Session, args: tuple[str, ...], driver: str, label: tuple[str, ...], opt: tuple[str, ...], name: str | None
) -> None:
    if args and name and args[0] != name:
        fail("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
    body = {
        "Name": args[0] if args else name or "",
        "Driver": driver,
        "DriverOpts": strict_pairs(opt, "driver option"),
        "Labels": pairs(label),
    }
    print(session.engine.post("/volumes/create", body=body)["Name"])


@command(
    "rm",
    "Remove one or more volumes",
    usage="VOLUME [VOLUME...]",
    least=1,
    most=None,
    examples=["orlop volume rm data            not while a container uses it"],
)
@flag("-f", "--force", help="Force the removal of one or more volumes")
def rm(session: Session, args: tuple[str, ...], force: bool) -> None:
    query = {"force": int(force) or None}
    each(args, lambda name: session.engine.delete(f"/volumes/{segment(name)}", query))
