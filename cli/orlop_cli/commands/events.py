"""`orlop events`."""

from __future__ import annotations

import sys

from orlop_cli._command import command, many, option
from orlop_cli.daemon.client import filters_json, records
from orlop_cli.values.times import local_rfc3339, query_time

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session


def line(event: dict[str, Any]) -> str:
    """The line of an event: `time type action id (key=value, ...)`."""
    actor = event.get("Actor") or {}
    stamp = local_rfc3339(event.get("timeNano") or event.get("time", 0) * 10**9)
    attributes = ", ".join(f"{key}={value}" for key, value in sorted((actor.get("Attributes") or {}).items()))
    text = f"{stamp} {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    return f"{text} ({attributes})" if attributes else text


def renamed(event: dict[str, Any]) -> dict[str, Any]:
    """Rename keys to the Go struct's fields for templates: .Time, .TimeNano, .Status, .ID, .From, .Scope."""
    names = {"time": "Time", "timeNano": "TimeNano", "status": "Status", "id": "ID", "from": "From", "scope": "Scope"}
    return {**dict.fromkeys(("Status", "ID", "From", "Scope"), ""), **{names.get(key, key): event[key] for key in event}}


@command(
    "events",
    "Get real time events from the server",
    examples=[
        "orlop events -f type=container -f event=die",
        "orlop events --since 1h --until 0s --format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}}'",
    ],
)
@many("-f", "--filter", "filters", metavar="filter", help="Filter output based on conditions provided")
@option("--format", "form", metavar="string", help="'json', or a Go template")
@option("--since", metavar="string", help="Show all events created since this time stamp (or duration)")
@option("--until", metavar="string", help="Stream events until this time stamp (or duration)")
def events(
    session: Session, args: tuple[str, ...], filters: tuple[str, ...], form: str | None, since: str | None, until: str | None
) -> None:
    query = {"since": query_time(since), "until": query_time(until), "filters": filters_json(filters)}
    answer = session.engine.detached("GET", "/events", query)
    render = _renderer(form)
    for event in records(answer):
        sys.stdout.write(render(event) + "\n")
        sys.stdout.flush()


def _renderer(form: str | None) -> Any:
    if not form:
        return line
    if form == "json":
        from orlop_cli.tables.functions import to_json

        return to_json
    from orlop_cli.tables.format import unescape
    from orlop_cli.tables.template import Template

    template = Template(unescape(form))
    return lambda event: template.render(renamed(event))
