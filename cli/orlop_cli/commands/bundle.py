"""`orlop debug bundle`: collects the data for a bug report in one file, without secrets.

Most parts come from the daemon. If the daemon does not answer, they come from `orlopd --check --facts` on this machine and
from the journal. If a part cannot be collected, the file contains the error.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from typing import Any

from orlop_cli._command import command, flag, option
from orlop_cli._errors import CannotConnect, CliError
from orlop_cli.daemon.client import Engine, records
from orlop_cli.files.outputs import new_file

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orlop_cli._session import Session


_MASK = "xxxxx"
_PASSWORD = re.compile(r"(://)[^/@\s\"']+@")
_SECRET = re.compile(r"token|secret|passw|credential|api-?key|^auth$|identity", re.IGNORECASE)
_EVENTS = 1000
_JOURNAL = ("journalctl", "-u", "orlop", "-n", "5000", "--no-pager", "-o", "short-iso-precise")
_SECONDS = 60

Parts = dict[str, str]


def masked(value: Any, with_env: bool) -> Any:
    """Mask values of environment variables, volume options and members with secret names, and passwords in URLs."""
    if isinstance(value, str):
        return _PASSWORD.sub(rf"\1{_MASK}@", value)
    if isinstance(value, list):
        return [masked(item, with_env) for item in value]
    if isinstance(value, dict):
        return {key: _member(key, item, with_env) for key, item in value.items()}
    return value


def _member(key: str, value: Any, with_env: bool) -> Any:
    if key in ("Volumes", "DriverConfig"):
        value = _optionless(value)
    if key == "Env" and isinstance(value, list) and not with_env:
        return [f"{str(item).partition('=')[0]}={_MASK}" for item in value]
    if isinstance(value, str) and value and _SECRET.search(key):
        return _MASK
    return masked(value, with_env)


def _optionless(value: Any) -> Any:
    """Mask the option values of volumes, because `o` may contain passwords of network shares. `value` is a list or a driver
    config."""
    if isinstance(value, list):
        return [_optionless(item) for item in value]
    if isinstance(value, dict) and isinstance(value.get("Options"), dict):
        return {**value, "Options": dict.fromkeys(value["Options"], _MASK)}
    return value


def _document(value: Any, with_env: bool) -> str:
    return json.dumps(masked(value, with_env), indent=1, ensure_ascii=False) + "\n"


def _tried(get: Callable[[], str]) -> str:
    try:
        return get()
    except CannotConnect:
        raise
    except (CliError, OSError, ValueError, subprocess.SubprocessError) as error:
        return f"cannot be read: {getattr(error, 'message', error)}\n"


# --- with a daemon ----------------------------------------------------------------------------------------------------


def _asked(engine: Engine, with_env: bool) -> Iterator[tuple[str, str]]:
    def document(path: str, query: dict[str, str] | None = None) -> Callable[[], str]:
        return lambda: _document(engine.get(path, query), with_env)

    yield "version.json", _tried(document("/version"))
    yield "info.json", _tried(document("/info"))
    yield "config.json", _tried(document("/orlop/config"))
    yield "events.jsonl", _tried(lambda: _events(engine, with_env))
    yield from _checked(lambda: dict(engine.get("/orlop/check", {"facts": "1"})), with_env)
    for kind in ("networks", "volumes", "images/json"):
        yield f"{kind.partition('/')[0]}.json", _tried(document(f"/{kind}"))
    listed = _tried(document("/containers/json", {"all": "1"}))
    yield "containers.json", listed
    for summary in json.loads(listed) if listed.startswith("[") else ():
        yield f"containers/{summary['Id'][:12]}.json", _tried(document(f"/containers/{summary['Id']}/json"))


def _events(engine: Engine, with_env: bool) -> str:
    answer = engine.open("GET", "/events", {"since": "0", "until": str(int(time.time()) + 1)})
    found = list(records(answer))[-_EVENTS:]
    return "".join(json.dumps(masked(event, with_env)) + "\n" for event in found)


def _checked(get: Callable[[], dict[str, Any]], with_env: bool) -> Iterator[tuple[str, str]]:
    """Yields the report of a check, and its facts, as separate files."""
    report: dict[str, Any] = {}

    def read() -> str:
        report.update(get())
        return _document({key: value for key, value in report.items() if key != "facts"}, with_env)

    yield "check.json", _tried(read)
    for name, text in sorted((report.get("facts") or {}).items()):
        yield name, masked(text, with_env)


# --- without a daemon -------------------------------------------------------------------------------------------------


def _orlopd(config_file: str | None, *flags: str) -> str:
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "orlopd")
    program = beside if os.access(beside, os.X_OK) else shutil.which("orlopd")
    if program is None:
        raise CliError("orlopd is not installed here")
    argv = [program, *(["--config-file", config_file] if config_file else []), *flags]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if not done.stdout:
        raise CliError(done.stderr.strip() or f"{' '.join(argv)}: exit code {done.returncode}")
    return done.stdout


def _local(config_file: str | None, with_env: bool) -> Iterator[tuple[str, str]]:
    yield "version.txt", _tried(lambda: _orlopd(None, "--version"))
    yield "config.json", _tried(lambda: _document(json.loads(_orlopd(config_file, "--show-config=json")), with_env))
    yield from _checked(lambda: dict(json.loads(_orlopd(config_file, "--check", "--facts"))), with_env)


def _journal() -> str:
    if shutil.which(_JOURNAL[0]) is None:
        return "cannot be read: there is no journalctl\n"
    done = subprocess.run(_JOURNAL, capture_output=True, text=True, timeout=_SECONDS, check=False, errors="replace")
    return str(masked(done.stdout or done.stderr, False))


# --- the file ---------------------------------------------------------------------------------------------------------


def _archive(path: str, parts: Parts) -> bytes:
    import tarfile  # imported here, because the import takes some milliseconds

    directory, packed = os.path.basename(path).partition(".")[0], io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in parts.items():
            data = text.encode("utf-8", "replace")
            info = tarfile.TarInfo(f"{directory}/{name}")
            info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def _gathered(engine: Engine, config_file: str | None, with_env: bool) -> Parts:
    try:
        parts: Parts = dict(_asked(engine, with_env))
    except CannotConnect as error:
        print(f"orlop: {error.message}\nThe bundle contains what is available without the daemon.", file=sys.stderr)
        parts = {"daemon.txt": error.message + "\n", **dict(_local(config_file, with_env))}
    return {**parts, "journal.log": _tried(_journal)}


@command(
    "bundle",
    "Write the information for a bug report into one file, without secrets",
    examples=["orlop debug bundle", "orlop debug bundle -o /tmp/orlop.tar.gz"],
)
@option("--config-file", "config_file", metavar="file", help="Configuration file to read if the daemon is down")
@option("-o", "--output", metavar="file", help="Name of the file (default orlop-debug-TIME.tar.gz)")
@flag("--with-env", help="Include the values of containers' environment variables")
def bundle(session: Session, args: tuple[str, ...], config_file: str | None, output: str | None, with_env: bool) -> None:
    path = output or time.strftime("orlop-debug-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime())
    with new_file(path, 0o600) as write:
        parts = _gathered(session.engine, config_file, with_env)
        write(_archive(path, parts))
    print(path)
    for name, text in parts.items():
        reason = f"  ({text.strip()})" if text.startswith("cannot be read: ") else ""
        print(f"  {name}  {len(text.encode('utf-8', 'replace'))} bytes{reason}")
    if not with_env:
        print("Values of containers' environment variables are masked. Look through the file before you send it.")
