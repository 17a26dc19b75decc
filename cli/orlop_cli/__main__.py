"""Entry of the `orlop` command: runs a command, turns what it raises into a message and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from orlop_cli._errors import CliError, Exit


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run `orlop ARGV` and exit: Docker's exit codes (0, 1, 125 for flags, a container's own, 128 + signal)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    code = _guarded(arguments)
    sys.exit(code)


def _guarded(arguments: list[str]) -> int:
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        from orlop_cli._streams import die_of_broken_pipe

        die_of_broken_pipe()
        return 141
    except KeyboardInterrupt:
        return 130
    except CliError as error:
        return _complain(error.message, error.code)
    except ConnectionError as error:
        return _complain(f"connection to the daemon lost: {error}", 1)


def _run(arguments: list[str]) -> int:
    from orlop_cli._root import root

    if "_ORLOP_COMPLETE" in os.environ:
        root.main(arguments, "orlop")  # shell completion is click's own; it exits
    try:
        with root.make_context("orlop", arguments) as ctx:
            root.invoke(ctx)
    except Exit as end:
        return end.code
    except click.exceptions.Exit as end:  # --help
        return end.exit_code
    except click.exceptions.NoSuchOption as error:
        return _usage(error, f"unknown flag: {error.option_name}", 125)
    except click.exceptions.BadOptionUsage as error:
        return _usage(error, f"flag needs an argument: {error.option_name}", 125)
    except click.exceptions.UsageError as error:
        return _usage(error, error.format_message(), 125)
    return 0


def _usage(error: click.exceptions.UsageError, message: str, code: int) -> int:
    context = error.ctx
    if context is not None:
        path = context.command_path
        message += f"\n\n{context.command.get_usage(context)}\n\nRun '{path} --help' for more information"
    return _complain(message, code)


def _complain(message: str, code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    print(f"orlop: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
