"""`orlop top`."""

from __future__ import annotations

import sys

from orlop_cli._command import command
from orlop_cli.daemon.client import segment
from orlop_cli.tables import table

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli._session import Session


@command(
    "top",
    "Display the running processes of a container",
    usage="CONTAINER [ps OPTIONS]",
    least=1,
    most=None,
    interspersed=False,
    examples=["orlop top web", "orlop top web -eo pid,rss,args"],
)
def top(session: Session, args: tuple[str, ...]) -> None:
    query = {"ps_args": " ".join(args[1:]) or None}
    found = session.engine.get(f"/containers/{segment(args[0])}/top", query)
    sys.stdout.write(table.layout([found["Titles"], *(found["Processes"] or [])], minimum=20, padding=3))
