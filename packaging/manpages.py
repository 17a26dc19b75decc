"""Writes man pages into a directory: `python packaging/manpages.py DIRECTORY`.

The pages contain the same text as `--help`, in the same order. The pages are orlop(1), orlop-run(1), orlop-network-create(1)
and so on, and orlopd(8).
"""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from orlop_cli import __version__
from orlop_cli._click import Command, aliases
from orlop_cli._root import root
from orlop_kernel.config import help_of


def commands(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            found = context.command.get_command(context, name)
            assert found is not None
            yield from commands(click.Context(found, info_name=name, parent=context))


def page(context: click.Context) -> str:
    command = context.command
    name = context.command_path.replace(" ", "-")
    usage = command.get_usage(context).removeprefix("Usage:").split("\n")[0].strip()
    lines = [
        f'.TH {_text(name.upper())} 1 "" "Orlop {__version__}" "Orlop"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(_summary(command))}",
        ".SH SYNOPSIS",
        f".B {_text(usage)}",
    ]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            assert found is not None
            lines += [".TP", f".B {_text(word)}", f"{_text(_summary(found))}. See {_text(f'{name}-{word}')}(1)."]
    lines.append(".SH OPTIONS")
    records = [param.get_help_record(context) for param in command.get_params(context) if isinstance(param, click.Option)]
    for flag, meaning in filter(None, records):
        lines += [".TP", f".B {_text(flag.strip())}", _text(meaning)]
    names = aliases(context.command_path) if isinstance(command, Command) else []
    if len(names) > 1:
        lines += [".SH ALIASES", _text(", ".join(names))]
    if isinstance(command, Command) and command.examples:
        lines += [".SH EXAMPLES", ".nf", *map(_text, command.examples), ".fi"]
    parent = context.parent.command_path.replace(" ", "-") if context.parent else "docker"
    lines += [".SH SEE ALSO", f"{_text(parent)}(1)"]
    return "\n".join(lines) + "\n"


def _summary(command: click.Command) -> str:
    return command.get_short_help_str(limit=200).removesuffix(".")


def daemon_page() -> str:
    """The page orlopd(8), which is the help text, unchanged."""
    text = help_of(["--help"]).strip().splitlines()
    title = f'.TH ORLOPD 8 "" "Orlop {__version__}" "Orlop"'
    head = [title, ".SH NAME", "orlopd \\- container engine with the Docker Engine API"]
    files = [".SH FILES", ".TP", ".B /etc/orlop/daemon.json", "configuration; without it, /etc/docker/daemon.json is read"]
    return "\n".join([*head, ".SH SYNOPSIS", ".nf", *map(_text, text), ".fi", *files, ".SH SEE ALSO", "orlop(1)"]) + "\n"


def _text(text: str) -> str:
    """Text for roff: hyphens that can be copied, backslashes, and no line that looks like a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def main() -> None:
    directory = Path(sys.argv[1])
    for section in ("man1", "man8"):
        (directory / section).mkdir(parents=True, exist_ok=True)
    # without this, `build` is the command of docker's plugin, if the plugin is installed
    os.environ["DOCKER_BUILDKIT"] = "0"
    (directory / "man8/orlopd.8.gz").write_bytes(gzip.compress(daemon_page().encode(), mtime=0))
    for context in commands(click.Context(root, info_name="orlop")):
        file = directory / "man1" / f"{context.command_path.replace(' ', '-')}.1.gz"
        file.write_bytes(gzip.compress(page(context).encode(), mtime=0))


if __name__ == "__main__":
    main()
