"""Parses the arguments of `orlopd` by pflag's rules. Pure.

argparse is not used, because `--iptables=false`, `-H=unix:///x` and `-DH unix:///x` must have the same meaning as for
dockerd, and because its import would slow the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .errors import ConfigError
from .file import Document
from .flags import ACTION, BOOL, INT, SHOW, STRING, Flag

__all__ = ["Parsed", "config_file", "parse_flags"]


class Parsed(NamedTuple):
    """`values` has the value of each key, in daemon.json's form. Flags that set no key are in other fields. `flags` maps the
    name of each given flag to the flag, `raw` to its unparsed value."""

    values: dict[str, Any]
    flags: dict[str, Flag]
    raw: dict[str, str]
    config_file: str = ""
    action: str = ""
    """Empty to run the daemon, or "help", "version", "validate", "show-config", "show-config=json", "check" ("check deep",
    "check deep repair", ...)."""
    directory: str = ""
    """The working directory at the start, where relative paths begin. A reload needs it, because the daemon itself changes
    its working directory to "/"."""
    adopt: str = ""
    read: tuple[Document, list[str]] | None = None
    """The configuration file and its errors. `load.parse` reads the file to know the flags, and keeps it here, because a
    pipe can be read only once. A reload reads the file again."""


def _join(old: Any, new: Any) -> Any:
    """Combine repeated flags: extend lists, merge maps (two levels deep for network options), otherwise use the last
    value."""
    if isinstance(new, list):
        return [*(old or []), *new]
    if isinstance(new, dict):
        merged = dict(old or {})
        for key, value in new.items():
            merged[key] = {**merged[key], **value} if isinstance(value, dict) and key in merged else value
        return merged
    return new


def config_file(argv: Sequence[str]) -> str:
    """Guess the value of `--config-file`: the flags of plugins are known only after the file has been read."""
    found = ""
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if name == "--config-file":
            found = value if equals else following
    return found


class _Words:
    """The arguments from left to right. `hint` explains an unknown flag."""

    def __init__(self, argv: Sequence[str], flags: Mapping[str, Flag], hint: Callable[[str], str]) -> None:
        self._rest, self._flags, self._hint = list(argv), flags, hint
        self._by_short = {each.short: each for each in flags.values() if each.short}

    def tokens(self) -> list[tuple[Flag, str, str]]:
        """For each given flag, in order: the flag, its spelling (`-D` or `--debug`), and its unparsed value."""
        found = []
        while self._rest:
            word = self._rest.pop(0)
            if word == "--" or not word.startswith("-") or word == "-":
                operand = (self._rest[:1] or [""])[0] if word == "--" else word
                if not operand:
                    break
                raise ConfigError(f"\"orlopd\" accepts no arguments: {operand}\nSee 'orlopd --help'.")
            if word.startswith("--"):
                name, equals, value = word[2:].partition("=")
                flag = self._flags.get(name) or self._unknown(f"--{name}", name)
                found.append((flag, f"--{name}", value if equals else self._operand(flag, f"--{name}")))
            else:
                found += self._shorts(word[1:])
        return found

    def _shorts(self, letters: str) -> list[tuple[Flag, str, str]]:
        found = []
        while letters:
            letter, letters = letters[0], letters[1:]
            flag = self._by_short.get(letter) or self._unknown(f"'{letter}' in -{letter}{letters}", "")
            if letters.startswith("="):
                found.append((flag, f"-{letter}", letters[1:]))
                break
            if flag.kind.alone:
                found.append((flag, f"-{letter}", flag.kind.alone))
                continue
            found.append((flag, f"-{letter}", letters or self._operand(flag, f"-{letter}")))
            break
        return found

    def _operand(self, flag: Flag, written: str) -> str:
        if flag.kind.alone:
            return flag.kind.alone
        if not self._rest:
            raise ConfigError(f"flag needs an argument: {written}\nSee 'orlopd --help'.")
        return self._rest.pop(0)

    def _unknown(self, written: str, name: str) -> Flag:
        hint = self._hint(name) if name else ""
        if name and not hint:
            from difflib import get_close_matches

            near = get_close_matches(name, self._flags, 1)
            hint = f"did you mean --{near[0]}?" if near else ""
        what = "unknown flag: " if name else "unknown shorthand flag: "
        raise ConfigError(f"{what}{written}{f' ({hint})' if hint else ''}\nSee 'orlopd --help'.")


_WITH_CHECK = frozenset({"deep", "facts", "repair"})


def parse_flags(argv: Sequence[str], flags: Mapping[str, Flag], hint: Callable[[str], str] = lambda name: "") -> Parsed:
    """Parse the arguments (without the program's name). `flags` maps names to flags. `hint` explains an unknown flag. Raises
    `ConfigError`."""
    values: dict[str, Any] = {}
    given: dict[str, Flag] = {}
    raw: dict[str, str] = {}
    named = {"adopt": "", "config-file": ""}
    shown, actions = "", set()
    for flag, written, text in _Words(argv, flags, hint).tokens():
        try:
            value = flag.kind.parse(text)
        except ValueError as error:
            raise ConfigError(f"invalid argument \"{text}\" for {written}: {error}\nSee 'orlopd --help'.") from None
        several = flag.name in raw and flag.kind not in (STRING, BOOL, INT)
        raw[flag.name] = f"{raw[flag.name]},{text}" if several else text
        given[flag.name] = flag
        if flag.kind == ACTION:
            actions |= {flag.name} if value else set()
        elif flag.kind == SHOW:
            actions.add(flag.name)
            shown = f"{flag.name}=json" if value == "json" else flag.name
        elif flag.name in named:
            named[flag.name] = text
        else:
            group, dot, member = flag.key.partition(".")
            values[group] = _join(values.get(group), {member: value} if dot else value)
    action = next((name for name in ("help", "version", "validate", "show-config", "check") if name in actions), "")
    if action == "check":
        action = " ".join(("check", *sorted(actions & _WITH_CHECK)))
    elif stray := actions & _WITH_CHECK:
        raise ConfigError(f"--{min(stray)} needs --check\nSee 'orlopd --help'.")
    chosen = shown if action == "show-config" else action
    return Parsed(values, given, raw, named["config-file"], chosen, adopt=named["adopt"])
