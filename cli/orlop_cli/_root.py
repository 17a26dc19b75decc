"""The root command of click, with its global flags."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from orlop_cli import __version__
from orlop_cli._click import option_of
from orlop_cli._errors import CliError
from orlop_cli._groups import LazyGroup
from orlop_cli._session import open_session
from orlop_cli._table import GLOBAL, TABLE
from orlop_cli.values.types import boolean

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Root", "root"]

_BUILDS = {"build": ("build",), "builder": ()}  # commands that run buildx if it is installed, as in docker


class Root(LazyGroup):
    """`orlop`: creates the session, then runs the command. An unknown word may be a plugin of docker's client."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from orlop_cli import _plugins

        if cmd_name in _BUILDS and _uses_buildkit():
            found = _plugins.command(cmd_name, "buildx", *_BUILDS[cmd_name])
            if found is None and os.environ.get("DOCKER_BUILDKIT"):
                raise CliError(
                    "DOCKER_BUILDKIT is set, but docker's buildx plugin is not installed (Debian: docker-buildx); "
                    "without the variable, the daemon builds from an archive of the context"
                )
            if found is not None:
                return found
        return super().get_command(ctx, cmd_name) or _plugins.command(cmd_name, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.params["version"]:
            click.echo(f"Orlop version {__version__}")
            return None
        ctx.obj = session = open_session(ctx.params)
        try:
            return super().invoke(ctx)
        finally:
            session.close()


def _uses_buildkit() -> bool:
    """Whether builds use BuildKit. As in docker, they do unless DOCKER_BUILDKIT is false."""
    text = os.environ.get("DOCKER_BUILDKIT", "")
    try:
        return boolean(text) if text else True
    except ValueError:
        raise CliError(f"DOCKER_BUILDKIT environment variable expects boolean value: {text!r}") from None


root = Root("orlop", "A client for the Orlop container engine, and for any Docker Engine API.", TABLE, installed=True)
root.params += [option_of(flag) for flag in GLOBAL]
