"""Definitions of commands: a function `(session, args, **flags)` with its flags.

A definition is data. `_parse` uses it to parse an ordinary command line. `_click` makes a click command from it for help,
for messages about wrong usage and for completion. So most commands run without importing click.
"""

from __future__ import annotations

import sys

from orlop_cli._errors import ApiError, CliError, Exit, with_hint

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn, TypeAlias

    from orlop_cli._click import Command

    Function: TypeAlias = Callable[..., Any]

__all__ = ["SILENT", "Definition", "Flag", "command", "complain", "each", "fail", "flag", "many", "option"]


class Flag:
    """A flag of a command: its spellings, the function's argument that gets its value, and further arguments of
    click.Option."""

    __slots__ = ("kwargs", "name", "opts", "repeated", "section", "switch", "twin")

    def __init__(
        self, names: Sequence[str], section: str, kwargs: dict[str, Any], switch: bool = False, repeated: bool = False
    ) -> None:
        self.opts = [name for name in names if name.startswith("-")]
        long = next((opt for opt in self.opts if opt.startswith("--")), self.opts[0])
        self.name = next((name for name in names if not name.startswith("-")), long.lstrip("-").replace("-", "_"))
        self.section, self.kwargs, self.switch, self.repeated = section, kwargs, switch, repeated
        self.twin = ""
        if switch:  # Docker accepts `--x=false`, so each switch has a hidden twin that turns it off
            self.twin = "--" + long[5:] if long.startswith("--no-") else "--no-" + long[2:]


def _adding(flag: Flag) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        function.__dict__.setdefault("flags", []).insert(0, flag)  # decorators are applied from the last to the first
        return function

    return decorate


def option(*names: str, section: str = "", **kwargs: Any) -> Callable[[Function], Function]:
    """An option with a value."""
    return _adding(Flag(names, section, kwargs))


def many(*names: str, section: str = "", **kwargs: Any) -> Callable[[Function], Function]:
    """An option that may be repeated; its value is a tuple."""
    return _adding(Flag(names, section, {"metavar": "list", **kwargs}, repeated=True))


def flag(*names: str, section: str = "", default: bool | None = False, **kwargs: Any) -> Callable[[Function], Function]:
    """A switch."""
    return _adding(Flag(names, section, {"default": default, **kwargs}, switch=True))


class Definition:
    """A command: its function, its flags, and its texts."""

    def __init__(
        self,
        name: str,
        summary: str,
        function: Function,
        usage: str,
        least: int,
        most: int | None,
        examples: Sequence[str],
        interspersed: bool,
    ) -> None:
        self.name, self.summary, self.function, self.usage = name, summary, function, usage
        self.least, self.most, self.examples, self.interspersed = least, most, examples, interspersed
        self.flags: list[Flag] = function.__dict__.get("flags", [])
        self._click: Command | None = None

    def click(self) -> Command:
        """Make the command for click."""
        if self._click is None:
            from orlop_cli._click import command_of

            self._click = command_of(self)
        return self._click


def command(
    name: str,
    summary: str,
    *,
    usage: str = "",
    least: int = 0,
    most: int | None = 0,
    examples: Sequence[str] = (),
    interspersed: bool = True,
) -> Callable[[Function], Definition]:
    """Turn a function `(session, args, **flags)` into a command. `most` is None for any number of arguments."""
    return lambda function: Definition(name, summary, function, usage, least, most, examples, interspersed)


SILENT = "\0"  # returned by an action that prints nothing


def each(names: Sequence[str], action: Callable[[str], str | None]) -> None:
    """Run an action for several objects, and print its results (by default the name). Continues after failures, and exits
    with 1 if an action has failed."""
    failed = False
    for name in names:
        try:
            done = action(name)
        except ApiError as error:
            complain(error)
            failed = True
            continue
        if done is not SILENT:
            print(name if done is None else done, flush=True)
    if failed:
        raise Exit(1)


def complain(error: CliError) -> None:
    """Print an error without ending the command."""
    sys.stdout.flush()
    print(f"orlop: {with_hint(error)}", file=sys.stderr)


def fail(message: str, code: int = 1) -> NoReturn:
    """Print an error and end the command."""
    raise CliError(message, code)
