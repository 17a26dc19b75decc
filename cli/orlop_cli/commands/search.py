"""`orlop search`."""

from __future__ import annotations

from orlop_cli import _auth
from orlop_cli._command import command, flag, many, option
from orlop_cli.daemon.client import filters_json
from orlop_cli.tables.format import print_rows
from orlop_cli.tables.row import Row
from orlop_cli.tables.table import ellipsis
from orlop_cli.values.references import HUB
from orlop_cli.values.types import INT

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session

HEADERS = {
    "Name": "NAME",
    "Description": "DESCRIPTION",
    "StarCount": "STARS",
    "IsOfficial": "OFFICIAL",
    "IsAutomated": "AUTOMATED",
}
COLUMNS = ("Name", "Description", "StarCount", "IsOfficial")


class Line(Row):
    """One image that was found."""

    FIELDS = ("Description", "IsAutomated", "IsOfficial", "Name", "StarCount")

    def __init__(self, data: dict[str, Any], trunc: bool) -> None:
        self._data, self._trunc = data, trunc

    def Name(self) -> str:  # noqa: N802 - the placeholders' names
        return str(self._data.get("name") or "")

    def Description(self) -> str:  # noqa: N802
        text = str(self._data.get("description") or "").replace("\n", " ").replace("\r", " ")
        return ellipsis(text, 45) if self._trunc else text

    def StarCount(self) -> str:  # noqa: N802
        return str(self._data.get("star_count") or 0)

    def IsOfficial(self) -> str:  # noqa: N802
        return "[OK]" if self._data.get("is_official") else ""

    def IsAutomated(self) -> str:  # noqa: N802
        return "[OK]" if self._data.get("is_automated") else ""


@command(
    "search",
    "Search Docker Hub for images",
    usage="TERM",
    least=1,
    most=1,
    examples=["orlop search --limit 5 postgres", "orlop search -f is-official=true redis"],
)
@many("-f", "--filter", "filters", metavar="filter", help="Filter output based on conditions provided")
@option("--format", "form", metavar="string", help="Pretty-print search using a Go template")
@option("--limit", type=INT, default=0, help="Max number of search results")
@flag("--no-trunc", help="Don't truncate output")
def search(
    session: Session, args: tuple[str, ...], filters: tuple[str, ...], form: str | None, limit: int, no_trunc: bool
) -> None:
    domain = args[0].partition("/")[0]
    headers = _auth.header(domain if "." in domain or ":" in domain else HUB)
    query = {"term": args[0], "limit": limit or None, "filters": filters_json(filters)}
    found = session.engine.get("/images/search", query, headers) or []
    found.sort(key=lambda item: -int(item.get("star_count") or 0))
    print_rows([Line(item, not no_trunc) for item in found], COLUMNS, HEADERS, form)
