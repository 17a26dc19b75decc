"""Writes docs/commands.md: the commands and flags of docker's client, and whether orlop has them. `./dev docs` runs it where
docker is installed; a test fails when the page no longer says what both clients have."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from orlop_cli import _docker_only, _plugins
from orlop_cli._root import root

__all__ = ["PAGE", "docker_tree", "generated", "main", "orlop_tree"]

PAGE = Path(__file__).parent / "commands.md"
HIDDEN = ("system dial-stdio",)  # commands that docker's help does not list
Tree = dict[str, set[str]]
"""Flags, short and long, by command: "network create"; "" is docker or orlop itself."""

_SECTION = re.compile(r"^(?:[A-Z]\w+ )?(Commands|Options):$")
_COMMAND = re.compile(r"^  ([a-z][a-z0-9-]*)\s")  # a plugin has an asterisk behind its name
_FLAG = re.compile(r"^ {2,6}(?:(-\w), )?(--[a-z][\w-]*)")


def _help(words: list[str]) -> tuple[list[str], set[str]]:
    """The subcommands and flags that `docker WORDS --help` lists. Without a daemon, docker hides no command that
    the daemon does not support."""
    environment = {**os.environ, "DOCKER_HOST": "unix:///dev/null/no-daemon", "DOCKER_CONTEXT": "", "DOCKER_BUILDKIT": "0"}
    done = subprocess.run(["docker", *words, "--help"], capture_output=True, text=True, check=True, env=environment)
    section, commands, flags = "", [], set[str]()
    for line in done.stdout.splitlines():
        if found := _SECTION.match(line):
            section = found[1]
        elif section == "Commands" and (found := _COMMAND.match(line)):
            commands.append(found[1])
        elif section == "Options" and (found := _FLAG.match(line)):
            flags |= {flag for flag in found.groups() if flag}
    return commands, flags - {"--help"}


def docker_tree() -> Tree:
    """The tree of the installed docker client, without its plugins."""
    tree: Tree = {}
    level = [""]
    with ThreadPoolExecutor(2) as pool:
        while level:
            found = dict(zip(level, pool.map(lambda path: _help(path.split()), level), strict=True))
            tree.update({path: flags for path, (commands, flags) in found.items() if not commands or not path})
            level = [f"{path} {name}".strip() for path, (commands, _) in found.items() for name in commands]
        tree.update({path: _help(path.split())[1] for path in HIDDEN})
    return tree


def _walk(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        command: Any = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _walk(command, f"{path} {name}".strip())
        else:
            yield f"{path} {name}".strip(), command


def orlop_tree() -> Tree:
    """The tree of orlop, without plugins. Flags that its help does not show are part of it."""
    find = _plugins.find
    _plugins.find = lambda _: None
    try:
        return {path: _flags(command) for path, command in (("", root), *_walk(root, ""))}
    finally:
        _plugins.find = find


def _flags(command: click.Command) -> set[str]:
    return {flag for param in command.params if isinstance(param, click.Option) for flag in param.opts}


def generated(theirs: Tree, ours: Tree) -> str:
    """The page."""
    there = [path for path in theirs if path]
    missing = [path for path in there if path not in ours]
    lacking = {path: theirs[path] - ours[path] for path in theirs if path in ours}
    rows = [
        f"| `{f'docker {path}'.rstrip()}` | {_state(path, theirs, ours)} | {_list(ours.get(path, set()) - theirs[path])} |"
        for path in sorted(theirs)
    ]
    own = [f"`orlop {path}`" for path in sorted(set(ours) - set(theirs))]
    return (
        "# Commands of docker and orlop\n\n"
        "`./dev docs` writes this page from the help of docker 26.1 and the commands of orlop.\n"
        f"Of docker's {len(there)} commands, orlop has {len(there) - len(missing)}. "
        f"Of the flags of these commands, orlop lacks {sum(map(len, lacking.values()))}.\n"
        "docker's plugins (buildx, compose) are not counted: orlop runs these plugins, too, "
        "and uses buildx for `build` and `builder`.\n"
        "[The client](cli.md) describes the commands.\n\n"
        "| docker | orlop | Flags that only orlop has |\n|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nCommands that only orlop has: {', '.join(own)}.\n"
    )


def _state(path: str, theirs: Tree, ours: Tree) -> str:
    if path in ours:
        lacking = theirs[path] - ours[path]
        return f"yes, without {_list(lacking)}" if lacking else "yes"
    group, _, name = path.rpartition(" ")
    first = path.partition(" ")[0]
    explained = _docker_only.message(group or "orlop", name) or _docker_only.message("orlop", first)
    return "no; the error names an alternative" if explained else "no"


def _list(flags: set[str]) -> str:
    return ", ".join(f"`{flag}`" for flag in sorted(flags, key=lambda flag: (flag.lstrip("-").lower(), flag)))


def main() -> None:
    """Write the page."""
    PAGE.write_text(generated(docker_tree(), orlop_tree()))


if __name__ == "__main__":
    main()
