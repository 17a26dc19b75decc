"""Converts the parser's nodes to instructions and stages. Errors have BuildKit's messages, and the lines of the
instruction."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from . import instructions as ins
from .flags import Flags
from .goformat import parse_duration, parse_int, quote
from .heredocs import heredoc_word, without_tabs
from .interface import DockerfileError
from .limits import Budget
from .mounts import check_mount, parse_device
from .parser import Lines, Node, parse
from .suggest import suggestion

__all__ = ["Stages", "instruction_of_trigger", "read_stages"]

_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*")
_ONBUILD = re.compile(r"^\s*ONBUILD\s*", re.IGNORECASE)
_MILLISECOND = 1_000_000


class Stages(msgspec.Struct, frozen=True):
    """`arguments` are the ARGs before the first FROM."""

    stages: tuple[ins.Stage, ...]
    arguments: tuple[ins.Arg, ...]


def read_stages(nodes: tuple[Node, ...], budget: Budget) -> Stages:
    stages: list[ins.Stage] = []
    current: list[ins.Instruction] = []
    arguments: list[ins.Arg] = []

    def close() -> None:
        if stages:
            stages[-1] = msgspec.structs.replace(stages[-1], instructions=tuple(current))
            current.clear()

    for node in nodes:
        try:
            found = _read(node, budget)
        except ValueError as error:
            message = f"dockerfile parse error on line {node.lines.start}: {error}"
            raise DockerfileError(message, ranges=node.lines.ranges) from None
        if isinstance(found, ins.Stage):
            close()
            stages.append(found)
        elif stages:
            current.append(found)
        elif isinstance(found, ins.Arg):
            arguments.append(found)
        else:
            raise DockerfileError("no build stage in current context", ranges=node.lines.ranges)
    close()
    return Stages(tuple(stages), tuple(arguments))


def instruction_of_trigger(text: str, lines: Lines, budget: Budget) -> ins.Instruction:
    """The instruction of an image's ONBUILD. `lines` are the lines of the FROM with this image."""
    parsed = parse(text, budget)
    if len(parsed.nodes) != 1:
        raise DockerfileError("onbuild trigger should be a single expression", ranges=lines.ranges)
    node = msgspec.structs.replace(parsed.nodes[0], lines=lines, comments=())
    try:
        found = _read(node, budget)
    except ValueError as error:
        raise DockerfileError(str(error), ranges=lines.ranges) from None
    if isinstance(found, ins.Stage):
        raise DockerfileError("FROM isn't allowed as an ONBUILD trigger", ranges=lines.ranges)
    return found


def _read(node: Node, budget: Budget) -> ins.Instruction | ins.Stage:
    name = node.name.lower()
    if name == "from":
        return _stage(node)
    if name in ("add", "copy"):
        return _copy(node, budget)
    if name not in _READERS:
        message = f"unknown instruction: {node.name}"
        raise ValueError(message + suggestion(node.name, [known.upper() for known in _NAMES], ignore_case=True))
    return _READERS[name](node)


def _base(node: Node) -> dict[str, object]:
    return {"name": node.name, "code": node.original.strip(), "lines": node.lines, "comments": node.comments}


def _one(node: Node) -> str:
    if len(node.arguments.words) != 1:
        raise ValueError(f"{node.name.upper()} requires exactly one argument")
    Flags(node.flags)
    return node.arguments.words[0]


def _some(node: Node) -> None:
    if not node.arguments.words:
        raise ValueError(f"{node.name.upper()} requires at least one argument")


def _stage(node: Node) -> ins.Stage:
    words = node.arguments.words
    name = alias = keyword_as = ""
    if len(words) == 3 and words[1].lower() == "as":
        keyword_as, alias = words[1:]
        name = alias.lower()
        if not _STAGE_NAME.fullmatch(name):
            raise ValueError(
                f"invalid name for build stage: {quote(alias)}, name can't start with a number or contain symbols"
            )
    elif len(words) != 1:
        raise ValueError("FROM requires either one or three arguments")
    flags = Flags(node.flags, strings=("platform",))
    return ins.Stage(
        base=words[0],
        name=name,
        code=node.original.strip(),
        platform=flags.text("platform"),
        lines=node.lines,
        keyword=node.name,
        alias=alias,
        keyword_as=keyword_as,
        description=described(node.comments, name),
        comments=node.comments,
    )


