"""`orlop create`."""

from __future__ import annotations

from orlop_cli._command import command
from orlop_cli._errors import Exit
from orlop_cli.create import dry_run
from orlop_cli.create.container import create as make
from orlop_cli.create.options import create_options

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session


@command(
    "create",
    "Create a new container",
    usage="IMAGE [COMMAND] [ARG...]",
    least=1,
    most=None,
    interspersed=False,
    examples=["orlop create --name web -p 8080:80 nginx     prints the ID", "orlop start web"],
)
@create_options
def create(session: Session, args: tuple[str, ...], **options: Any) -> None:
    if dry_run.wanted(options):
        raise Exit(1 if dry_run.show(session.engine, options, args[0], args[1:]) else 0)
    print(make(session.engine, options, args[0], args[1:]))
