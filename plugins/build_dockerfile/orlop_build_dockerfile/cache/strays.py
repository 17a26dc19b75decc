"""Finds and removes files in a builder's directories to which the cache does not refer. Killed builds have left these files.

A starting builder process uses this module, and so do the daemon after a builder process was killed, and the consistency
check. All functions block. No builder process may use the directories meanwhile.
"""

from __future__ import annotations

import os
import re

from orlop_sdk.files import delete_tree

from .file import References, references

__all__ = ["referenced", "strays", "sweep"]

_TEMPORARY = re.compile(r"(view|unpack)-.*|[0-9a-f]{32}")  # `delete_tree` makes names of the second form
_OF_RECORDS = ("contexts", "cachemounts")
_STEPS = "steps"


def referenced(root: str) -> References:
    """The directories and snapshots that the cache in a builder's directory refers to."""
    return references(os.path.join(root, "cache.db"))


def strays(root: str, runtime: str, found: References) -> list[str]:
    """The paths without a reference. If the cache is unreadable, directories are not included, because the cache may refer
    to any of them."""
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
    """Remove the stray files, and return the references of the cache. Raises an `ExceptionGroup` with the errors of failed
    removals."""
    found, failures = referenced(root), list[OSError]()
    for path in strays(root, runtime, found):
        try:
            delete_tree(path)
        except OSError as error:
            failures.append(error)
    if failures:
        raise ExceptionGroup(f"cannot remove leftovers of builds in {root}", failures)
    return found
