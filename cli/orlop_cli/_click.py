"""Makes click commands from definitions, for help, errors of usage, completion and man pages.

Positional arguments are one tuple. `Command` checks their number, because click's messages and exit codes for a wrong number
differ from Docker's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orlop_cli._errors import UsageProblem
from orlop_cli._session import Session
from orlop_cli._table import GROUPS, TABLE
from orlop_cli.values.types import Parsed, boolean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from click.shell_completion import CompletionItem

    from orlop_cli._command import Definition, Flag


class Option(click.Option):
    """An option in a section of the help page. If the option also has a negative form (`--no-NAME`), the help page does not
    show this form."""

    def __init__(self, *args: Any, section: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        if self.hidden:
            return None
        short = next((opt for opt in self.opts if len(opt) == 2), "")
        long = next((opt for opt in self.opts if len(opt) > 2), "")
        left = f"{short}, {long}" if short and long else short or f"    {long}"
        kind = "" if self.is_flag else " " + (self.metavar or self.type.name.replace("text", "string"))
        return left + kind, self.help or ""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from orlop_cli import _completion

        long = next((opt[2:] for opt in self.opts if len(opt) > 2), "")
        return _completion.value(ctx, long, incomplete) or super().shell_complete(ctx, incomplete)


class ParsedType(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.5 on only
    """Converts a `Parsed` to a type of click."""

    def __init__(self, parsed: Parsed) -> None:
        self.name = parsed.name
        self._parse = parsed.parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value  # the value is a default value
        try:
            return self._parse(value)
        except ValueError as error:
            opts = ", ".join(sorted(param.opts, key=len)) if param else ""
            raise UsageProblem(f'invalid argument "{value}" for "{opts}" flag: {error}', 125) from None


class Command(click.Command):
    """A command with counted arguments, examples, and options in sections."""

    def __init__(
        self, *args: Any, usage: str = "", least: int = 0, most: int | None = 0, examples: Sequence[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.usage, self.least, self.most, self.examples = usage, least, most, examples

    # --- parsing

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, normalise(self, args, ctx.allow_interspersed_args))
        words = ctx.params.get("args", ())
        if not ctx.resilient_parsing and not (self.least <= len(words) and (self.most is None or len(words) <= self.most)):
            raise UsageProblem(f"{_count(ctx, self.least, self.most)}\n\n{self._short_usage(ctx)}", 1)
        return rest

    def _short_usage(self, ctx: click.Context) -> str:
        return f"Usage:  {self._usage(ctx)}\n\nRun '{ctx.command_path} --help' for more information"

    def _usage(self, ctx: click.Context) -> str:
        return f"{ctx.command_path} [OPTIONS] {self.usage}".rstrip()

    # --- help

    def get_usage(self, ctx: click.Context) -> str:
        return f"Usage:  {self._usage(ctx)}"

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(f"Usage:  {self._usage(ctx)}\n\n{self.help}\n")
        others = aliases(ctx.command_path)
        if len(others) > 1:
            formatter.write(f"\nAliases:\n  {', '.join(others)}\n")
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record:
                sections.setdefault(getattr(param, "section", ""), []).append(record)
        common = sections.pop("", [])
        for title, records in [("Options", common), *sections.items()]:
            formatter.write(f"\n{title}:\n")
            formatter.indent()
            formatter.write_dl(sorted(records, key=lambda record: record[0].lstrip(" -").lower()), col_max=34)
            formatter.dedent()
        if self.examples:
            formatter.write("\nExamples:\n" + "".join(f"  {line}\n" for line in self.examples))


def aliases(path: str) -> list[str]:
    """All names of the command that has this name, such as "orlop ps", in docker's order: those in groups first."""
    names = {
        f"orlop {group} {name}": (lazy.module, lazy.attribute)
        for group, (table, short) in GROUPS.items()
        for known, lazy in table.items()
        for name in (known, *sorted(name for name, target in short.items() if target == known))
    }
    names.update({f"orlop {name}": (lazy.module, lazy.attribute) for name, lazy in TABLE.items() if lazy.module})
    return [name for name, command in names.items() if path in names and command == names[path]]


