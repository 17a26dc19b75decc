"""Keeps the memory of a forked process shared with its parent.

A page is copied when it is first written. CPython writes to every object that it uses: to the object's reference count, and
during a collection to its links in the collector's lists. `gc.freeze` avoids the writes of the collector. For reference
counts, CPython 3.12 and later has immortal objects (PEP 683), whose count is never written, but there is no API to make an
object immortal. Therefore this module writes the count in memory, after a test has shown that the interpreter treats the
object as immortal. With other interpreters, nothing is done. With immortal objects, a monitor copies 1.5 MB of pages instead
of 2.7 MB. Immortal objects are never freed, but the objects concerned are needed until the process exits anyway.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from types import CodeType, FrameType

__all__ = ["freeze"]

_IMMORTAL = 0xFFFF_FFFF  # when the low 32 bits of ob_refcnt have this value, the count is not changed


def _make_immortal(address: int) -> None:
    ctypes.c_uint32.from_address(address).value = _IMMORTAL


def _works() -> bool:
    if sys.implementation.name != "cpython" or sys.byteorder != "little" or sys.maxsize < 2**32:
        return False
    if hasattr(sys, "gettotalrefcount") or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False  # a debug build checks counts, and a free-threaded build stores them differently
    probe = [object()]
    _make_immortal(id(probe[0]))
    before = sys.getrefcount(probe[0])
    probe *= 100
    raised = sys.getrefcount(probe[0])
    del probe[1:]
    return before == raised == sys.getrefcount(probe[0]) == _IMMORTAL


def _types() -> list[object]:
    """All classes. The collector does not track builtin classes. They are immortal, but their methods are not."""
    found: list[type] = [object]
    known: set[type] = {object}
    for kind in found:
        subclasses: list[type] = type.__subclasses__(kind)
        fresh = [one for one in subclasses if one not in known]
        known.update(fresh)
        found += fresh
    return list(found)


def _make_reachable_immortal(roots: list[object]) -> None:
    """Make `roots` and all objects reachable from them immortal, except frames, which are in use. Objects that
    are already immortal are not visited again. So no set of the visited objects is needed, which would take more memory than
    the objects themselves."""
    for root in roots:
        stack = gc.get_referents(root)
        stack.append(root)
        while stack:
            item = stack.pop()
            if sys.getrefcount(item) == _IMMORTAL or isinstance(item, FrameType):
                continue
            _make_immortal(id(item))
            if isinstance(item, CodeType):  # visit its content, which the collector does not track
                stack += (item.co_consts, item.co_names, item.co_filename, item.co_name, item.co_qualname)
            else:
                stack += gc.get_referents(item)


def freeze() -> None:
    """Make sure that the memory of all existing objects stays shared with forked children. Call it once, after the last
    import and before the first fork."""
    gc.collect()
    if _works():
        _make_reachable_immortal(_types() + gc.get_objects())
    gc.freeze()
