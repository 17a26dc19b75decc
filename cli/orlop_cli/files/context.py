"""The context of a build for `POST /build`. The context is a tar made from a directory or from standard input, or it is a
URL."""

from __future__ import annotations

import io
import os
import re
import secrets
import sys
import tarfile
from typing import NamedTuple

from orlop_cli._errors import CliError
from orlop_cli.files.pack import BLOCK, Selection, pack
from orlop_cli.values.ignore import Ignore, parse

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterator


__all__ = ["Context", "of_directory", "of_stdin", "open_context"]

_URL = re.compile(r"(https?|git|ssh)://|git@|github\.com/")
_ARCHIVES = (b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_MAGIC = slice(257, 262)
_IGNORE = ".dockerignore"


class Context(NamedTuple):
    """`body` is None for a remote context. `dockerfile` is the path of the Dockerfile in the context, "" for the default
    path."""

    body: Iterator[bytes] | None
    dockerfile: str
    remote: str = ""


def open_context(where: str, dockerfile: str) -> Context:
    """The context in the argument of `build`. Raises CliError."""
    if where == "-":
        if dockerfile == "-":
            raise CliError("invalid argument: can't use stdin for both build context and dockerfile")
        return of_stdin(dockerfile)
    if _URL.match(where):
        if dockerfile == "-":
            raise CliError("the Dockerfile cannot come from stdin when the context is remote")
        return Context(None, dockerfile, where)
    return of_directory(where, dockerfile)


def of_stdin(dockerfile: str) -> Context:
    """An archive, or a Dockerfile that needs no context."""
    stdin = sys.stdin.buffer
    head = stdin.read(512)
    if head.startswith(_ARCHIVES) or head[_MAGIC] == b"ustar":
        return Context(_joined(head), dockerfile)
    if dockerfile:
        raise CliError("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
    return Context(_archive({"Dockerfile": head + stdin.read()}), "")


def _joined(head: bytes) -> Iterator[bytes]:
    yield head
    while block := sys.stdin.buffer.read(BLOCK):
        yield block


def of_directory(directory: str, dockerfile: str) -> Context:
    """A directory, without the files that its `.dockerignore` excludes. A Dockerfile outside of the directory is added."""
    if not os.path.isdir(directory):
        what = "context must be a directory" if os.path.exists(directory) else "no such file or directory"
        raise CliError(f"unable to prepare context: path {directory!r}: {what}")
    inside, extra = _dockerfile(directory, dockerfile)
    name = inside or "Dockerfile"
    ignore = _ignore(directory, name)
    needed = {name, _IGNORE}  # sent even if they are ignored, because the daemon reads them

    def keep(path: str) -> bool:
        return path in needed or not ignore.excludes(path)

    def enter(path: str) -> bool:
        return ignore.has_exceptions or any(each.startswith(f"{path}/") for each in needed) or not ignore.excludes(path)

    packed = pack(directory, "", Selection(keep, enter, owner=0))
    if extra is None:
        return Context(packed, inside)
    hidden = f".dockerfile.{secrets.token_hex(10)}"
    return Context(_added({hidden: extra}, packed), hidden)


def _dockerfile(directory: str, given: str) -> tuple[str, bytes | None]:
    """The Dockerfile's path in the context, or its content if it is not in the context."""
    if not given:
        return "", None
    if given == "-":
        return "", sys.stdin.buffer.read()
    inside = os.path.relpath(os.path.realpath(given), os.path.realpath(directory))
    if os.path.exists(given) and not inside.startswith(".."):
        return inside, None
    try:
        with open(given, "rb") as file:
            return "", file.read()
    except OSError as error:
        if os.path.exists(os.path.join(directory, given)):
            return os.path.normpath(given), None
        raise CliError(f"unable to prepare context: {given}: {(error.strerror or str(error)).lower()}") from None


def _ignore(directory: str, dockerfile: str) -> Ignore:
    for name in (f"{dockerfile}{_IGNORE}", _IGNORE):
        try:
            with open(os.path.join(directory, name), "rb") as file:
                return Ignore(parse(file.read()))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CliError(f"cannot read {name}: {(error.strerror or str(error)).lower()}") from None
        except ValueError as error:
            raise CliError(f"cannot read {name}: {error}") from None
    return Ignore([])


def _added(files: dict[str, bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    yield from _members(files)
    yield from rest


def _archive(files: dict[str, bytes]) -> Iterator[bytes]:
    yield from _members(files)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _members(files: dict[str, bytes]) -> Iterator[bytes]:
    for name, content in files.items():
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o600
        stream = io.BytesIO()
        stream.write(info.tobuf(tarfile.PAX_FORMAT))
        stream.write(content)
        stream.write(bytes(-len(content) % tarfile.BLOCKSIZE))
        yield stream.getvalue()