def described(comments: tuple[str, ...], name: str) -> str:
    """The description of `name` in a comment that begins with this name."""
    found = (comment.removeprefix(f"{name} ") for comment in comments if name and comment.startswith(f"{name} "))
    return next(found, "")


def _pairs(node: Node) -> tuple[object, ...]:
    Flags(node.flags)
    pairs = node.arguments.pairs
    if not pairs:
        raise ValueError(f"{node.name.upper()} requires at least one argument")
    if any(not pair.name for pair in pairs):
        raise ValueError(f"{node.name.upper()} names can not be blank")
    return pairs


def _copy(node: Node, budget: Budget) -> ins.Add | ins.Copy:
    name = node.name.upper()
    words = node.arguments.words
    if len(words) < 2:
        raise ValueError(
            f"{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        )
    shared = ("chown", "chmod")
    if name == "ADD":
        flags = Flags(
            node.flags, strings=(*shared, "checksum"), bools=("link", "keep-git-dir", "unpack"), lists=("exclude",)
        )
    else:
        flags = Flags(node.flags, strings=(*shared, "from"), bools=("link", "parents"), lists=("exclude",))
    files = _files(node, budget)
    common = _base(node) | {"files": files, "chown": flags.text("chown"), "chmod": flags.text("chmod")}
    common |= {"link": flags.flag("link"), "excludes": flags.values("exclude")}
    if name == "ADD":
        keep, unpack = flags.maybe("keep-git-dir"), flags.maybe("unpack")
        return ins.Add(**common, checksum=flags.text("checksum"), keep_git_dir=keep, unpack=unpack)  # type: ignore[arg-type]
    return ins.Copy(**common, source=flags.text("from"), parents=flags.flag("parents"))  # type: ignore[arg-type]


def _files(node: Node, budget: Budget) -> ins.Files:
    *sources, destination = node.arguments.words
    if node.arguments.json:
        return ins.Files(tuple(sources), (), destination)
    if heredoc_word(destination, budget):
        raise ValueError(f"{node.name.upper()} cannot accept a heredoc as a destination")
    contents = {heredoc.name: heredoc for heredoc in node.heredocs}
    paths, inline = [], []
    for source in sources:
        heredoc = heredoc_word(source, budget)
        if heredoc is None:
            paths.append(source)
            continue
        found = contents.get(heredoc.name, heredoc)
        data = without_tabs(found.content) if heredoc.chomp else found.content
        inline.append(ins.Inline(heredoc.name, data, heredoc.expand))
    return ins.Files(tuple(paths), tuple(inline), destination)


def _command(node: Node) -> ins.CommandLine:
    words = node.arguments.words
    if not node.arguments.json:
        words = (" ".join(words),) if words else ()
    return ins.CommandLine(words, not node.arguments.json, node.heredocs)


def _run(node: Node) -> ins.Run:
    flags = Flags(node.flags, strings=("network", "security"), lists=("mount", "device"))
    network, security = flags.text("network", "default"), flags.text("security", "sandbox")
    if network not in ("default", "none", "host"):
        raise ValueError(f"invalid network mode {quote(network)}")
    if security not in ("sandbox", "insecure"):
        raise ValueError(f"security {quote(security)} is not valid")
    mounts = flags.values("mount")
    for mount in mounts:
        check_mount(mount)
    devices = tuple(parse_device(device) for device in flags.values("device"))
    command = _command(node)
    return ins.Run(**_base(node), command=command, mounts=mounts, network=network, security=security, devices=devices)  # type: ignore[arg-type]


def _onbuild(node: Node) -> ins.Onbuild:
    _some(node)
    Flags(node.flags)
    trigger = node.arguments.words[0].strip().upper()
    if trigger == "ONBUILD":
        raise ValueError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise ValueError(f"{trigger} isn't allowed as an ONBUILD trigger")
    expression = _ONBUILD.sub("", node.original)
    for heredoc in node.heredocs:
        expression += "\n" + heredoc.content + heredoc.name
    return ins.Onbuild(**_base(node), expression=expression)  # type: ignore[arg-type]


def _health(node: Node) -> ins.Healthcheck:
    _some(node)
    kind, words = node.arguments.words[0].upper(), node.arguments.words[1:]
    if kind == "NONE":
        if words:
            raise ValueError("HEALTHCHECK NONE takes no arguments")
        return ins.Healthcheck(**_base(node), health=ins.Health(test=("NONE",)))  # type: ignore[arg-type]
    names = ("interval", "timeout", "start-period", "start-interval")
    flags = Flags(node.flags, strings=(*names, "retries"))
    if kind != "CMD":
        raise ValueError(f"Unknown type {quote(kind)} in HEALTHCHECK (try CMD)")
    if not words:
        raise ValueError("Missing command after HEALTHCHECK CMD")
    test = ("CMD", *words) if node.arguments.json else ("CMD-SHELL", " ".join(words))
    times = {name.replace("-", "_"): _interval(name, flags.text(name)) for name in names}
    retries = parse_int(flags.text("retries", "0"), 10, 32, signed=True) if flags.text("retries") else 0
    if retries < 0:
        raise ValueError(f"--retries cannot be negative ({retries})")
    return ins.Healthcheck(**_base(node), health=ins.Health(test=test, retries=retries, **times))  # type: ignore[arg-type]


def _interval(name: str, text: str) -> int:
    if not text:
        return 0
    value = parse_duration(text)
    if value and value < _MILLISECOND:
        raise ValueError(f"Interval {quote(name)} cannot be less than 1ms")
    return value


def _volume(node: Node) -> ins.Volume:
    _some(node)
    Flags(node.flags)
    paths = tuple(word.strip() for word in node.arguments.words)
    if not all(paths):
        raise ValueError("VOLUME specified can not be an empty string")
    return ins.Volume(**_base(node), paths=paths)  # type: ignore[arg-type]


def _expose(node: Node) -> ins.Expose:
    _some(node)
    Flags(node.flags)
    return ins.Expose(**_base(node), ports=tuple(sorted(node.arguments.words)))  # type: ignore[arg-type]


def _arg(node: Node) -> ins.Arg:
    _some(node)
    pairs = []
    for word in node.arguments.words:
        name, equals, value = word.partition("=")
        if not name:
            raise ValueError("ARG names can not be blank")
        pairs.append(ins.ArgPair(name, value if equals else None, described(node.comments, name)))
    return ins.Arg(**_base(node), pairs=tuple(pairs))  # type: ignore[arg-type]


def _shell(node: Node) -> ins.Shell:
    Flags(node.flags)
    if not node.arguments.words:
        raise ValueError("SHELL requires at least one argument")
    if not node.arguments.json:
        raise ValueError("SHELL requires the arguments to be in JSON form")
    return ins.Shell(**_base(node), shell=node.arguments.words)  # type: ignore[arg-type]


def _entrypoint(node: Node) -> ins.Entrypoint:
    Flags(node.flags)
    return ins.Entrypoint(**_base(node), command=_command(node))  # type: ignore[arg-type]


def _cmd(node: Node) -> ins.Cmd:
    Flags(node.flags)
    return ins.Cmd(**_base(node), command=_command(node))  # type: ignore[arg-type]


_READERS: dict[str, Callable[[Node], ins.Instruction]] = {
    "arg": _arg,
    "cmd": _cmd,
    "entrypoint": _entrypoint,
    "env": lambda node: ins.Env(**_base(node), pairs=_pairs(node)),  # type: ignore[arg-type]
    "expose": _expose,
    "healthcheck": _health,
    "label": lambda node: ins.Label(**_base(node), pairs=_pairs(node)),  # type: ignore[arg-type]
    "maintainer": lambda node: ins.Maintainer(**_base(node), maintainer=_one(node)),  # type: ignore[arg-type]
    "onbuild": _onbuild,
    "run": _run,
    "shell": _shell,
    "stopsignal": lambda node: ins.Stopsignal(**_base(node), signal=_one(node)),  # type: ignore[arg-type]
    "user": lambda node: ins.User(**_base(node), user=_one(node)),  # type: ignore[arg-type]
    "volume": _volume,
    "workdir": lambda node: ins.Workdir(**_base(node), path=_one(node)),  # type: ignore[arg-type]
}
# Sorted by frequency, because the first of several equally similar names is suggested
_NAMES = ["from", "run", "copy", "add", *_READERS]
