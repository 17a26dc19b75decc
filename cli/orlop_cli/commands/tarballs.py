"""`load`, `save`, `import`, `export`: commands for tar archives."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import contextmanager, nullcontext
from functools import partial

from orlop_cli import _progress
from orlop_cli._command import command, fail, flag, many, option
from orlop_cli._errors import CliError
from orlop_cli.attached.streams import write_all
from orlop_cli.daemon.client import records, segment
from orlop_cli.files.outputs import whole_file
from orlop_cli.values import platforms, references

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, Any

    from orlop_cli._session import Session


BLOCK = 1 << 20


@contextmanager
def _input(path: str | None) -> Iterator[IO[bytes]]:
    if path is None or path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    with file:
        yield file


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    try:
        while block := os.read(file.fileno(), BLOCK):
            yield block
    except OSError as error:
        raise CliError(f"cannot read the archive: {(error.strerror or str(error)).lower()}") from None


@command(
    "load",
    "Load an image from a tar archive or STDIN",
    examples=["orlop load -i app.tar.gz", "ssh build cat app.tar | orlop load"],
)
@option("-i", "--input", "path", metavar="string", help="Read from tar archive file, instead of STDIN")
@many("--platform", metavar="strings", help="Load only the given platform (os/arch[/variant])")
@flag("-q", "--quiet", help="Suppress the load output")
def load(session: Session, args: tuple[str, ...], path: str | None, platform: tuple[str, ...], quiet: bool) -> None:
    if path is None and os.isatty(0):
        fail("requested load from stdin, but stdin is empty")
    engine = session.engine
    engine.negotiate()  # before the request, because a body from a pipe can be sent only once
    query: dict[str, Any] = {"quiet": int(quiet or not sys.stdout.isatty()), **_platforms(session, platform)}
    with _input(path) as file:
        answer = engine.open("POST", "/images/load", query, _blocks(file), {"Content-Type": "application/x-tar"})
        _progress.show(records(answer), sys.stdout)


def _platforms(session: Session, given: tuple[str, ...]) -> dict[str, list[str]]:
    """The part of the query for `--platform`."""
    wanted = platforms.query_values(given)
    if wanted:
        session.engine.need((1, 52) if len(wanted) > 1 else (1, 48), "platform")
    return {"platform": wanted} if wanted else {}


@command(
    "save",
    "Save one or more images to a tar archive (streamed to STDOUT by default)",
    usage="IMAGE [IMAGE...]",
    least=1,
    most=None,
    examples=["orlop save -o app.tar app:1 app:2", "orlop save app | ssh host orlop load"],
)
@option("-o", "--output", "path", metavar="string", help="Write to a file, instead of STDOUT")
@many("--platform", metavar="strings", help="Save only the given platform (os/arch[/variant])")
def save(session: Session, args: tuple[str, ...], path: str | None, platform: tuple[str, ...]) -> None:
    query = {"names": list(args), **_platforms(session, platform)}
    _receive(session, "/images/get", query, path, "failed to save image")


def _receive(session: Session, route: str, query: dict[str, list[str]], path: str | None, failure: str) -> None:
    """Write the tar stream of a route to a file, or to standard output unless that is a terminal."""
    if path is None and sys.stdout.isatty():
        fail("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    if path:
        _check_output(path, failure)
    with whole_file(path) if path else nullcontext(partial(write_all, 1)) as write:
        for piece in session.engine.open("GET", route, query).chunks():
            write(piece)


@command(
    "import",
    "Import the contents from a tarball to create a filesystem image",
    usage="file|URL|- [REPOSITORY[:TAG]]",
    least=1,
    most=2,
    examples=["orlop import rootfs.tar.gz mine:1", "tar -C rootfs -c . | orlop import -c 'CMD [\"sh\"]' - mine:2"],
)
@many("-c", "--change", help="Apply Dockerfile instruction to the created image")
@option("-m", "--message", metavar="string", help="Set commit message for imported image")
@option(
    "--platform", metavar="string", envvar="DOCKER_DEFAULT_PLATFORM", help="Set platform if server is multi-platform capable"
)
def import_(
    session: Session, args: tuple[str, ...], change: tuple[str, ...], message: str | None, platform: str | None
) -> None:
    source, target = args[0], args[1] if len(args) > 1 else ""
    if target:
        references.parse(target)
    repo, tag = references.split_tag(target)
    remote = source.startswith(("http://", "https://"))
    query = {
        "fromSrc": source if remote else "-",
        "repo": repo or None,
        "tag": tag or None,
        "message": message,
        "platform": platform,
        "changes": list(change),
    }
    engine = session.engine
    if remote:
        _progress.show(records(engine.open("POST", "/images/create", query)), sys.stdout)
        return
    engine.negotiate()
    with _input(source) as file:
        answer = engine.open("POST", "/images/create", query, _blocks(file), {"Content-Type": "text/plain"})
        _progress.show(records(answer), sys.stdout)


@command(
    "export",
    "Export a container's filesystem as a tar archive",
    usage="CONTAINER",
    least=1,
    most=1,
    examples=["orlop export -o web.tar web", "orlop export web | orlop import - web:flat"],
)
@option("-o", "--output", "path", metavar="string", help="Write to a file, instead of STDOUT")
def export(session: Session, args: tuple[str, ...], path: str | None) -> None:
    _receive(session, f"/containers/{segment(args[0])}/export", {}, path, "failed to export container")


def _check_output(path: str, failure: str) -> None:
    problem = ""
    if not os.path.isdir(os.path.dirname(path) or "."):
        problem = f'directory "{os.path.dirname(path)}" does not exist'
    elif os.path.exists(path) and not os.path.isfile(path):
        mode = os.stat(path).st_mode
        device = stat.S_ISBLK(mode) or stat.S_ISCHR(mode)
        what = "a directory" if stat.S_ISDIR(mode) else "a device" if device else "an irregular file"
        problem = f'"{path}" must be a regular file: got {what}'
    if problem:
        fail(f"{failure}: invalid output path: {problem}")
