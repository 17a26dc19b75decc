"""`orlop commit`."""

from __future__ import annotations

from orlop_cli._command import command, flag, many, option
from orlop_cli.values import references

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli._session import Session


@command(
    "commit",
    "Create a new image from a container's changes",
    usage="CONTAINER [REPOSITORY[:TAG]]",
    least=1,
    most=2,
    examples=[
        'orlop commit -m "with tools" box box:tools',
        "orlop commit -c 'CMD [\"serve\"]' -c 'EXPOSE 80' box",
    ],
)
@option("-a", "--author", metavar="string", help='Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")')
@many("-c", "--change", help="Apply Dockerfile instruction to the created image")
@option("-m", "--message", metavar="string", help="Commit message")
@flag("-p", "--pause", default=True, help="Pause container during commit (default true)")
@flag("--no-pause", "still_running", help="Do not pause container during commit")
def commit(
    session: Session,
    args: tuple[str, ...],
    author: str | None,
    change: tuple[str, ...],
    message: str | None,
    pause: bool,
    still_running: bool,
) -> None:
    target = args[1] if len(args) > 1 else ""
    if target:
        references.parse(target)
    repo, tag = references.split_tag(target)
    query = {
        "container": args[0],
        "repo": repo or None,
        "tag": tag or None,
        "comment": message,
        "author": author,
        "changes": list(change),
        "pause": None if pause and not still_running else 0,
    }
    print(session.engine.post("/commit", query)["Id"])
