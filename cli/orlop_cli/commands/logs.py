"""`orlop logs`."""

from __future__ import annotations

from orlop_cli._command import command, complain, fail, flag, option
from orlop_cli.attached.streams import STDERR, STDOUT, framed_writer, write_all
from orlop_cli.daemon.client import segment
from orlop_cli.values.times import query_time

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session


@command(
    "logs",
    "Fetch the logs of one or more containers",
    usage="CONTAINER [CONTAINER...]",
    least=0,
    most=None,
    examples=[
        "orlop logs -f --tail 20 web           the last 20 lines and new lines",
        "orlop logs --since 10m web            the last ten minutes",
        "orlop logs web 2>/dev/null            only lines of stdout",
        "orlop logs -f web db                  lines of both containers, in the order of time",
        "orlop logs --all --since 1m           the last minute of all containers",
    ],
)
@flag("-a", "--all", "everything", help="Show the logs of all containers, also of stopped ones")
@flag("--details", help="Show extra details provided to logs")
@flag("-f", "--follow", help="Follow log output")
@option(
    "--since", metavar="string", help="Show logs since a time stamp (2013-01-02T13:23:37Z) or relative (42m for 42 minutes)"
)
@option("-n", "--tail", metavar="string", default="all", help="Number of lines to show from the end of the logs")
@flag("-t", "--timestamps", help="Show timestamps")
@option("--until", metavar="string", help="Show logs before a time stamp or relative time")
def logs(
    session: Session,
    args: tuple[str, ...],
    everything: bool,
    details: bool,
    follow: bool,
    since: str | None,
    tail: str,
    timestamps: bool,
    until: str | None,
) -> None:
    engine = session.engine
    if everything and args:
        fail("conflicting options: either name containers or use --all, not both")
    if not everything and not args:
        fail("'orlop logs' requires at least 1 argument\n\nUsage:  orlop logs [OPTIONS] CONTAINER [CONTAINER...]")
    query = {
        "stdout": 1,
        "stderr": 1,
        "details": int(details) or None,
        "follow": int(follow) or None,
        "since": query_time(since, flag="since"),
        "tail": tail,
        "timestamps": int(timestamps) or None,
        "until": query_time(until, flag="until"),
    }
    if everything or len(args) > 1:
        _several(session, args, query, follow, timestamps)
        return
    path = f"/containers/{segment(args[0])}"
    # Since API 1.42, the content type tells whether a stream is multiplexed. With older daemons, the type is always raw, so
    # Tty is used
    answer = engine.detached("GET", f"{path}/logs", query)
    framed = answer.headers.get("content-type", "").endswith("multiplexed-stream")
    if not framed:
        framed = not engine.get(f"{path}/json")["Config"]["Tty"]
    write = framed_writer({STDOUT: 1, STDERR: 2}) if framed else lambda data: write_all(1, data)
    for chunk in answer.chunks():
        write(chunk)


def _several(session: Session, names: tuple[str, ...], query: dict[str, Any], follow: bool, timestamps: bool) -> None:
    """Print the logs of several containers; without names, of all containers."""
    import os
    import sys

    from orlop_cli._errors import Exit
    from orlop_cli.attached.many_logs import show

    if not names:
        names = tuple(one["Id"] for one in session.engine.get("/containers/json", {"all": 1}))
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    problems = show(session.engine, tuple(dict.fromkeys(names)), query, follow, timestamps, colour)
    for problem in problems:
        complain(problem)
    if problems:
        raise Exit(1)
