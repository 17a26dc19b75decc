"""Keeping the memory of a forked process shared with its parent.

A page is copied when it is first written, and CPython writes to every object it so much as looks at: its reference count,
and in a collection its place in the collector's lists. `gc.freeze` is the cure for the second. For the first, CPython since
3.12 knows immortal objects (PEP 683), whose count is never written: made for this use, but without an API. So the count is
set from outside, after a probe has shown that this interpreter takes it so; any other is left alone. A monitor then dirties
1.5 MB instead of 2.7. Nothing else changes: what is immortal is never freed, and was not going to be.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from types import CodeType, FrameType

__all__ = ["freeze"]

_IMMORTAL = 0xFFFF_FFFF  # the low 32 bits of ob_refcnt at their ceiling: neither incremented nor decremented


def _make_immortal(address: int) -> None:
    ctypes.c_uint32.from_address(address).value = _IMMORTAL


def _works() -> bool:
    if sys.implementation.name != "cpython" or sys.byteorder != "little" or sys.maxsize < 2**32:
        return False
    if hasattr(sys, "gettotalrefcount") or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False  # a debug build checks counts, a free-threaded one keeps them elsewhere
    probe = [object()]
    _make_immortal(id(probe[0]))
    before = sys.getrefcount(probe[0])
    probe *= 100
    raised = sys.getrefcount(probe[0])
    del probe[1:]
    return before == raised == sys.getrefcount(probe[0]) == _IMMORTAL


def _types() -> list[object]:
    """Every class. Builtin ones are immortal from birth and unknown to the collector, their methods are neither."""
    found: list[type] = [object]
    known: set[type] = {object}
    for kind in found:
        subclasses: list[type] = type.__subclasses__(kind)
        fresh = [one for one in subclasses if one not in known]
        known.update(fresh)
        found += fresh
    return list(found)


def _make_reachable_immortal(roots: list[object]) -> None:
    """Roots, and all they lead to; frames excepted, they are at work. An immortal object has been visited: it needs no list,
    which would be larger than what it lists."""
    for root in roots:
        stack = gc.get_referents(root)
        stack.append(root)
        while stack:
            item = stack.pop()
            if sys.getrefcount(item) == _IMMORTAL or isinstance(item, FrameType):
                continue
            _make_immortal(id(item))
            if isinstance(item, CodeType):  # not of the collector's, and neither is what it holds
                stack += (item.co_consts, item.co_names, item.co_filename, item.co_name, item.co_qualname)
            else:
                stack += gc.get_referents(item)


def freeze() -> None:
    """To be called once, after the last import and before the first fork."""
    gc.collect()
    if _works():
        _make_reachable_immortal(_types() + gc.get_objects())
    gc.freeze()
