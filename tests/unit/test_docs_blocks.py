"""The code blocks of the documentation are valid: configurations, and command lines of orlop, docker, orlopd and ./dev.

No command is run. Command lines are parsed with the flags that the programs have. Blocks of other languages have other tests
(`test_plugin_guide.py`, `test_storage_guide.py`).
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from orlop_cli import _plugins
from orlop_cli._errors import CliError
from orlop_cli._root import root as orlop
from orlop_kernel.config import load

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
OTHER_JSON = {"time"}  # first keys of JSON that is not a daemon.json: "time" is that of a line of the audit log
INSTALLED_LATER = {"tsv", "visits"}  # drivers and plugins that a tutorial makes, so their names are not known
PLUGINS = {"buildx", "compose", "build"}  # commands whose flags Docker's CLI plugins define
DEV = re.findall(r"^    ([a-z]+(?: \| [a-z]+)*)\)", (ROOT / "dev").read_text(), re.MULTILINE)


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, text: str) -> Iterator[Block]:
    """The fenced blocks of a page. Fences may be indented, as in lists."""
    start, language, lines = 0, "", list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.fullmatch(r"( *)```(\w*)", line)
        if fence and not start:
            start, language, lines = number, fence[2], []
        elif fence:
            yield Block(page, start, language, "\n".join(lines))
            start = 0
        elif start:
            lines.append(line)
    assert not start, f"{page}:{start}: the block has no end"


def command_lines(block: Block) -> list[str]:
    """The commands of a session: in `console` the lines after a prompt, in `sh` all lines. A backslash continues a line."""
    text = block.text.replace("\\\n", " ")
    if block.language == "sh":
        return [line for line in text.splitlines() if line.strip()]
    return [line.strip()[2:] for line in text.splitlines() if re.match(r" *[$#] ", line)]


def programs(line: str) -> list[list[str]]:
    """The words of each program of a line: without comments, variables, redirections and `sudo`."""
    lexer = shlex.shlex(re.sub(r"\s\d*[<>]+&?\s*\S+", " ", line), posix=True, punctuation_chars="|&;()")
    lexer.commenters = ""
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word == "#":
            break
        if set(word) <= set("|&;()"):
            found.append([])
        elif found[-1] or not (re.match(r"\w+=", word) or word == "sudo"):
            found[-1].append(word)
    return [words for words in found if words]


def parse_client(words: list[str]) -> str:
    """Parse the arguments of orlop without running the command. Returns the message of an error."""
    try:
        context = orlop.make_context("orlop", list(words))
        while isinstance(context.command, click.Group):
            rest = [*context._protected_args, *context.args]
            if not rest:
                return ""
            name, command, rest = context.command.resolve_command(context, rest)
            assert command is not None and name is not None
            context = command.make_context(name, rest, parent=context)
    except (click.ClickException, CliError) as error:
        return error.message
    except click.exceptions.Exit:
        pass  # --help
    return ""


def problem(words: list[str]) -> str:
    """The error in the command line of a program; "" if the command line is valid, or the program is not part of Orlop."""
    program, *rest = words
    if program in ("orlop", "docker"):
        if program == "docker" and next((word for word in rest if not word.startswith("-")), "") in PLUGINS:
            return ""
        return parse_client(rest)
    if program == "orlopd":
        line = re.sub(r"--config-file[ =]\S+", "--config-file /dev/null", shlex.join(["--config-file", "/dev/null", *rest]))
        try:
            load(shlex.split(line), {})
        except Exception as error:
            return str(error)
    if program == "./dev" and rest and not any(rest[0] in names.split(" | ") for names in DEV):
        return f"unknown command {rest[0]}"
    return ""


ALL = [block for page in PAGES for block in blocks(str(page.relative_to(ROOT)), page.read_text())]
SESSIONS = [block for block in ALL if block.language in ("console", "sh", "bash")]
JSON = [block for block in ALL if block.language == "json"]


def test_blocks_are_found() -> None:
    assert len(SESSIONS) > 20 and len(JSON) > 8
    assert sum(words[0] == "orlop" for block in SESSIONS for line in command_lines(block) for words in programs(line)) > 20


def test_command_lines_in_the_documentation_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_plugins, "find", lambda _: None)  # the plugins of this machine would replace commands
    found = [
        f"{block.place}: {shlex.join(words)}: {message}"
        for block in SESSIONS
        for line in command_lines(block)
        for words in programs(line)
        if (message := problem(words))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("orlop ps --al", "--al"),
        ("sudo -x; orlop psx", "psx"),
        ("X=1 orlop run", "requires at least 1 argument"),
        ("orlop system check --nope && true", "--nope"),
        ("true | orlop network rmm x", "rmm"),
        ("orlopd --no-such-flag", "no-such-flag"),
        ("./dev nonsense", "nonsense"),
    ],
)
def test_invalid_command_line_in_the_documentation_is_detected(line: str, message: str) -> None:
    assert any(message in problem(words) for words in programs(line))


@pytest.mark.parametrize("block", JSON, ids=lambda block: block.place)
def test_configurations_are_accepted(block: Block, tmp_path: Path) -> None:
    document = json.loads(block.text)
    if next(iter(document)) in OTHER_JSON or any(f'"{name}"' in block.text for name in INSTALLED_LATER):
        return
    path = tmp_path / "daemon.json"
    path.write_text(block.text)
    load(["--config-file", str(path)], {})


def test_orlopd_accepts_the_configuration_in_the_readme(tmp_path: Path) -> None:
    (block,) = [block for block in JSON if block.page == "README.md"]
    path = tmp_path / "daemon.json"
    path.write_text(block.text)
    command = [sys.executable, "-m", "orlop_kernel", "--validate", "--config-file", str(path)]
    done = subprocess.run([*command, "--data-root", str(tmp_path / "d")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path.write_text(block.text.replace('"live-restore"', '"live-restor"'))
    done = subprocess.run([*command, "--data-root", str(tmp_path / "d")], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "live-restor" in done.stderr
