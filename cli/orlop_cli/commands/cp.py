"""`orlop cp`: copies files between a container and the client's machine, as tar archives."""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
import time
from typing import Any, NamedTuple

from orlop_cli._command import command, fail, flag
from orlop_cli._errors import ApiError, CliError
from orlop_cli.attached.streams import write_all
from orlop_cli.daemon.client import Engine, segment
from orlop_cli.files import copy_rules as rules
from orlop_cli.files.copy_rules import Place, Source
from orlop_cli.values import units

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orlop_cli._session import Session


_STAT = "x-docker-container-path-stat"
_GO_DIR, _GO_SYMLINK, _GO_DEVICE, _GO_IRREGULAR = 1 << 31, 1 << 27, 1 << 26, 1 << 19
_LINKS = 10  # maximum number of symbolic links that are followed in a destination
_BLOCK = 1 << 20
_REDRAW = 0.1


class Stat(NamedTuple):
    """The daemon's stat of a path. `mode` is Go's os.FileMode."""

    mode: int
    link: str

    @property
    def is_dir(self) -> bool:
        return bool(self.mode & _GO_DIR)


@command(
    "cp",
    "Copy files/folders between a container and the local filesystem",
    usage="CONTAINER:SRC_PATH DEST_PATH|- | SRC_PATH|- CONTAINER:DEST_PATH",
    least=2,
    most=2,
    examples=[
        "orlop cp web:/var/log/app.log .            from a container into this directory",
        "orlop cp ./site/. web:/usr/share/site      the contents of a directory, into a directory of the container",
        "orlop cp web:/etc - | tar t                as an archive",
        "tar c config | orlop cp - web:/etc",
    ],
)
@flag("-a", "--archive", help="Archive mode (files copied into a container belong to the container's user)")
@flag("-L", "--follow-link", help="Always follow symbol link in SRC_PATH")
@flag("-q", "--quiet", default=None, help="Suppress progress output during copy (default: if the output is not a terminal)")
def cp(session: Session, args: tuple[str, ...], archive: bool, follow_link: bool, quiet: bool | None) -> None:
    source, destination = args
    quiet = not sys.stdout.isatty() if quiet is None else quiet
    if not source:
        fail("source can not be empty")
    if not destination:
        fail("destination can not be empty")
    from_container, from_path = rules.split(source)
    to_container, to_path = rules.split(destination)
    if from_container and to_container:
        fail("copying between containers is not supported")
    if from_container:
        _copy_out(session.engine, from_container, from_path, to_path, follow_link, quiet)
    elif to_container:
        _copy_in(session.engine, from_path, to_container, to_path, archive, follow_link, quiet)
    else:
        fail("must specify at least one container source")


# --- out of a container


def _copy_out(engine: Engine, container: str, path: str, destination: str, follow: bool, quiet: bool) -> None:
    local = destination if destination == "-" else _absolute(destination)
    if local != "-":
        _check_output(local)
    name = rules.entry_name(path)
    if follow:
        found = _stat(engine, container, path)
        if found is not None and found.mode & _GO_SYMLINK:
            path = rules.link_target(path, found.link)
    answer = engine.open("GET", f"/containers/{segment(container)}/archive", {"path": path})
    if local == "-":
        for piece in answer.chunks():
            write_all(1, piece)
        return
    from orlop_cli.files.unpack import unpack

    told = _decoded(answer.headers.get(_STAT, ""))
    directory, top = rules.settle(Source(told.is_dir, name), _destination(local))
    progress = Progress(answer.chunks(), "Copying from container", quiet)
    unpack(progress, directory, rules.entry_name(path), top)
    progress.done(f"to {local}")


def _absolute(path: str) -> str:
    return rules.as_written(rules.clean(os.path.join(os.getcwd(), path)), path)


def _check_output(path: str) -> None:
    parent = os.path.dirname(rules.clean(path))
    if not os.path.exists(parent):
        fail(f'invalid output path: directory "{parent}" does not exist')
    if os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path):
        mode = os.stat(path).st_mode
        what = "a device" if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) else "an irregular file"
        fail(f'invalid output path: "{path}" must be a directory or a regular file: got {what}')


