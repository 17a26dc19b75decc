"""Entry point of `orlop`: runs a command and turns exceptions into a message and an exit code."""

from __future__ import annotations

import errno
import io
import os
import sys

from orlop_cli import _parse
from orlop_cli._errors import CliError, Exit, with_hint
from orlop_cli._session import open_session
from orlop_cli._table import GLOBAL, find

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn, TextIO


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run `orlop ARGV` and exit with the same codes as Docker (0, 1, 125 for wrong flags, the container's exit code, 128 +
    signal)."""
    _open_standard_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    code = _guarded(arguments)
    if argv is None:
        _end(code)
    sys.exit(code)


def _end(code: int) -> NoReturn:
    """End the process like sys.exit, but let the kernel free the memory, which is a millisecond faster."""
    if "atexit" in sys.modules:
        sys.modules["atexit"]._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)
    os._exit(code)


def _open_standard_streams() -> None:
    """Open descriptors 0 to 2 if they are closed, as Go's runtime does. Otherwise the next socket becomes stdout (`orlop
    logs web >&-`), and output is sent to the daemon. On an ASCII terminal, stdout escapes all other characters, like
    stderr."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # `open` returns the lowest free fd, which is this one
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
        return _complain(with_hint(error), error.code)
    except ConnectionError as error:
        return _complain(f"lost the connection to the daemon:  {error}", 1)
    except OSError as error:
        return _complain(_cause(error), 1)
    except UnicodeError as error:
        return _complain(str(error), 1)


def _run(arguments: list[str]) -> int:
    try:
        if "_ORLOP_COMPLETE" not in os.environ and _run_directly(arguments):
            return 0
        from orlop_cli._by_click import run

        return run(arguments)
    except Exit as end:
        return end.code


def _run_directly(arguments: list[str]) -> bool:
    """Run an ordinary command line without click. Returns False if click must run it, for example for help, wrong usage and
    plugins."""
    found = _parse.flags_and_words(GLOBAL, arguments, False)
    if found is None or found[0]["version"]:
        return False
    flags, words = found
    located = find(words)
    if located is None:
        return False
    definition = located[0].load()
    parsed = _parse.arguments(definition, located[1])
    if parsed is None:
        return False
    session = open_session(flags)
    try:
        definition.function(session, **parsed)
    finally:
        session.close()
    return True


def _complain(message: str, code: int) -> int:
    _flush(sys.stdout)
    try:
        print(f"orlop: {message}", file=sys.stderr)
    except OSError:
        _flush(sys.stderr)  # if even stderr fails, the exit code still reports the error
    return code


def _flush(stream: TextIO) -> None:
    """Flush a stream. If a full disk or a closed pipe refuses the output, the output is dropped, because otherwise Python
    tries again at exit and exits with 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _cause(error: OSError) -> str:
    """The message for an error. Errors of named files contain the file's name. An error without a name comes from stdout."""
    cause = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and not error.filename:
        return f"cannot write to standard output: {cause}"
    return f"{error.filename}: {cause}" if error.filename else cause


if __name__ == "__main__":
    main()
