"""The instructions of a Dockerfile, as values. Variables in their texts are not expanded yet."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from .arguments import Pair
from .heredocs import Heredoc
from .mounts import Device
from .parser import Lines

__all__ = [
    "Add",
    "Arg",
    "ArgPair",
    "Cmd",
    "CommandLine",
    "Copy",
    "Entrypoint",
    "Env",
    "Expose",
    "Files",
    "Health",
    "Healthcheck",
    "Inline",
    "Instruction",
    "Label",
    "Maintainer",
    "Onbuild",
    "Run",
    "Shell",
    "Stage",
    "Stopsignal",
    "User",
    "Volume",
    "Workdir",
]


class _Base(msgspec.Struct, frozen=True, kw_only=True):
    """`name` has the spelling of the file; `code` is the logical line; `comments` are the comments before this line."""

    name: str
    code: str
    lines: Lines
    comments: tuple[str, ...] = ()


class Inline(msgspec.Struct, frozen=True):
    """A file of COPY or ADD whose content is in the Dockerfile. `expand`: variables in the content are expanded."""

    path: str
    data: str
    expand: bool


class Files(msgspec.Struct, frozen=True):
    sources: tuple[str, ...]
    inline: tuple[Inline, ...]
    destination: str


class CommandLine(msgspec.Struct, frozen=True):
    """The command of an instruction. `shell`: a shell runs `words`, which is then a single string."""

    words: tuple[str, ...]
    shell: bool
    heredocs: tuple[Heredoc, ...] = ()


class Env(_Base, frozen=True):
    pairs: tuple[Pair, ...]


class Label(_Base, frozen=True):
    pairs: tuple[Pair, ...]


class Maintainer(_Base, frozen=True):
    maintainer: str


class Add(_Base, frozen=True, kw_only=True):
    files: Files
    chown: str = ""
    chmod: str = ""
    checksum: str = ""
    excludes: tuple[str, ...] = ()
    link: bool = False
    keep_git_dir: bool | None = None
    unpack: bool | None = None


class Copy(_Base, frozen=True, kw_only=True):
    """`source` is the value of --from."""

    files: Files
    source: str = ""
    chown: str = ""
    chmod: str = ""
    excludes: tuple[str, ...] = ()
    link: bool = False
    parents: bool = False


class Onbuild(_Base, frozen=True):
    expression: str


class Workdir(_Base, frozen=True):
    path: str


class Run(_Base, frozen=True, kw_only=True):
    """`mounts` are the values of --mount. They are parsed when the variables are known."""

    command: CommandLine
    mounts: tuple[str, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[Device, ...] = ()


class Cmd(_Base, frozen=True):
    command: CommandLine


class Entrypoint(_Base, frozen=True):
    command: CommandLine


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A health check. Durations are in nanoseconds."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Healthcheck(_Base, frozen=True):
    health: Health


class Expose(_Base, frozen=True):
    ports: tuple[str, ...]


class User(_Base, frozen=True):
    user: str


class Volume(_Base, frozen=True):
    paths: tuple[str, ...]


class Stopsignal(_Base, frozen=True):
    signal: str


class ArgPair(msgspec.Struct, frozen=True):
    """One name of an ARG. `description` is from a comment "NAME description"."""

    name: str
    value: str | None
    description: str = ""


class Arg(_Base, frozen=True):
    pairs: tuple[ArgPair, ...]


class Shell(_Base, frozen=True):
    shell: tuple[str, ...]


Instruction: TypeAlias = (
    Env
    | Label
    | Maintainer
    | Add
    | Copy
    | Onbuild
    | Workdir
    | Run
    | Cmd
    | Entrypoint
    | Healthcheck
    | Expose
    | User
    | Volume
    | Stopsignal
    | Arg
    | Shell
)


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A FROM and the instructions after it. `keyword` is "FROM" in the spelling of the file, `alias` is the name in the
    spelling of the file, and `keyword_as` is the word before the name."""

    base: str
    name: str
    code: str
    platform: str
    lines: Lines
    keyword: str
    alias: str = ""
    keyword_as: str = ""
    description: str = ""
    comments: tuple[str, ...] = ()
    instructions: tuple[Instruction, ...] = ()
