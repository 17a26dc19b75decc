"""Help, and commands that only docker has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest

from orlop_cli import _root, _table
from orlop_cli.testing import RecordedDaemon, answer

pytestmark = pytest.mark.usefixtures("clean")

ID = "ab" * 32


@pytest.mark.parametrize(
    ("words", "name", "then"),
    [
        (["plugin", "ls"], "plugin", "plugins of Orlop are Python packages"),
        (["config", "ls"], "config ls", "use `orlop compose`"),
        (["swarm", "init"], "swarm", "use a context for each machine"),
        (["stack", "deploy", "-c", "x", "y"], "stack", "use `orlop compose`"),
        (["volume", "update", "x"], "volume update", "use a new volume"),
        (["help", "trust"], "trust", "use cosign"),
    ],
)
def test_commands_that_only_docker_has_are_explained(
    daemon: RecordedDaemon, orlop: Any, words: list[str], name: str, then: str
) -> None:
    done = orlop(*words)
    assert done.code == 1
    assert done.err.startswith(f"orlop: '{name}' is a command that only docker has: ")
    assert then in done.err and "Did you mean" not in done.err
    assert daemon.requests == []


def test_commands_that_only_docker_has_are_documented_and_do_not_exist_in_orlop() -> None:
    from orlop_cli import _docker_only

    page = (Path(__file__).parents[2] / "docs/cli.md").read_text()
    listed = set(
        re.findall("`([^`]+)`", page.partition("## Commands and flags that only docker has")[2].partition("\n## ")[0])
    )
    for group, alternatives in _docker_only._ALTERNATIVES.items():
        ours = _table.TABLE if group == "orlop" else _table.GROUPS[group][0]
        assert not alternatives.keys() & ours.keys()
        if group == "orlop":
            assert alternatives.keys() <= listed
    root = click.Context(_root.root, info_name="orlop")
    for path, flags in re.findall(r"^- `([a-z ]+)`: ((?:`--[\w-]+`(?:, )?)+)", page, re.MULTILINE):
        command: Any = _root.root
        for word in path.split():
            command = command.get_command(root, word)
        assert not set(re.findall("--[a-z-]+", flags)) & {opt for param in command.params for opt in param.opts}


@pytest.mark.parametrize("words", [[], ["run"], ["container"], ["container", "list"], ["help"], ["system", "prune"]])
def test_help_command_prints_the_same_text_as_the_help_flag(orlop: Any, words: list[str]) -> None:
    if words:
        assert orlop("help", *words).out == orlop(*words, "--help").out != ""
    else:
        assert orlop("help").out == orlop("--help").out
    assert orlop("help", *words).code == 0


def test_help_for_an_unknown_command_suggests_a_similar_command(orlop: Any) -> None:
    done = orlop("help", "container", "lss")
    assert (done.code, done.err.splitlines()[1]) == (1, "Did you mean 'orlop container ls'?")


def test_flag_h_prints_help(daemon: RecordedDaemon, orlop: Any) -> None:
    assert orlop("ps", "-h").out == orlop("ps", "--help").out
    assert orlop("network", "create", "-h").code == 0
    assert daemon.requests == []
    daemon.on("POST", "/containers/create", answer({"Id": ID}, 201))
    assert orlop("create", "-h", "box", "x").code == 0
    assert daemon.find("POST", "/containers/create").json()["Hostname"] == "box"


def test_help_of_system_prune_does_not_say_that_named_volumes_are_removed(orlop: Any) -> None:
    """The help of `system prune` must not say that the command removes named volumes."""
    text = orlop("system", "prune", "--help").out
    assert "everything no container uses" not in text
    assert "also unused images and unused anonymous volumes" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ps", "orlop container ls, orlop container list, orlop container ps, orlop ps"),
        ("container ls", "orlop container ls, orlop container list, orlop container ps, orlop ps"),
        ("rmi", "orlop image rm, orlop image remove, orlop rmi"),
        ("volume ls", "orlop volume ls, orlop volume list"),
        ("run", "orlop container run, orlop run"),
        ("version", ""),
    ],
)
def test_help_lists_all_names_of_a_command(orlop: Any, words: str, expected: str) -> None:
    out = orlop(*words.split(), "--help").out
    assert out.partition("\nAliases:\n  ")[2].partition("\n")[0] == expected
