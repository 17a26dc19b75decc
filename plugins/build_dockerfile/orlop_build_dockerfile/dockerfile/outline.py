"""The inputs that a build accepts: arguments, secrets, agents, caches. They are collected during the conversion for `--call
outline`."""

from __future__ import annotations

import msgspec

from .interface import SourceRange

__all__ = ["ArgInfo", "Need", "Outline"]


class ArgInfo(msgspec.Struct, frozen=True):
    """`needs` are the names of other arguments in its default."""

    name: str
    value: str | None
    description: str
    ranges: tuple[SourceRange, ...]
    needs: tuple[str, ...] = ()


class Need(msgspec.Struct, frozen=True):
    name: str
    required: bool
    ranges: tuple[SourceRange, ...]


class Outline:
    """The outline of a stage, and of the stages that it is based on."""

    def __init__(self) -> None:
        self.args: dict[str, ArgInfo] = {}
        self.used: set[str] = set()
        self.secrets: dict[str, Need] = {}
        self.agents: dict[str, Need] = {}

    def copied(self) -> Outline:
        other = Outline()
        other.args, other.used = dict(self.args), set(self.used)
        other.secrets, other.agents = dict(self.secrets), dict(self.agents)
        return other

    def used_args(self) -> list[ArgInfo]:
        """The used arguments, and the arguments in their defaults."""
        waiting, seen = list(self.used), set(self.used)
        while waiting:
            info = self.args.get(waiting.pop())
            for name in info.needs if info else ():
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return [info for name, info in self.args.items() if name in seen]