def _destination(path: str) -> Place:
    """The local destination. Links at its end are followed, even if their target does not exist."""
    original = path
    for _ in range(_LINKS + 1):
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            parent = rules.parent_and_name(path)[0]
            if not os.path.isdir(parent):
                fail("not a directory" if os.path.exists(parent) else f"stat {parent}: no such file or directory")
            return Place(path)
        except NotADirectoryError:
            fail("not a directory")
        if not stat.S_ISLNK(found.st_mode):
            return Place(path, exists=True, is_dir=stat.S_ISDIR(found.st_mode))
        path = rules.link_target(path, os.readlink(path))
    raise CliError(f"too many symlinks in {original}")


# --- into a container


def _copy_in(engine: Engine, path: str, container: str, destination: str, own: bool, follow: bool, quiet: bool) -> None:
    engine.negotiate()  # before the request, because a body from a pipe can be sent only once
    shown = f"{container}:{destination}"
    place = _remote_destination(engine, container, destination, shown)
    body: Iterable[bytes]
    if path == "-":
        if not place.is_dir:
            fail(f'destination "{shown}" must be a directory')
        directory, body = place.path, _stdin()
    else:
        from orlop_cli.files.pack import pack

        local, source = _source(_absolute(path), follow)
        directory, top = rules.settle(source, place)
        body = pack(local, top)
    progress = Progress(body, "Copying to container", quiet)
    query = {"path": directory, "noOverwriteDirNonDir": "true", "copyUIDGID": "true" if own else None}
    headers = {"Content-Type": "application/x-tar"}
    engine.open("PUT", f"/containers/{segment(container)}/archive", query, progress, headers).read()
    progress.done(f"to {container}:{place.path}")


def _source(path: str, follow: bool) -> tuple[str, Source]:
    """The local file to read, and its type. A link is copied as a link, unless `follow` is set or it ends in "/"."""
    try:
        found = os.stat(path) if follow or rules.asserts_directory(path) else os.lstat(path)
    except NotADirectoryError:
        fail("not a directory")
    except OSError as error:
        fail(f"lstat {path}: {(error.strerror or str(error)).lower()}")
    is_dir = stat.S_ISDIR(found.st_mode)
    if follow or rules.asserts_directory(path):
        return os.path.realpath(path), Source(is_dir, rules.entry_name(path))
    return path, Source(is_dir, rules.entry_name(path))


def _remote_destination(engine: Engine, container: str, path: str, shown: str) -> Place:
    found = _stat(engine, container, path)
    if found is not None and found.mode & _GO_SYMLINK:
        path = rules.link_target(path, found.link)
        found = _stat(engine, container, path)
    if found is None:
        return Place(path)  # the parent directory may exist; otherwise the daemon reports the error
    if found.mode & (_GO_DEVICE | _GO_IRREGULAR):
        what = "a device" if found.mode & _GO_DEVICE else "an irregular file"
        fail(f'destination "{shown}" must be a directory or a regular file: got {what}')
    return Place(path, exists=True, is_dir=found.is_dir)


def _stdin() -> Iterator[bytes]:
    try:
        while block := os.read(0, _BLOCK):
            yield block
    except OSError as error:
        raise CliError(f"cannot read standard input: {(error.strerror or str(error)).lower()}") from None


def _stat(engine: Engine, container: str, path: str) -> Stat | None:
    """The stat of a path in a container; None if it does not exist or the stat fails."""
    try:
        answer = engine.open("HEAD", f"/containers/{segment(container)}/archive", {"path": path})
    except ApiError:
        return None
    answer.read()
    return _decoded(answer.headers.get(_STAT, ""))


def _decoded(header: str) -> Stat:
    try:
        told: dict[str, Any] = json.loads(base64.b64decode(header))
        return Stat(int(told["mode"]), str(told.get("linkTarget") or ""))
    except (ValueError, KeyError, TypeError):
        raise CliError("the daemon's answer does not describe the path") from None


class Progress:
    """Counts the transferred bytes, and shows their number on a terminal."""

    def __init__(self, pieces: Iterable[bytes], title: str, quiet: bool) -> None:
        self._pieces, self._title, self._quiet = pieces, title, quiet
        self._live = not quiet and sys.stderr.isatty()
        self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        shown = 0.0
        for piece in self._pieces:
            self._size += len(piece)
            if self._live and (now := time.monotonic()) - shown > _REDRAW:
                sys.stderr.write(f"\r\x1b[K{self._title} - {units.human_size(self._size)}")
                sys.stderr.flush()
                shown = now
            yield piece

    def done(self, where: str) -> None:
        if not self._quiet:
            erase = "\r\x1b[K" if self._live else ""
            print(f"{erase}Successfully copied {units.human_size(self._size)} {where}", file=sys.stderr)
