"""Command groups that import a command's module only when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orlop_cli._errors import CliError
from orlop_cli._table import GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from importlib.metadata import EntryPoint

    from orlop_cli._table import Lazy


ENTRY_POINTS = "orlop.cli"


class LazyGroup(click.Group):
    """Commands by name from a table. With `installed`, also commands of other distributions (entry points `orlop.cli`). The
    entry point is "NAME" for the root command, "GROUP.NAME" for a group."""

    def __init__(
        self,
        name: str,
        summary: str,
        table: Mapping[str, Lazy],
        aliases: Mapping[str, str] | None = None,
        installed: bool = False,
    ) -> None:
        super().__init__(
            name,
            help=summary,
            short_help=summary,
            no_args_is_help=False,
            invoke_without_command=True,
            callback=_help_alone,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        )
        self.table = table
        self._aliases = aliases or {}
        self._installed = installed

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = self.table.get(self._aliases.get(cmd_name, cmd_name))
        if lazy is not None:
            if not lazy.module:
                return LazyGroup(cmd_name, lazy.summary, *GROUPS[cmd_name], installed=True)
            return lazy.load().click()
        for entry in self._others():
            if self._own_name(entry) == cmd_name:
                return _load(entry)
        return None

    def _others(self) -> Iterable[EntryPoint]:
        if not self._installed:
            return ()
        from importlib.metadata import entry_points

        return [entry for entry in entry_points(group=ENTRY_POINTS) if self._own_name(entry)]

    def _own_name(self, entry: EntryPoint) -> str:
        """The command's name in this group; "" for a command of another group."""
        group, _, name = entry.name.rpartition(".")
        return name if group == (str(self.name) if self.name != "orlop" else "") else ""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        found = self.get_command(ctx, name)
        if found is None and not ctx.resilient_parsing:
            raise CliError(self._unknown(ctx, name))
        return name, found, args[1:]

    def _unknown(self, ctx: click.Context, name: str) -> str:
        from difflib import get_close_matches

        from orlop_cli import _docker_only

        known = _docker_only.message(str(self.name), name)
        if known:
            return known
        near = get_close_matches(name, [*self.table, *self._aliases], 1, 0.6)
        hint = f"\nDid you mean '{ctx.command_path} {near[0]}'?" if near else ""
        return f"'{name}' is not a command of {ctx.command_path}.{hint}\nSee '{ctx.command_path} --help'"

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(f"Usage:  {ctx.command_path} [OPTIONS] COMMAND\n\n{self.help}\n")
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, lazy in sorted(self.table.items()):
            sections.setdefault(lazy.section, []).append((name, lazy.summary))
        others = sorted((self._own_name(entry), _short(entry)) for entry in self._others())
        if others:
            sections["Commands of this host"] = others
        records = [record for param in self.get_params(ctx) if (record := param.get_help_record(ctx))]
        for title, lines in [*sorted(sections.items(), key=_order), ("Options", records)]:
            formatter.write(f"\n{title}:\n")
            formatter.indent()
            formatter.write_dl(lines, col_max=30)
            formatter.dedent()
        formatter.write(f"\nRun '{ctx.command_path} COMMAND --help' for a description of a command and examples.\n")


def _help_alone(**_flags: Any) -> None:
    """Print help, if a group is called without a command."""
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _order(section: tuple[str, object]) -> tuple[int, str]:
    order = ("Common Commands", "Management Commands", "Commands")
    return order.index(section[0]) if section[0] in order else len(order), section[0]


def _load(entry: EntryPoint) -> click.Command:
    try:
        loaded: click.Command = entry.load()
    except Exception as error:  # the module of another distribution may raise any error; report the error and continue
        raise CliError(f"cannot load command {entry.name} of {entry.value}: {error!r}") from error
    return loaded


def _short(entry: EntryPoint) -> str:
    try:
        return _load(entry).get_short_help_str(80)
    except CliError as error:
        return f"({error.message})"
