"""Checks whether an object implements a Protocol, by its members and their signatures. A plugin is checked when it is
loaded, so that a wrong signature is reported before the first call.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any, get_origin, get_type_hints

__all__ = ["checkable", "evaluate", "has_all", "is_protocol", "members", "mismatch", "returned"]


def mismatch(plugin: object, protocol: type) -> str | None:
    """Returns why an object does not implement a Protocol, as a text for the message "cannot use X: ...". None if the object
    implements the Protocol."""
    kind = type(plugin).__name__
    if plugin is None:
        return f"its factory returned None, not a {protocol.__name__}"
    for name in _attributes(protocol):
        if not hasattr(plugin, name):
            return f"{kind} lacks `{name}` of {protocol.__name__}"
    for name, member in members(protocol).items():
        try:
            found = getattr(plugin, name)
        except AttributeError:
            return f"{kind} lacks `{name}` of {protocol.__name__}"
        except BaseException as error:
            return f"{kind}.{name} raises {type(error).__name__}: {error}"
        if isinstance(member, property):
            wanted = checkable(member.fget)
            if wanted is not None and not isinstance(found, wanted):
                return f"{kind}.{name} is of type {type(found).__name__}, not {wanted.__name__}"
        elif not callable(found):
            return f"{kind}.{name} is not a method"
        elif inspect.iscoroutinefunction(found) and not inspect.iscoroutinefunction(member):
            return f"{kind}.{name} is async, {protocol.__name__}.{name} is not"
        elif not _accepts(found, member):
            return f"{kind}.{name}{inspect.signature(found)} does not take the arguments of {protocol.__name__}.{name}"
    return None


def _accepts(found: Callable[..., Any], member: Callable[..., Any]) -> bool:
    """Whether a bound method accepts the arguments that the Protocol declares, with and without the optional arguments."""
    try:
        signature = inspect.signature(found)
    except (ValueError, TypeError):  # a function written in C may have no signature
        return True
    parameters = list(inspect.signature(member).parameters.values())[1:]
    for chosen in (parameters, [each for each in parameters if each.default is each.empty]):
        named = {each.name: None for each in chosen if each.kind is each.KEYWORD_ONLY}
        try:
            signature.bind(*[None] * (len(chosen) - len(named)), **named)
        except TypeError:
            return False
    return True


def members(protocol: type) -> dict[str, Any]:
    return {name: member for name, member in vars(protocol).items() if not name.startswith("_")}


def has_all(plugin: object, protocol: type) -> bool:
    """Whether a plugin has all members of a Protocol, checked without running the plugin's code. `isinstance` cannot be
    used, because in Python 3.11 it evaluates the plugin's properties."""
    return all(inspect.getattr_static(plugin, name, None) is not None for name in members(protocol))


@functools.cache
def returned(function: Callable[..., Any] | None) -> Any:
    """The annotated return type of a Protocol's member. Evaluated at the member's first call, because the evaluation for all
    members takes 3 ms."""
    try:
        return get_type_hints(function).get("return") if function else None
    except NameError:  # the annotation's type is imported only for type checkers
        return None


@functools.cache
def checkable(function: Callable[..., Any] | None) -> type | None:
    """A type with which `isinstance` can check the return value of a plugin's member; None if there is no such type."""
    hint = returned(function)
    origin = get_origin(hint) or hint
    if not isinstance(origin, type) or origin is type(None) or is_protocol(origin):
        return None
    return Collection if issubclass(origin, Collection) and origin not in (str, bytes, dict) else origin


def evaluate(protocol: type) -> None:
    """Evaluate the annotations of all members before their first call."""
    for member in members(protocol).values():
        checkable(member.fget if isinstance(member, property) else member)


def is_protocol(hint: Any) -> bool:
    return bool(getattr(hint, "_is_protocol", False)) and not hint.__module__.startswith(("typing", "collections"))


def _attributes(protocol: type) -> list[str]:
    """The members that the Protocol declares only by an annotation (`name: type`), not as a method or property."""
    return [name for name in vars(protocol).get("__annotations__", {}) if not name.startswith("_")]
