"""Finds and removes files that killed builds have left in a builder's directories: the cache does not refer to them.

Used by the builder process when it starts, by the daemon when a builder process has been killed, and by the consistency
check. All functions block, and expect that no builder process is using the directories.
"""

from __future__ import annotations

import os
import re

from orlop_sdk.files import delete_tree

from .file import References, references

__all__ = ["referenced", "strays", "sweep"]

_TEMPORARY = re.compile(r"(view|unpack)-.*|[0-9a-f]{32}")  # `delete_tree` gives names of the second form
_OF_RECORDS = ("contexts", "cachemounts")
_STEPS = "steps"


def referenced(root: str) -> References:
    """The directories and snapshots that the cache in a builder's directory refers to."""
    return references(os.path.join(root, "cache.db"))


def strays(root: str, runtime: str, found: References) -> list[str]:
    """The paths that nothing refers to. An unreadable cache may refer to any directory."""
    result = [os.path.join(root, name) for name in _names(root) if _TEMPORARY.fullmatch(name)]
    for directory in _OF_RECORDS if found.is_known else ():
        paths = (os.path.join(root, directory, name) for name in _names(os.path.join(root, directory)))
        result += [path for path in paths if path not in found.paths]
    steps = os.path.join(runtime, _STEPS)
    return result + [os.path.join(steps, name) for name in _names(steps)]


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def sweep(root: str, runtime: str) -> References:
    """Remove the strays, and return what the cache refers to. Raises an `ExceptionGroup` of what could not be removed."""
    found, failures = referenced(root), list[OSError]()
    for path in strays(root, runtime, found):
        try:
            delete_tree(path)
        except OSError as error:
            failures.append(error)
    if failures:
        raise ExceptionGroup(f"cannot remove leftovers of builds in {root}", failures)
    return found
