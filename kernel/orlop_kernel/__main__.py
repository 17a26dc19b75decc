"""`orlopd`, and `python -m orlop_kernel`. Answers --version, --help and --validate without importing trio or the engine."""

from __future__ import annotations

import os
import sys
import time

from orlop_kernel import __version__
from orlop_kernel.config import ConfigError, load_all
from orlop_kernel.config.argv import parse
from orlop_kernel.config.flags import help_text

__all__ = ["main"]


def _fail(text: str) -> int:
    print(text, file=sys.stderr)
    return 1


def main() -> int:
    began = time.monotonic()
    try:
        parsed = parse(sys.argv[1:])
        if parsed.action == "help":
            print(help_text(), end="")
            return 0
        if parsed.action == "version":
            print(f"Orlop version {__version__}")
            return 0
        loaded = load_all(parsed, os.environ)
    except ConfigError as error:
        return _fail(str(error))
    if parsed.action == "validate":
        for warning in loaded.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        print("configuration OK", file=sys.stderr)
        return 0
    if os.geteuid() != 0:
        return _fail("orlopd needs to be started with root privileges: it makes namespaces and mounts. Try: sudo orlopd")
    from orlop_kernel import daemon

    return daemon.run(loaded, parsed, began)


if __name__ == "__main__":
    sys.exit(main())
