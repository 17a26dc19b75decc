"""`orlop checkpoint`."""

from __future__ import annotations

from orlop_cli._command import command, flag, option
from orlop_cli.daemon.client import segment
from orlop_cli.tables.table import layout

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli._session import Session

_DIRECTORY = "Use a custom checkpoint storage directory"


@command(
    "create",
    "Create a checkpoint from a running container",
    usage="CONTAINER CHECKPOINT",
    least=2,
    most=2,
    examples=["orlop checkpoint create web before-upgrade", "orlop start --checkpoint before-upgrade web"],
)
@option("--checkpoint-dir", metavar="string", help=_DIRECTORY)
@flag("--leave-running", help="Leave the container running after checkpoint")
def create(session: Session, args: tuple[str, ...], checkpoint_dir: str | None, leave_running: bool) -> None:
    body = {"CheckpointID": args[1], "CheckpointDir": checkpoint_dir or "", "Exit": not leave_running}
    session.engine.post(f"/containers/{segment(args[0])}/checkpoints", body=body)
    print(args[1])


@command("ls", "List checkpoints for a container", usage="CONTAINER", least=1, most=1, examples=["orlop checkpoint ls web"])
@option("--checkpoint-dir", metavar="string", help=_DIRECTORY)
def ls(session: Session, args: tuple[str, ...], checkpoint_dir: str | None) -> None:
    found = session.engine.get(f"/containers/{segment(args[0])}/checkpoints", {"dir": checkpoint_dir}) or []
    print(layout([["CHECKPOINT NAME"], *([item["Name"]] for item in found)]), end="")


@command(
    "rm",
    "Remove a checkpoint",
    usage="CONTAINER CHECKPOINT",
    least=2,
    most=2,
    examples=["orlop checkpoint rm web before-upgrade"],
)
@option("--checkpoint-dir", metavar="string", help=_DIRECTORY)
def rm(session: Session, args: tuple[str, ...], checkpoint_dir: str | None) -> None:
    session.engine.delete(f"/containers/{segment(args[0])}/checkpoints/{segment(args[1])}", {"dir": checkpoint_dir})
