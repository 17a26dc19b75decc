"""Archives of `orlop context export`: meta.json, and the TLS files below tls/docker (docker/cli, context/store)."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import zipfile

from orlop_cli._errors import CliError
from orlop_cli.attached.streams import write_all
from orlop_cli.daemon.contexts import TLS_FILES, Context
from orlop_cli.files.outputs import new_file
from orlop_cli.values import jsontext

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

__all__ = ["export", "read"]

LIMIT = 10 << 20  # maximum bytes of an archive, the same as in docker
_PLACE = "tls/docker/"


def export(context: Context, tls: dict[str, bytes], path: str) -> None:
    """Write the archive to a new file, or to standard output for "-"."""
    data = _packed(context, tls)
    if path == "-":
        if os.isatty(1):
            raise CliError("cowardly refusing to export to a terminal, specify a file path")
        write_all(1, data)
        return
    with new_file(path, 0o600, exists=f"open {path}: file exists") as write:
        write(data)
    sys.stdout.flush()
    print(f'Written file "{path}"', file=sys.stderr)


def _packed(context: Context, tls: dict[str, bytes]) -> bytes:
    document = jsontext.dumps(context.document, ascii_only=False, compact=True).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _add(archive, "meta.json", document, 0o644)
        for directory in ("tls", "tls/docker") if tls else ("tls",):
            _add(archive, directory, None, 0o700)
        for name, content in tls.items():
            _add(archive, _PLACE + name, content, 0o600)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes | None, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.mode = mode
    member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    member.size = len(content or b"")
    archive.addfile(member, io.BytesIO(content or b""))


def read(path: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The context's document and TLS files of an archive (tar or zip); "-" is standard input. Raises CliError."""
    data = _content(path)
    try:
        members = _zip(data) if data.startswith(b"PK\x03\x04") else _tar(data)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, RuntimeError) as error:
        raise CliError(f"cannot read the archive {path}: {error}") from None
    if "meta.json" not in members:
        raise CliError("invalid context: no metadata found")
    try:
        document = jsontext.loads(members["meta.json"])
    except (ValueError, RecursionError) as error:
        raise CliError(f"cannot read meta.json of the archive: {error}") from None
    if not isinstance(document, dict):
        raise CliError("cannot read meta.json of the archive: not a JSON object")
    return document, {name: members[_PLACE + name] for name in TLS_FILES if _PLACE + name in members}


def _content(path: str) -> bytes:
    try:
        if path == "-":
            data = sys.stdin.buffer.read(LIMIT + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(LIMIT + 1)
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > LIMIT:
        raise CliError(f"the archive {path} is larger than {LIMIT} bytes")
    return data


def _tar(data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file is not None:
                found[_checked(member.name)] = file.read(LIMIT)
    return found


def _zip(data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                if member.file_size > LIMIT:
                    raise CliError(f"{member.filename} is larger than {LIMIT} bytes")
                with archive.open(member) as file:
                    found[_checked(member.filename)] = file.read(LIMIT)
    return found


def _checked(name: str) -> str:
    """Refuse a name that leads out of the archive's directory. It does no harm, because no file is extracted under its name,
    but docker makes no archive with such a name."""
    if name.startswith("/") or ".." in name.split("/"):
        raise CliError(f"unexpected file {name} in the archive")
    return name.removeprefix("./")
