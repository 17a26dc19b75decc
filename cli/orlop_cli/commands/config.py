"""`orlop config show`: the daemon's configuration and the origin of each value."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

from orlop_cli._command import command, flag, option
from orlop_cli._errors import ApiError, CannotConnect, CliError
from orlop_cli.tables import table
from orlop_cli.tables.format import render_values

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session

    Found = dict[str, Any]


def _running(session: Session) -> Found:
    try:
        return dict(session.engine.get("/orlop/config"))
    except ApiError as error:
        if error.status != 404:
            raise
        raise CliError(f"the daemon at {session.address.text} does not show its configuration: it is not orlopd") from None


def _offline() -> Found | None:
    """The configuration with which a daemon on this machine would start. The program `orlopd`, next to this program or on
    PATH, prints it. None if there is no `orlopd`."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "orlopd")
    program = beside if os.access(beside, os.X_OK) else shutil.which("orlopd")
    if program is None:
        return None
    done = subprocess.run([program, "--show-config=json"], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise CliError(done.stderr.strip())
    return dict(json.loads(done.stdout))


def _text(found: Found, origin: bool) -> str:
    lines = [["KEY", "VALUE", *(["ORIGIN"] if origin else [])]]
    for each in found["Values"]:
        value = json.dumps(each["Value"], ensure_ascii=False, separators=(",", ":"))
        lines.append([each["Key"], value, *([each["Origin"]] if origin else [])])
    return table.layout(lines)


@command(
    "show",
    "Show the daemon's configuration",
    examples=["orlop config show --origin", "orlop config show --format json"],
)
@flag("--origin", help="Show the origin of each value: default, a line of a file, a flag, the environment")
@option("--format", "form", metavar="string", help="'json', or a Go template")
def show(session: Session, args: tuple[str, ...], origin: bool, form: str | None) -> None:
    try:
        found = _running(session)
    except CannotConnect:
        offline = _offline() if session.address.path else None
        if offline is None:
            raise
        found = offline
        print(f"No daemon answers at {session.address.text}; orlopd starts with these values.", file=sys.stderr)
    sys.stdout.write(render_values([found], form) if form else _text(found, origin))
    sys.stdout.flush()
    if found.get("NeedsRestart"):
        print(
            f"Changed in the file; these keys need a restart of the daemon: {', '.join(found['NeedsRestart'])}",
            file=sys.stderr,
        )
