"""Shell completion of arguments and of flags' values: names of the daemon's objects, and files.

click completes commands and flags. The usage text of a command tells which arguments it expects: "NETWORK CONTAINER" of
`orlop network connect` means a network, then a container. If the daemon does not answer within a second, there are no
completions.
"""

from __future__ import annotations

import os
import re
import signal
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class, split_arg_string

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orlop_cli.daemon.client import Engine


SHELLS = ("bash", "fish", "zsh")
VARIABLE = "_ORLOP_COMPLETE"
_TIMEOUT = 1.0
_ONLY_RUNNING = frozenset("attach exec kill pause port stats stop top unpause".split())
_FLAGS = {"network": "NETWORK", "volumes-from": "CONTAINER", "link": "CONTAINER", "context": "CONTEXT"}
_FILES = frozenset(
    "cidfile config env-file file iidfile input label-file metadata-file output tlscacert tlscert tlskey".split()
)


_BASH = r"""%(complete_func)s() {
    local IFS=$'\n' line=${COMP_LINE:0:COMP_POINT} before= response completion type value
    local word=${line##*[[:space:]]}
    # Bash splits words at colons, and replaces only the part after the last colon.
    [[ $COMP_WORDBREAKS != *:* ]] || before=${word%%"${word##*:}"}
    response=$(env COMP_LINE="$line" %(complete_var)s=bash_complete $1)
    for completion in $response; do
        IFS=',' read type value <<< "$completion"
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$before"}") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    """Gets the line up to the cursor, because bash splits `alpine:3` into three words."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        return (words, "") if line[-1:].isspace() or not words else (words[:-1], words[-1])


def register() -> None:
    """Make click use this module's completion for bash."""
    add_completion_class(_Bash)


def arguments(context: click.Context, usage: str, given: Sequence[str], incomplete: str) -> list[CompletionItem]:
    """The candidates for the argument after `given`, for a command with this usage text."""
    words = usage.split()
    if not words or (len(given) >= len(words) and not words[-1].endswith("...]")):
        return []
    word = words[min(len(given), len(words) - 1)]
    found = _named(context, re.sub(r"(\[|\]|:|\.|\|-).*", "", word.lstrip("[")), incomplete)
    return [item for item in found if item.value not in given]


def value(context: click.Context, flag: str, incomplete: str) -> list[CompletionItem]:
    """The candidates for the value of `--FLAG`."""
    if flag in _FILES:
        return [CompletionItem(incomplete, type="file")]
    return _named(context, _FLAGS.get(flag, ""), incomplete)


def script(shell: str) -> str:
    """The script that makes a shell complete `orlop`."""
    register()
    found = get_completion_class(shell)
    assert found is not None
    return found(click.Command("orlop"), {}, "orlop", VARIABLE).source()


def _named(context: click.Context, word: str, incomplete: str) -> list[CompletionItem]:
    if word.lower() in ("path", "file", "src_path", "dest_path"):
        return [CompletionItem(incomplete, type="file")]
    source = _SOURCES.get(word.removeprefix("SOURCE_").removeprefix("TARGET_"))
    if source is None:
        return []
    try:
        names = set(_within(_TIMEOUT, lambda: list(source(_engine(context), str(context.command.name)))))
    except Exception:
        return []  # no error message, because it appears in the middle of the command line
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def _within(seconds: float, action: Callable[[], list[str]]) -> list[str]:
    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return action()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _engine(context: click.Context) -> Engine:
    from orlop_cli._session import open_session

    return open_session(context.find_root().params).engine


def _containers(engine: Engine, command: str) -> Iterable[str]:
    every = engine.get("/containers/json", {"all": 0 if command in _ONLY_RUNNING else 1})
    for each in every:
        if command != "start" or each["State"] != "running":
            yield from (name.removeprefix("/") for name in each["Names"] if "/" not in name[1:])


def _images(engine: Engine, _: str) -> Iterable[str]:
    for each in engine.get("/images/json", {}):
        for tag in each["RepoTags"] or ():
            yield tag
            if tag.endswith(":latest"):
                yield tag.removesuffix(":latest")


def _networks(engine: Engine, _: str) -> Iterable[str]:
    return (each["Name"] for each in engine.get("/networks", {}))


def _volumes(engine: Engine, _: str) -> Iterable[str]:
    return (each["Name"] for each in engine.get("/volumes", {})["Volumes"] or ())


def _contexts(_engine: Engine, command: str) -> Iterable[str]:
    from orlop_cli.daemon import contexts

    return () if command in ("create", "import") else (contexts.DEFAULT, *contexts.names())


def _objects(engine: Engine, command: str) -> Iterable[str]:
    for source in (_containers, _images, _networks, _volumes):
        yield from source(engine, command)


_SOURCES: dict[str, Callable[[Any, str], Iterable[str]]] = {
    "CONTAINER": _containers,
    "CONTEXT": _contexts,
    "IMAGE": _images,
    "NAME": _images,
    "NAME|ID": _objects,
    "NETWORK": _networks,
    "VOLUME": _volumes,
}
