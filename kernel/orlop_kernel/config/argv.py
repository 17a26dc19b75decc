"""Parses the arguments of `orlopd` by pflag's rules. Pure.

Not argparse: `--iptables=false`, `-H=unix:///x` and `-DH unix:///x` must mean what they mean to dockerd, and importing
argparse would slow the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .errors import ConfigError
from .flags import FLAGS, Flag
from .values import key_value, parse_bool, parse_fields, parse_ulimit

__all__ = ["Parsed", "parse"]


class Parsed(NamedTuple):
    """`values` are by daemon.json key, in daemon.json's shapes; `raw` is the text by flag; the other flags have no key."""

    values: dict[str, Any]
    raw: dict[str, str]
    config_file: str = ""
    action: str = ""
    """"" to run, or "help", "version", "validate", "show-config", "show-config=json", "check" ("check deep",
    "check deep repair", ...)."""
    directory: str = ""
    """The base of relative paths, also when a reload reads the file again: the working directory at the start, which the
    daemon leaves."""
    adopt: str = ""


_BY_NAME = {flag.name: flag for flag in FLAGS}
_BY_SHORT = {flag.short: flag for flag in FLAGS if flag.short}


def _integer(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f'"{text}" is not a whole number') from None


def _split_list(text: str) -> list[str]:
    return [text]


def _runtime(text: str) -> dict[str, Any]:
    name, path = key_value(text)
    return {name: {"path": path}}


def _ulimit(text: str) -> dict[str, Any]:
    name, soft, hard = parse_ulimit(text)
    return {name: {"Name": name, "Hard": hard, "Soft": soft}}


def _pool(text: str) -> list[dict[str, Any]]:
    fields = parse_fields(text)
    if set(fields) != {"base", "size"}:
        raise ValueError(f'"{text}" is not of the form base=SUBNET,size=PREFIX')
    return [{"base": fields["base"], "size": _integer(fields["size"])}]


def _map(text: str) -> dict[str, str]:
    return dict([key_value(text)])


def _show(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError(f'"{text}" is neither text nor json')
    return text


def _feature(text: str) -> dict[str, bool]:
    name, equals, value = text.partition("=")
    return {name: parse_bool(value) if equals else True}


def _network_option(text: str) -> dict[str, dict[str, str]]:
    driver, option = key_value(text)
    return {driver: _map(option)}


_ALONE = {"bool": "true", "action": "true", "show": "text"}
"""The value of a flag given without one; every other kind takes the next word."""

_PARSERS: dict[str, Callable[[str], Any]] = {
    "string": str,
    "bool": parse_bool,
    "int": _integer,
    "list": _split_list,
    "map": _map,
    "runtime": _runtime,
    "ulimit": _ulimit,
    "pool": _pool,
    "feature": _feature,
    "netopt": _network_option,
    "action": parse_bool,
    "show": _show,
}


def _join(old: Any, new: Any) -> Any:
    """Combine repeated flags: lists are extended, maps merged (two levels deep for network options), else the last
    counts."""
    if isinstance(new, list):
        return [*(old or []), *new]
    if isinstance(new, dict):
        merged = dict(old or {})
        for key, value in new.items():
            merged[key] = {**merged[key], **value} if isinstance(value, dict) and key in merged else value
        return merged
    return new


def _tokens(argv: Sequence[str]) -> list[tuple[Flag, str, str]]:
    """(flag, its spelling, text of its value) for each flag, in order."""
    found = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--" or not word.startswith("-") or word == "-":
            operand = (rest[:1] or [""])[0] if word == "--" else word
            if not operand:
                break
            raise ConfigError(f"\"orlopd\" accepts no arguments: {operand}\nSee 'orlopd --help'.")
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flag = _BY_NAME.get(name) or _unknown(f"--{name}", name)
            found.append((flag, f"--{name}", value if equals else _operand(flag, f"--{name}", rest)))
        else:
            found += _shorts(word[1:], rest)
    return found


def _shorts(letters: str, rest: list[str]) -> list[tuple[Flag, str, str]]:
    found = []
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = _BY_SHORT.get(letter) or _unknown(f"'{letter}' in -{letter}{letters}", "")
        if letters.startswith("="):
            found.append((flag, f"-{letter}", letters[1:]))
            break
        if flag.kind in _ALONE:
            found.append((flag, f"-{letter}", _ALONE[flag.kind]))
            continue
        found.append((flag, f"-{letter}", letters or _operand(flag, f"-{letter}", rest)))
        break
    return found


def _operand(flag: Flag, written: str, rest: list[str]) -> str:
    if flag.kind in _ALONE:
        return _ALONE[flag.kind]
    if not rest:
        raise ConfigError(f"flag needs an argument: {written}\nSee 'orlopd --help'.")
    return rest.pop(0)


def _unknown(written: str, name: str) -> Flag:
    hint = ""
    if name:
        from difflib import get_close_matches

        near = get_close_matches(name, _BY_NAME, 1)
        hint = f" (did you mean --{near[0]}?)" if near else ""
    what = "unknown flag: " if name else "unknown shorthand flag: "
    raise ConfigError(f"{what}{written}{hint}\nSee 'orlopd --help'.")


_WITH_CHECK = frozenset({"deep", "facts", "repair"})


def parse(argv: Sequence[str]) -> Parsed:
    """Parse the arguments (without the program's name). Raises `ConfigError`."""
    values: dict[str, Any] = {}
    raw: dict[str, str] = {}
    named = {"adopt": "", "config-file": ""}
    shown, actions = "", set()
    for flag, written, text in _tokens(argv):
        try:
            value = _PARSERS[flag.kind](text)
        except ValueError as error:
            raise ConfigError(f"invalid argument \"{text}\" for {written}: {error}\nSee 'orlopd --help'.") from None
        raw[flag.name] = (
            f"{raw[flag.name]},{text}" if flag.name in raw and flag.kind not in ("string", "bool", "int") else text
        )
        if flag.kind == "action":
            actions |= {flag.name} if value else set()
        elif flag.kind == "show":
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
        raise ConfigError(f"--{min(stray)} goes with --check\nSee 'orlopd --help'.")
    return Parsed(values, raw, named["config-file"], shown if action == "show-config" else action, adopt=named["adopt"])
