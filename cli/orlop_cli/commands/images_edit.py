"""`rmi` and `tag`."""

from __future__ import annotations

from orlop_cli._command import SILENT, command, complain, each, flag, many
from orlop_cli._errors import ApiError, CliError
from orlop_cli.daemon.client import segment
from orlop_cli.values import platforms, references

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session


@command(
    "rmi",
    "Remove one or more images",
    usage="IMAGE [IMAGE...]",
    least=1,
    most=None,
    examples=[
        "orlop rmi alpine:3.19",
        "orlop rmi -f 3f57d9401f8d      remove all names of the image, even if stopped containers use the image",
        "orlop rmi --platform linux/s390x alpine",
    ],
)
@flag("-f", "--force", help="Force removal of the image")
@flag("--no-prune", help="Do not delete untagged parents")
@many("--platform", metavar="strings", help="Remove only the given platform (os/arch[/variant])")
def rmi(session: Session, args: tuple[str, ...], force: bool, no_prune: bool, platform: tuple[str, ...]) -> None:
    query: dict[str, Any] = {"force": int(force) or None, "noprune": int(no_prune) or None}
    if platform:
        query["platforms"] = platforms.query_values(platform)
        session.engine.need((1, 50), "platform")

    def one(name: str) -> str:
        try:
            done = session.engine.delete(f"/images/{segment(name)}", query) or []
        except ApiError as error:
            if not force or error.status != 404:
                raise
            complain(error)  # as in docker, a missing image is no failure of `rmi -f`
            return SILENT
        return "\n".join(
            f"Untagged: {item['Untagged']}" if item.get("Untagged") else f"Deleted: {item['Deleted']}" for item in done
        )

    each(args, one)


@command(
    "tag",
    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    usage="SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    least=2,
    most=2,
    examples=["orlop tag app:latest registry.example.com/team/app:1.4"],
)
def tag(session: Session, args: tuple[str, ...]) -> None:
    try:
        target = references.parse(args[1])
    except CliError as error:
        raise CliError(f'Error parsing reference: "{args[1]}" is not a valid repository/tag: {error.message}') from None
    session.engine.post(f"/images/{segment(args[0])}/tag", {"repo": target.name, "tag": target.tag or "latest"})
