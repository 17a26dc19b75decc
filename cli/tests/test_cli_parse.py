"""Command lines are parsed without click, and have the same arguments as with click. JSON that is written without the json
package equals the package's output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
import pytest

from orlop_cli import _parse, _table
from orlop_cli._command import Definition
from orlop_cli._errors import CliError
from orlop_cli.values import jsontext
from orlop_cli.values.types import BYTES, CPUS, DURATION, INT, SWAP

VALUES = {INT: "7", BYTES: "1g", SWAP: "-1", CPUS: "1.5", DURATION: "1m30s", int: "5", None: "a=b"}


def definitions() -> Iterator[tuple[str, Definition]]:
    tables = {"": _table.TABLE, **{name: table for name, (table, _) in _table.GROUPS.items()}}
    for group, table in tables.items():
        for name, lazy in table.items():
            if lazy.module:
                yield f"{group} {name}".strip(), lazy.load()


ALL = dict(definitions())


def by_click(definition: Definition, words: list[str]) -> Any:
    """The arguments that click passes to the function, or None if click reports an error."""
    seen: list[Any] = []
    function, definition.function = definition.function, lambda session, args, **flags: seen.append({**flags, "args": args})
    try:
        definition.click().main(words, standalone_mode=False)
    except (click.ClickException, CliError):
        return None
    finally:
        definition.function = function
    return seen[0] if seen else None


def lines(definition: Definition) -> Iterator[list[str]]:
    """Command lines in which every flag of a command occurs, in each of its spellings."""
    words = ["x", "y", "z"][: max(definition.least, 1 if definition.most != 0 else 0)]
    spellings = {opt for flag in definition.flags for opt in flag.opts}
    yield words
    yield [*words, "--", "-q"]
    for flag in definition.flags:
        for opt in flag.opts:
            if flag.switch:
                yield from ([opt, *words], [f"{opt}=maybe", *words], [*words, opt])
                if flag.twin not in spellings:  # in `commit`, click treats --pause=false as the flag --no-pause
                    yield [f"{opt}=false", *words]
                yield [flag.twin, *words]
                continue
            value = VALUES[flag.kwargs.get("type")]
            yield from ([opt, value, *words], [f"{opt}={value}", *words], [*words, opt, value], [opt], [opt, "-", *words])
            yield [opt, value, opt, value, *words]
            if len(opt) == 2:
                yield [opt + value, *words]
    yield [*words, "--no-such-flag"]
    yield [*words, *["more"] * 9]
    yield []


@pytest.mark.parametrize("path", ALL)
def test_command_lines_are_parsed_as_click_parses_them(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_DEFAULT_PLATFORM", raising=False)
    definition = ALL[path]
    directly = 0
    for words in lines(definition):
        ours = _parse.arguments(definition, words)
        if ours is not None:
            directly += 1
            assert ours == by_click(definition, words), words
    # Click parses all other lines: invalid lines, and values of click's own types.
    assert directly >= len(definition.flags)


def test_invalid_lines_are_parsed_by_click() -> None:
    for words in (
        ["--nope"],
        ["--format"],
        ["-n", "many"],
        ["extra"],
        ["--help"],
        ["-h"],
        ["-qx"],
        ["-q=maybe"],
        ["--all=2"],
    ):
        assert _parse.arguments(ALL["ps"], words) is None, words


def test_short_flags_are_combined() -> None:
    found = _parse.arguments(ALL["run"], ["-itm", "512m", "-eA=1", "-e", "B", "-v=/a:/b", "img", "-q", "--", "x"])
    assert found is not None
    assert (found["interactive"], found["tty"], found["memory"]) == (True, True, 512 << 20)
    assert (found["env"], found["volume"], found["args"]) == (("A=1", "B"), ("/a:/b",), ("img", "-q", "--", "x"))


def test_environment_variable_sets_the_default_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/arm64")
    for words in (["img"], ["--platform", "linux/386", "img"]):
        found = _parse.arguments(ALL["create"], words)
        assert found is not None and found == by_click(ALL["create"], words)


@pytest.mark.parametrize(
    "value",
    [None, True, 1, -1.5, 1e300, "", 'a"\\\n\t\x01é\u2028😀', [], {}, [[], {}, {"a": [1, {"b": None}]}], {"é": ["<&>"]}],
)
def test_written_json_equals_the_output_of_the_json_package(value: Any) -> None:
    assert jsontext.dumps(value) == json.dumps(value)
    assert jsontext.dumps(value, False, compact=True) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert jsontext.indented(value) == json.dumps(value, ensure_ascii=False, indent=4)
    assert jsontext.loads(f" {json.dumps(value)}\n".encode()) == value


@pytest.mark.parametrize("text", ["", "{", "[1,]", "{} {}", "nul", '"\x01"', "\xff", "[" * 100_000])
def test_invalid_json_is_refused(text: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        jsontext.loads(text.encode("latin-1"))


def test_objects_without_a_json_form_are_encoded_by_the_given_function() -> None:
    assert jsontext.dumps([{1}], default=list) == "[[1]]"
    with pytest.raises(TypeError, match="of type set as JSON"):
        jsontext.dumps({1})
