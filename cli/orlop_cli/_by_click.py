"""Runs a command line with click, for help, messages about wrong usage, completion, plugins, and commands of other
packages."""

from __future__ import annotations

import os
import sys

if sys.flags.no_site:  # the script of the Debian package sets this flag; `site` is needed to find commands of other packages
    import site

    site.main()

import click

from orlop_cli._errors import CliError
from orlop_cli._root import root

__all__ = ["run"]


def run(arguments: list[str]) -> int:
    """Run a command line, and return its exit code. Raises CliError and Exit."""
    if "_ORLOP_COMPLETE" in os.environ:
        from orlop_cli import _completion

        _completion.register()
        root.main(arguments, "orlop")  # click handles shell completion, and then exits
    try:
        with root.make_context("orlop", arguments) as ctx:
            root.invoke(ctx)
    except click.exceptions.Exit as end:  # --help
        return end.exit_code
    except click.exceptions.NoSuchOption as error:
        name = error.option_name
        short = len(name) == 2 and not name.startswith("--")
        message = f"unknown shorthand flag: {name[1]!r} in {name}" if short else f"unknown flag: {name}"
        raise _usage(error, message + ("" if short else _near_flag(error))) from None
    except click.exceptions.BadOptionUsage as error:
        raise _usage(error, f"flag needs an argument: {error.option_name}") from None
    except click.exceptions.UsageError as error:
        raise _usage(error, error.format_message()) from None
    except click.exceptions.ClickException as error:  # raised by a command of another distribution
        raise CliError(error.format_message(), error.exit_code) from None
    return 0


def _near_flag(error: click.exceptions.NoSuchOption) -> str:
    """The question whether the user meant a similar flag that the help shows."""
    if error.ctx is None:
        return ""
    from orlop_cli._suggest import near

    shown = [
        param for param in error.ctx.command.get_params(error.ctx) if isinstance(param, click.Option) and not param.hidden
    ]
    words = [opt[2:] for param in shown for opt in param.opts if opt.startswith("--")]
    return near(error.option_name[2:], words, "--")


def _usage(error: click.exceptions.UsageError, message: str) -> CliError:
    context = error.ctx
    if context is not None:
        path = context.command_path
        message += f"\n\n{context.command.get_usage(context)}\n\nRun '{path} --help' for more information"
    return CliError(message, 125)
