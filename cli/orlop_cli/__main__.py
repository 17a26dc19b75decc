"""Entry point of `orlop`: runs a command and turns exceptions into a message and an exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO

import click

from orlop_cli._errors import CliError, Exit


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run `orlop ARGV` and exit: Docker's exit codes (0, 1, 125 for flags, a container's own, 128 + signal)."""
    _open_standard_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    code = _guarded(arguments)
    sys.exit(code)


def _open_standard_streams() -> None:
    """Open descriptors 0 to 2 if they are closed, as Go's runtime does. Otherwise the next socket becomes stdout (`orlop
    logs web >&-`), and output is sent to the daemon. On an ASCII terminal, stdout escapes other characters, as stderr
    does."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # returns the lowest free fd: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))  # noqa: SIM115 - never closed, as in Python
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _guarded(arguments: list[str]) -> int:
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        from orlop_cli.attached.streams import die_of_broken_pipe

        die_of_broken_pipe()
        return 141
    except KeyboardInterrupt:
        return 130
    except CliError as error:
        return _complain(error.message, error.code)
    except ConnectionError as error:
        return _complain(f"lost the connection to the daemon:  {error}", 1)
    except OSError as error:
        return _complain(_cause(error), 1)
    except UnicodeError as error:
        return _complain(str(error), 1)


def _run(arguments: list[str]) -> int:
    from orlop_cli._root import root

    if "_ORLOP_COMPLETE" in os.environ:
        root.main(arguments, "orlop")  # shell completion is click's and exits
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
    except click.exceptions.ClickException as error:  # raised by a command of another distribution
        return _complain(error.format_message(), error.exit_code)
    return 0


def _usage(error: click.exceptions.UsageError, message: str, code: int) -> int:
    context = error.ctx
    if context is not None:
        path = context.command_path
        message += f"\n\n{context.command.get_usage(context)}\n\nRun '{path} --help' for more information"
    return _complain(message, code)


def _complain(message: str, code: int) -> int:
    _flush(sys.stdout)
    try:
        print(f"orlop: {message}", file=sys.stderr)
    except OSError:
        _flush(sys.stderr)  # if even stderr fails, the exit code still reports the error
    return code


def _flush(stream: TextIO) -> None:
    """Flush. Output that a full disk or a closed pipe refuses is dropped: otherwise Python would try again at exit and
    exit with 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _cause(error: OSError) -> str:
    """Errors of named files carry the file's name; an error without one comes from stdout."""
    cause = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and not error.filename:
        return f"cannot write to standard output: {cause}"
    return f"{error.filename}: {cause}" if error.filename else cause


if __name__ == "__main__":
    main()
