"""Docker's CLI plugins, such as buildx and compose: programs named `docker-NAME` that are run in place of a command.

A plugin is called as `docker-NAME NAME ARGUMENTS` (docker/cli, cli-plugins/manager) and connects to the daemon in the
environment variables.
"""

from __future__ import annotations

import os
import re
import sys

import click

from orlop_cli import _config
from orlop_cli._errors import CliError
from orlop_cli._session import Session

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import NoReturn


__all__ = ["command", "find", "installed", "run"]

_PREFIX = "docker-"
_NAME = re.compile(r"[a-z][a-z0-9]*")
_CALLER = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND"
"""The variable that a client sets for its plugins. Without it, plugins expect other arguments."""
_SYSTEM = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)


def _directories() -> list[str]:
    extra = _config.member(_config.load(), "cliPluginsExtraDirs", list)
    return [*map(str, extra), os.path.join(_config.directory(), "cli-plugins"), *_SYSTEM]


def find(name: str) -> str | None:
    """The program of a plugin."""
    if not _NAME.fullmatch(name):
        return None
    paths = (os.path.join(directory, _PREFIX + name) for directory in _directories())
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), None)


def installed() -> list[str]:
    """The names of all plugins."""
    found: set[str] = set()
    for directory in _directories():
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        found.update(name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))
    return sorted(name for name in found if find(name))


def command(name: str, plugin: str, *before: str) -> click.Command | None:
    """A command that runs the plugin. The plugin's arguments are the words in `before`, and then all words after the
    command's name. Returns None if the plugin is not installed."""
    path = find(plugin)
    if path is None:
        return None
    program = path

    def callback(args: tuple[str, ...]) -> None:
        run(click.get_current_context().find_object(Session), program, (plugin, *before, *args))

    return click.Command(
        name,
        callback=callback,
        params=[click.Argument(["args"], nargs=-1, type=click.UNPROCESSED)],
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    )


def run(session: Session | None, program: str, arguments: tuple[str, ...]) -> NoReturn:
    """Replace this process by the plugin."""
    assert session is not None
    environment = {**os.environ, **session.environment()}
    environment = {key: value for key, value in environment.items() if value or key not in ("DOCKER_CONTEXT", "DOCKER_HOST")}
    environment[_CALLER] = sys.argv[0]
    try:
        os.execve(program, [program, *arguments], environment)  # noqa: S606 - an argv list
    except OSError as error:
        raise CliError(f"cannot run the plugin {program}: {(error.strerror or str(error)).lower()}") from None
