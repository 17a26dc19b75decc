"""Checks a configuration against this machine for `orlopd --validate`. Starts nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from orlop_kernel.config import Config, ConfigError, Problem

from . import exposure, listen, tls

__all__ = ["problems"]


def problems(config: Config) -> Iterator[Problem]:
    """All problems that were found. The function changes nothing."""
    yield from _directory(config.data_root, "data-root")
    yield from _directory(config.exec_root, "exec-root")
    yield from _refused(lambda: listen.check_owners(config), "group", "listeners")
    yield from _refused(lambda: exposure.check_hosts(config), "hosts")
    yield from _refused(lambda: tls.contexts(config, bool(exposure.by_tcp(config))), "tlscacert", "tlscert", "tlskey")


def _refused(check: Callable[[], object], *keys: str) -> Iterator[Problem]:
    try:
        check()
    except ConfigError as error:
        yield from (Problem(text, keys) for text in error.problems)
    except OSError as error:  # this user may not read a directory
        yield Problem(f"cannot check {keys[0]}: {error.strerror or error}", keys)


def _directory(path: str, key: str) -> Iterator[Problem]:
    """Check that the path is a directory or could be created as one."""
    above = os.path.abspath(path)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        yield Problem(f"cannot make directory {path}: {above} is not a directory", (key,))
