"""The entry point of `orlopd` and of `python -m orlop_kernel`. For --version, --help, --validate and --show-config, neither
trio nor the engine is imported.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from orlop_kernel import __version__
from orlop_kernel.config import Config, ConfigError, Loaded, help_of, load_all, parse

__all__ = ["main"]


def _open_standard_streams() -> None:
    """Open /dev/null for each closed descriptor from 0 to 2. Otherwise the next socket or database could get the descriptor
    of stderr, and messages would be written to this socket or database."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # os.open returns the lowest free number, which is `fd`
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))  # noqa: SIM115 - never closed, as in Python
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _print(text: str) -> int:
    """Print to stdout and flush. Without the flush, Python would report a full disk only at exit, with status 120."""
    import signal

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a program such as `head` may close the pipe early
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _fail(f"cannot write to standard output: {(error.strerror or str(error)).lower()}")
    return 0


def _fail(text: str) -> int:
    print(text, file=sys.stderr)
    return 1


def _check_machine(loaded: Loaded) -> None:
    """Raise ConfigError for every problem that a start would find; print warnings to standard error."""
    logging.basicConfig(format="warning: %(message)s", level=logging.WARNING)
    from orlop_kernel import assembly
    from orlop_kernel.boot import machine

    config = loaded.config
    found = [loaded.located(problem) for each in (machine, assembly) for problem in each.problems(config)]
    if found:
        raise ConfigError(*found)


def _show(loaded: Loaded, as_json: bool) -> int:
    from orlop_kernel.config import show

    found = show.document(loaded)
    return _print(msgspec.json.encode(found).decode() if as_json else show.text(found))


def _command(name: str) -> Callable[[Config, Sequence[str]], int]:
    from orlop_sdk import discovery

    return cast("Callable[[Config, Sequence[str]], int]", discovery.find("command", name).make)


def main() -> int:
    began = time.monotonic()
    gc.disable()  # enabled again once the daemon is ready: imports create many objects and free few
    _open_standard_streams()
    try:
        parsed = parse(sys.argv[1:], os.getcwd())
        if parsed.action == "help":
            return _print(help_of(sys.argv[1:]).removesuffix("\n"))
        if parsed.action == "version":
            return _print(f"Orlop version {__version__}")
        loaded = load_all(parsed, os.environ)
        if parsed.action == "validate":
            _check_machine(loaded)
    except ConfigError as error:
        return _fail(str(error))
    if parsed.action.startswith("show-config"):
        return _show(loaded, as_json=parsed.action.endswith("=json"))
    if parsed.action == "validate":
        for warning in loaded.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        print("configuration OK", file=sys.stderr)
        return 0
    if os.geteuid() != 0:
        return _fail("orlopd must be started as root, because it makes namespaces and mounts. Try: sudo orlopd")
    if parsed.action.startswith("check"):
        return _command("check")(loaded.config, parsed.action.split()[1:])
    if parsed.adopt and (failed := _command("adopt")(loaded.config, [os.path.abspath(parsed.adopt)])):
        return failed
    from orlop_kernel import daemon

    return daemon.run(loaded, parsed, began)


if __name__ == "__main__":
    sys.exit(main())
