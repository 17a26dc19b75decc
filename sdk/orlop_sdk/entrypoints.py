"""Entry points of the installed distributions, read as importlib.metadata reads them.

importlib.metadata is slow: its import, with zipfile and email, takes a tenth of the daemon's start time, and it parses each
distribution's metadata as a mail message. This module therefore uses importlib.metadata only if `sys.path` has a zip file or
an egg, or if another importer can find distributions.

Format: https://packaging.python.org/specifications/entry-points/
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

__all__ = ["EntryPoint", "every"]

_INFO = (".dist-info", ".egg-info")
_HEAD = 4096  # bytes to read from a METADATA file; the name and the version are in its first lines


class EntryPoint(NamedTuple):
    """`value` is "module" or "module:attribute". `info` is the path of the distribution's metadata directory. If
    importlib.metadata found the entry point, `info` is "", and `known` is the distribution's name and version."""

    name: str
    value: str
    group: str
    info: str = ""
    known: tuple[str, str] = ("", "")

    def load(self) -> Any:
        """Import the object that `value` names. Exceptions that the import raises are passed on."""
        module, _, attributes = self.value.partition("[")[0].partition(":")
        found = import_module(module.strip())
        for name in filter(None, attributes.strip().split(".")):
            found = getattr(found, name)
        return found

    def distribution(self) -> tuple[str, str]:
        """Name and version of the distribution that registers this entry point; ("", "") if the metadata cannot be read."""
        for file in ("METADATA", "PKG-INFO") if self.info else ():
            try:
                with open(os.path.join(self.info, file), "rb") as opened:
                    head = opened.read(_HEAD).decode("utf-8", "replace").partition("\n\n")[0]
            except OSError:
                continue
            fields = dict(line.split(": ", 1) for line in reversed(head.splitlines()) if ": " in line)
            return fields.get("Name", "").strip(), fields.get("Version", "").strip()
        return self.known


def every() -> Iterator[EntryPoint]:
    """All entry points. If two distributions have the same name, the entry points of the distribution that Python imports
    come first."""
    if not _only_directories():
        yield from _by_metadata()
        return
    for path in map(os.path.abspath, sys.path):
        try:
            names = os.listdir(path)
        except OSError:
            continue
        for name in names:
            if name.endswith(_INFO):
                yield from _read(os.path.join(path, name))


def _only_directories() -> bool:
    """Whether all distributions are in directories of `sys.path`. A path that does not exist contains no distributions."""
    if any(os.path.isfile(path) or path.rstrip(os.sep).endswith(".egg") for path in sys.path):
        return False
    finders = [each for each in sys.meta_path if hasattr(each, "find_distributions")]
    return all(getattr(each, "__module__", "") == "_frozen_importlib_external" for each in finders)


def _by_metadata() -> Iterator[EntryPoint]:
    from importlib.metadata import distributions

    for found in distributions():
        for point in found.entry_points:
            yield EntryPoint(point.name, point.value, point.group, "", (found.name, found.version))


def _read(info: str) -> Iterator[EntryPoint]:
    try:
        with open(os.path.join(info, "entry_points.txt"), encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError):
        return
    group = ""
    for line in map(str.strip, lines):
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1]
        elif group and "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            yield EntryPoint(name.strip(), value.strip(), group, info)
