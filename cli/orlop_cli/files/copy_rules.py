"""The rules for the paths of `cp SRC DEST`, which are the same as Docker's (moby/go-archive, copy.go). They determine the
destination directory, and the name that the archive's top entry gets in it. A path that ends with "/" means a directory; a
path that ends with "/." means the contents of a directory. This module does no I/O.
"""

from __future__ import annotations

import posixpath
from typing import NamedTuple

from orlop_cli._errors import CliError


class Source(NamedTuple):
    """The source of a copy. `name` is the name of its top entry in a destination directory; "" if only the contents are
    copied."""

    is_dir: bool
    name: str


class Place(NamedTuple):
    """A destination. In `path`, symbolic links at the end have been followed."""

    path: str
    exists: bool = False
    is_dir: bool = False


def split(argument: str) -> tuple[str, str]:
    """Returns (container, path) of an argument. The container is "" for a local path. A path is local if it begins with "/"
    or ".", or has no colon."""
    container, colon, path = argument.partition(":")
    if not colon or argument.startswith(("/", ".")):
        return "", argument
    return container, path


def means_contents(path: str) -> bool:
    return posixpath.basename(path) == "."


def asserts_directory(path: str) -> bool:
    return path.endswith("/") or means_contents(path)


def clean(path: str) -> str:
    """The path normalized."""
    return posixpath.normpath("/" + path.lstrip("/")) if path.startswith("/") else posixpath.normpath(path or ".")


def as_written(path: str, original: str) -> str:
    """The normalized path, with the "/" or "/." that `original` ends in."""
    if means_contents(original):
        return path if means_contents(path) else posixpath.join(path, ".")
    return path + "/" if original.endswith("/") and not path.endswith("/") else path


def parent_and_name(path: str) -> tuple[str, str]:
    """The directory of an entry, and its name in this directory. The name is "." for a path that means contents, "/" for the
    root."""
    cleaned = clean(path)
    if means_contents(path) and cleaned != ".":
        return cleaned, "."
    return posixpath.dirname(cleaned) or ".", posixpath.basename(cleaned) or "/"


def entry_name(path: str) -> str:
    """The name of the top entry in an archive of this path."""
    name = parent_and_name(path)[1]
    return "" if name in (".", "/") else name


def link_target(path: str, target: str) -> str:
    """The target of a symbolic link at `path`, with the ending of `path`."""
    joined = clean(posixpath.join(parent_and_name(path)[0], target))
    return as_written(joined, path)


def settle(source: Source, place: Place) -> tuple[str, str]:
    """Returns (directory to extract to, name of the top entry in it). Raises CliError."""
    if place.exists and place.is_dir:
        return place.path, source.name
    if place.exists and source.is_dir:
        raise CliError("cannot copy directory")
    if not source.is_dir and asserts_directory(place.path):
        raise CliError("no such directory")
    directory, name = parent_and_name(place.path)
    return directory, "" if name in (".", "/") else name