def _count(ctx: click.Context, least: int, most: int | None) -> str:
    if most == 0:
        return f"'{ctx.command_path}' accepts no arguments"
    if least == most:
        wanted = f"requires {least}"
    elif most is None:
        wanted = f"requires at least {least}"
    elif least == 0:
        wanted = f"requires at most {most}"
    else:
        wanted = f"requires at least {least} and at most {most}"
        return f"'{ctx.command_path}' {wanted} arguments"
    number = least if most is None or least == most else most
    return f"'{ctx.command_path}' {wanted} argument{'' if number == 1 else 's'}"


def normalise(command: click.Command, args: list[str], interspersed: bool) -> list[str]:
    """Convert forms that pflag accepts but click does not accept: `--flag=false`, `-d=true`, `-m=512m`. Stops at the first
    argument."""
    named = {opt: param for param in command.params if isinstance(param, click.Option) for opt in param.opts}
    out: list[str] = []
    at = 0
    while at < len(args):
        word = args[at]
        at += 1
        if word == "--" or (not interspersed and (not word.startswith("-") or word == "-")):
            return [*out, word, *args[at:]]
        name, equals, value = word.partition("=")
        param = named.get(name)
        if param is not None and equals and param.is_flag:
            out.append(_switch(param, name, value))
        elif param is not None and equals and len(name) == 2:
            out += [name, value]
        else:
            out.append(word)
            if not equals and _takes_next(named, word) and at < len(args):
                out.append(args[at])
                at += 1
    return out


def _switch(param: click.Option, name: str, value: str) -> str:
    try:
        on = boolean(value)
    except ValueError as error:
        raise UsageProblem(f'invalid argument "{value}" for "{", ".join(param.opts)}" flag: {error}', 125) from None
    return name if on else (param.secondary_opts or [name])[0]


def _takes_next(named: dict[str, click.Option], word: str) -> bool:
    """Whether the next word is the value of this word: `--name x`, `-m x`, and `-itm x`, but not `-mx`."""
    if word.startswith("--"):
        param = named.get(word)
        return param is not None and not param.is_flag
    if not word.startswith("-") or len(word) < 2:
        return False
    for position, letter in enumerate(word[1:]):
        param = named.get("-" + letter)
        if param is None:
            return False
        if not param.is_flag:
            return position == len(word) - 2
    return False


def option_of(flag: Flag) -> Option:
    """Convert a flag to an option of click."""
    kwargs = dict(flag.kwargs)
    if isinstance(kwargs.get("type"), Parsed):
        kwargs["type"] = ParsedType(kwargs["type"])
    names = list(flag.opts)
    if flag.twin:
        long = next(name for name in names if name.startswith("--"))
        names[names.index(long)] = f"{long}/{flag.twin}"
    if flag.switch:
        kwargs["is_flag"] = True
    if flag.repeated:
        kwargs["multiple"] = True
    return Option([*names, flag.name], section=flag.section, **kwargs)


def command_of(definition: Definition) -> Command:
    """Convert a definition to a command of click."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from orlop_cli import _completion

        return _completion.arguments(context, definition.usage, context.params.get("args") or (), incomplete)

    def callback(args: tuple[str, ...], **flags: Any) -> None:
        definition.function(click.get_current_context().find_object(Session), args, **flags)

    params: list[click.Parameter] = [option_of(flag) for flag in definition.flags]
    params.append(click.Argument(["args"], nargs=-1, type=click.UNPROCESSED, shell_complete=complete))
    return Command(
        definition.name,
        callback=callback,
        params=params,
        help=definition.summary,
        short_help=definition.summary,
        usage=definition.usage,
        least=definition.least,
        most=definition.most,
        examples=definition.examples,
        add_help_option=True,
        context_settings={
            "allow_interspersed_args": definition.interspersed,
            # click removes -h from the commands in which it is another option (run, create)
            "help_option_names": ["-h", "--help"],
            "max_content_width": 110,
        },
    )
