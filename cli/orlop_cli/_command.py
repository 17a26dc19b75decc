"""The base of all commands: a click Command that parses and prints help as Docker's commands do.

Positional arguments are one tuple, and `Command` counts them: click's messages and exit codes for them differ from Docker's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from orlop_cli._errors import ApiError, CliError, Exit, UsageProblem
from orlop_cli._session import Session
from orlop_cli.values.types import boolean

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Function = Callable[..., Any]


class Option(click.Option):
    """An option with a section of the help page, whose `--no-` twin is hidden."""

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


def option(*names: str, section: str = "", **kwargs: Any) -> Callable[[Function], Function]:
    """An option with a value."""
    return click.option(*names, cls=Option, section=section, **kwargs)


def many(*names: str, section: str = "", **kwargs: Any) -> Callable[[Function], Function]:
    """An option that may be repeated; its value is a tuple."""
    return click.option(*names, cls=Option, section=section, multiple=True, metavar=kwargs.pop("metavar", "list"), **kwargs)


def flag(*names: str, section: str = "", default: bool | None = False, **kwargs: Any) -> Callable[[Function], Function]:
    """A switch. Docker accepts `--x=false`, so each switch has a hidden twin that turns it off."""
    long = next(name for name in names if name.startswith("--"))
    twin = "--" + long[5:] if long.startswith("--no-") else "--no-" + long[2:]
    declared = [f"{name}/{twin}" if name == long else name for name in names]
    plain = [name for name in names if not name.startswith("-")] or [long[2:].replace("-", "_")]
    declared = [name for name in declared if name.startswith("-")] + plain
    return click.option(*declared, cls=Option, section=section, default=default, is_flag=True, **kwargs)


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
    """Convert forms that pflag accepts and click does not: `--flag=false`, `-d=true`, `-m=512m`. Stops at the first
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
    """Whether the next word is the value of this one: `--name x`, `-m x`, and `-itm x`, but not `-mx`."""
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


def command(
    name: str,
    summary: str,
    *,
    usage: str = "",
    least: int = 0,
    most: int | None = 0,
    examples: Sequence[str] = (),
    interspersed: bool = True,
) -> Callable[[Function], Command]:
    """Turn a function `(session, args, **flags)` into a command."""

    def decorate(function: Function) -> Command:
        params: list[click.Parameter] = list(reversed(getattr(function, "__click_params__", [])))

        def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
            from orlop_cli import _completion

            return _completion.arguments(context, usage, context.params.get("args") or (), incomplete)

        def callback(args: tuple[str, ...], **flags: Any) -> None:
            function(click.get_current_context().find_object(Session), args, **flags)

        params.append(click.Argument(["args"], nargs=-1, type=click.UNPROCESSED, shell_complete=complete))
        return Command(
            name,
            callback=callback,
            params=params,
            help=summary,
            short_help=summary,
            usage=usage,
            least=least,
            most=most,
            examples=examples,
            add_help_option=True,
            context_settings={
                "allow_interspersed_args": interspersed,
                "help_option_names": ["-h", "--help"],  # click drops -h where it is an option: run, create
                "max_content_width": 110,
            },
        )

    return decorate


SILENT = "\0"  # returned by an action that prints nothing


def each(names: Sequence[str], action: Callable[[str], str | None]) -> None:
    """Run an action for several objects: print its result (default: the name), continue after failures, exit 1 if any
    failed."""
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
    print(f"orlop: {error.message}", file=sys.stderr)


def fail(message: str, code: int = 1) -> NoReturn:
    """Print an error and end the command."""
    raise CliError(message, code)
