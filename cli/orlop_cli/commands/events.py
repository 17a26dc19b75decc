"""`orlop events`."""

from __future__ import annotations

import sys

from orlop_cli._command import command, many, option
from orlop_cli._errors import CliError
from orlop_cli.daemon.client import filters_json, records
from orlop_cli.values.times import local_rfc3339, query_time

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from orlop_cli._session import Session


def line(event: dict[str, Any]) -> str:
    """The line of an event: `time type action id (key=value, ...)`."""
    actor = event.get("Actor") or {}
    stamp = local_rfc3339(event.get("timeNano") or event.get("time", 0) * 10**9)
    attributes = ", ".join(f"{key}={value}" for key, value in sorted((actor.get("Attributes") or {}).items()))
    text = f"{stamp} {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    return f"{text} ({attributes})" if attributes else text


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
    render = _renderer(form)
    answer = session.engine.detached("GET", "/events", query)
    for event in records(answer):
        sys.stdout.write(render(event) + "\n")
        sys.stdout.flush()


def _renderer(form: str | None) -> Callable[[dict[str, Any]], str]:
    if not form:
        return line
    if form == "json":
        from orlop_cli.tables.functions import to_json

        return lambda event: to_json(_sorted(event))
    from orlop_cli.tables.format import unescape
    from orlop_cli.tables.go_types import Struct
    from orlop_cli.tables.template import Template

    try:
        template = Template(unescape(form))
        template.render(Struct("Message", {}))  # as in docker, a wrong field is reported before the first event
    except CliError as error:
        error.code = 64
        raise
    return lambda event: template.render(Struct("Message", _sorted(event)))


def _sorted(event: dict[str, Any]) -> dict[str, Any]:
    """The event with its attributes in the order in which Go encodes a map."""
    actor = event.get("Actor") or {}
    return {**event, "Actor": {**actor, "Attributes": dict(sorted((actor.get("Attributes") or {}).items()))}}
