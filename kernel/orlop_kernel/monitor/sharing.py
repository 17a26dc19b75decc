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
from collections.abc import Iterable
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
    return before == raised == sys.getrefcount(probe[0])


def _reachable(roots: list[object]) -> Iterable[int]:
    """The addresses of everything that the roots lead to, frames excepted: they are at work."""
    seen = {id(roots)}
    stack = roots.copy()
    seen.add(id(stack))
    while stack:
        item = stack.pop()
        address = id(item)
        if address in seen:
            continue
        seen.add(address)
        if isinstance(item, FrameType):
            continue
        if isinstance(item, CodeType):  # not of the collector's, and neither is what it holds
            stack += (item.co_consts, item.co_names, item.co_varnames, item.co_filename, item.co_name, item.co_qualname)
        else:
            stack += gc.get_referents(item)
        yield address


def freeze() -> None:
    """To be called once, after the last import and before the first fork."""
    gc.collect()
    if _works():
        for address in _reachable(gc.get_objects()):
            _make_immortal(address)
    gc.freeze()
