"""Changes functions of modules that are imported already, so that a mutant needs neither an import nor a file."""

from __future__ import annotations

import ast
import gc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from types import CodeType, FunctionType

__all__ = ["Functions"]


class Functions:
    """All functions of some source files, also those below decorators, in properties and in closures."""

    def __init__(self, sources: Sequence[str]) -> None:
        self._found: dict[str, list[FunctionType]] = defaultdict(list)
        for function in gc.get_objects():
            if isinstance(function, FunctionType) and function.__code__.co_filename in sources:
                self._found[function.__code__.co_filename].append(function)

    def exchange(self, source: str, tree: ast.Module) -> int:
        """Give the functions of `source` the code of `tree`. Returns the number of changed functions. It is 0 if the change
        is in code that runs only at import."""
        codes = dict(_named(compile(tree, source, "exec")))
        changed = 0
        for function in self._found[source]:
            new = codes.get(_name(function.__code__))
            if new is not None and new != function.__code__:
                function.__code__ = new
                changed += 1
        return changed


def _named(code: CodeType) -> Iterator[tuple[tuple[object, ...], CodeType]]:
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield _name(const), const
            yield from _named(const)


def _name(code: CodeType) -> tuple[object, ...]:
    """The name includes the column, because two lambdas may be on one line."""
    columns = [position[2] for position in code.co_positions() if position[2] is not None]
    return code.co_qualname, code.co_firstlineno, code.co_name == "<lambda>" and max(columns, default=0)
