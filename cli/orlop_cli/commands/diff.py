"""`orlop diff`."""

from __future__ import annotations

from orlop_cli._command import command, fail
from orlop_cli.daemon.client import segment

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli._session import Session


_KINDS = {0: "C", 1: "A", 2: "D"}


@command(
    "diff",
    "Inspect changes to files or directories on a container's filesystem",
    usage="CONTAINER",
    least=1,
    most=1,
    examples=["orlop diff web                  C changed, A added, D deleted"],
)
def diff(session: Session, args: tuple[str, ...]) -> None:
    if not args[0].strip("/"):
        fail("Container name cannot be empty")
    for change in session.engine.get(f"/containers/{segment(args[0])}/changes") or ():
        print(_KINDS.get(change["Kind"], "?"), change["Path"])
