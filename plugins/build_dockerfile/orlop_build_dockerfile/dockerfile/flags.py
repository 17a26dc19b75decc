"""The flags of an instruction: `--name`, `--name=value`."""

from __future__ import annotations

from .suggest import suggestion

__all__ = ["Flags"]


class Flags:
    """The flags in the text of an instruction, checked against the flags that the instruction supports. Raises `ValueError`
    with BuildKit's message."""

    def __init__(
        self,
        given: tuple[str, ...],
        *,
        strings: tuple[str, ...] = (),
        bools: tuple[str, ...] = (),
        lists: tuple[str, ...] = (),
    ) -> None:
        self._strings: dict[str, str] = {}
        self._bools: dict[str, bool] = {}
        self._lists: dict[str, list[str]] = {name: [] for name in lists}
        used = set()
        for flag in given:
            name, equals, value = flag.removeprefix("--").partition("=")
            if name not in strings + bools + lists:
                raise ValueError(f"unknown flag: {name}{suggestion(name, strings + bools + lists)}")
            if name in used and name not in lists:
                raise ValueError(f"duplicate flag specified: {name}")
            used.add(name)
            if (not equals and name not in bools) or (equals and not value and name in bools):
                raise ValueError(f"missing a value on flag: {name}")
            if name in lists:
                self._lists[name].append(value)
            elif name in strings:
                self._strings[name] = value
            elif value.lower() in ("", "true", "false"):
                self._bools[name] = value.lower() != "false"
            else:
                raise ValueError(f"expecting boolean value for flag {name}, not: {value}")

    def text(self, name: str, default: str = "") -> str:
        return self._strings.get(name, default)

    def flag(self, name: str) -> bool:
        return self._bools.get(name, False)

    def maybe(self, name: str) -> bool | None:
        return self._bools.get(name)

    def values(self, name: str) -> tuple[str, ...]:
        return tuple(self._lists[name])
