"""`orlop help`."""

from __future__ import annotations

from orlop_cli._command import command

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli._session import Session


@command(
    "help",
    "Show what a command does, its flags and examples",
    usage="[COMMAND...]",
    most=None,
    examples=["orlop help run", "orlop help container ls"],
)
def help_(session: Session, args: tuple[str, ...]) -> None:
    import click

    from orlop_cli._root import root

    context = click.Context(root, info_name="orlop", **root.context_settings)
    rest = list(args)
    while rest and isinstance(context.command, click.Group):
        name, found, rest = context.command.resolve_command(context, rest)
        assert found is not None  # an unknown command has raised
        context = click.Context(found, info_name=name, parent=context, **found.context_settings)
    click.echo(context.get_help())
