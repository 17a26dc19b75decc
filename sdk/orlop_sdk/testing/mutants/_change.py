"""Functions that turn a driver without a fault into a driver with one fault."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

__all__ = ["Mutant", "after", "change", "fail", "nothing", "replaced", "sequence"]


class Mutant(NamedTuple):
    """`fault` says what the driver does wrong. `check` is the name of the test that must fail. `make` is the factory of the
    driver."""

    fault: str
    check: str
    make: Callable[..., Any]


def replaced(base: type, **members: Any) -> Any:
    """A subclass of `base` in which these members are replaced."""
    return type(f"Faulty{base.__name__}", (base,), members)


def change(base: type, method: str, alter: Callable[..., Any]) -> Any:
    """A subclass whose `method` calls `alter(original, self, *arguments)`. `original` is the same method
    of `base`, bound to `self`."""
    original = getattr(base, method)

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        return alter(partial(original, self), self, *args, **kwargs)

    return replaced(base, **{method: changed})


async def after(answer: Awaitable[Any], alter: Callable[[Any], Any]) -> Any:
    return alter(await answer)


async def sequence(*awaitables: Awaitable[Any]) -> Any:
    """Await all, one after the other, and return the result of the last one."""
    answer = None
    for each in awaitables:
        answer = await each
    return answer


async def nothing(*_: Any, **__: Any) -> None:
    """Does nothing."""


def fail(error: BaseException) -> Any:
    raise error
