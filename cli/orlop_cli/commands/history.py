"""`orlop history`: the layers of an image, and the commands that made them."""

from __future__ import annotations

import time

from orlop_cli._command import command, flag, option
from orlop_cli.daemon.client import segment
from orlop_cli.tables.format import print_rows
from orlop_cli.tables.row import Row
from orlop_cli.tables.table import ellipsis
from orlop_cli.values import platforms, units

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session


HEADERS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
_WIDTH = 45


class Step(Row):
    """One line of an image's history."""

    FIELDS = tuple(sorted(HEADERS))

    def __init__(self, data: dict[str, Any], trunc: bool, human: bool) -> None:
        self._data, self._trunc, self._human = data, trunc, human

    def ID(self) -> str:  # noqa: N802 - the placeholders' names
        found = str(self._data["Id"])
        return found.removeprefix("sha256:")[:12] if self._trunc else found

    def CreatedAt(self) -> str:  # noqa: N802
        local = time.localtime(self._data.get("Created") or 0)
        zone = time.strftime("%z", local)
        return time.strftime("%Y-%m-%dT%H:%M:%S", local) + ("Z" if local.tm_gmtoff == 0 else f"{zone[:3]}:{zone[3:]}")

    def CreatedSince(self) -> str:  # noqa: N802
        if not self._human:
            return self.CreatedAt()
        return f"{units.human_duration(time.time() - (self._data.get('Created') or 0))} ago"

    def CreatedBy(self) -> str:  # noqa: N802
        text = str(self._data.get("CreatedBy") or "").replace("\t", " ")
        return ellipsis(text, _WIDTH) if self._trunc else text

    def Size(self) -> str:  # noqa: N802
        size = self._data.get("Size") or 0
        return units.human_size(size) if self._human else str(size)

    def Comment(self) -> str:  # noqa: N802
        return str(self._data.get("Comment") or "")


@command(
    "history",
    "Show the history of an image",
    usage="IMAGE",
    least=1,
    most=1,
    examples=["orlop history alpine", "orlop history --no-trunc --format '{{.CreatedBy}}' app:1"],
)
@option("--format", "form", metavar="string", help="'table', 'table TEMPLATE', 'json', or a Go template")
@flag("-H", "--human", default=True, help="Print sizes and dates in human readable format (default true)")
@flag("--no-trunc", help="Don't truncate output")
@option("--platform", metavar="string", help="Show history for the given platform (os/arch[/variant])")
@flag("-q", "--quiet", help="Only show image IDs")
def history(
    session: Session,
    args: tuple[str, ...],
    form: str | None,
    human: bool,
    no_trunc: bool,
    platform: str | None,
    quiet: bool,
) -> None:
    query = {}
    if platform:
        session.engine.need((1, 48), "platform")
        query["platform"] = platforms.query_value(platform)
    found = session.engine.get(f"/images/{segment(args[0])}/history", query)
    steps = [Step(data, not no_trunc, human) for data in found]
    columns = ("ID", "CreatedSince" if human else "CreatedAt", "CreatedBy", "Size", "Comment")
    print_rows(steps, columns, HEADERS, form, "ID" if quiet else "")
