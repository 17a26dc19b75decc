"""`orlop version`."""

from __future__ import annotations

import os
import sys
import time

from orlop_cli import __version__
from orlop_cli._command import command, complain, option
from orlop_cli._errors import CliError, Exit
from orlop_cli.daemon.client import BASE_API, MAX_API, Engine
from orlop_cli.tables import table
from orlop_cli.tables.format import render_values

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session


ORDER = ("ApiVersion", "MinAPIVersion", "GoVersion", "GitCommit", "BuildTime", "Os", "Arch", "Experimental")
TITLES = {"ApiVersion": "API version", "GoVersion": "Go version", "GitCommit": "Git commit", "BuildTime": "Built"}


def _client(engine: Engine, context: str) -> dict[str, Any]:
    return {
        "Version": __version__,
        "ApiVersion": f"{engine.version[0]}.{engine.version[1]}",
        "DefaultAPIVersion": f"{BASE_API[0]}.{BASE_API[1]}",
        "Context": context,
        "MaxAPIVersion": f"{MAX_API[0]}.{MAX_API[1]}",
        "PythonVersion": ".".join(map(str, sys.version_info[:3])),
        "Os": sys.platform,
        "Arch": _arch(),
    }


def _arch() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _block(title: str, rows: list[tuple[str, str]]) -> str:
    lines = [[f" {name}:", value] for name, value in rows]
    return f"{title}\n{table.layout(lines, minimum=20, padding=1)}"


def _client_text(client: dict[str, Any]) -> str:
    rows = [
        ("Version", client["Version"]),
        ("API version", f"{client['ApiVersion']} (up to {client['MaxAPIVersion']} where a flag needs it)"),
        ("Python version", client["PythonVersion"]),
        ("OS/Arch", f"{client['Os']}/{client['Arch']}"),
    ]
    return _block("Client: Orlop", rows)


def _server_text(server: dict[str, Any]) -> str:
    platform_name = (server.get("Platform") or {}).get("Name") or ""
    components = server.get("Components") or [{"Name": "Engine", "Version": server.get("Version", ""), "Details": server}]
    out = f"\nServer: {platform_name}\n".replace(" \n", "\n")
    for component in components:
        details = component.get("Details") or {}
        rows = [("Version", component.get("Version", "")), *_details(details, component["Name"] == "Engine")]
        lines = [[f"  {name}:", value] for name, value in rows]
        out += f" {component['Name']}:\n{table.layout(lines, minimum=20, padding=1)}"
    return out


def _details(details: dict[str, Any], engine: bool) -> list[tuple[str, str]]:
    """Docker's lines in Docker's order, then any other details that the daemon reports."""
    rows: list[tuple[str, str]] = []
    for key in (*ORDER, *sorted(set(details) - set(ORDER) - {"KernelVersion", "Version", "Arch", "Platform", "Components"})):
        value = details.get(key)
        if value in (None, "") or isinstance(value, (dict, list)) or key in ("MinAPIVersion", "Arch"):
            continue
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if key == "ApiVersion":
            text += f" (minimum version {details.get('MinAPIVersion', '')})"
        if key == "Os":
            key, text = "OS/Arch", f"{text}/{details.get('Arch', '')}"
        if key == "BuildTime":
            text = _built(text)
        rows.append((TITLES.get(key, key) if engine else key, text))
    return rows


def _built(text: str) -> str:
    """Convert RFC 3339 to `Thu Aug 13 05:35:48 2026`. Any other text stays unchanged."""
    if not text:
        return ""
    from orlop_cli.values.times import parse_nanoseconds

    try:
        return time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(parse_nanoseconds(text) // 10**9))
    except ValueError:
        return text


@command(
    "version",
    "Show the version information",
    examples=["orlop version", "orlop version -f '{{.Server.Version}}'", "orlop version -f json"],
)
@option("-f", "--format", "form", metavar="string", help="'json', or a Go template")
def version(session: Session, args: tuple[str, ...], form: str | None) -> None:
    engine = session.engine
    problem: CliError | None = None
    server: dict[str, Any] | None = None
    try:
        server = engine.get("/version")
    except CliError as error:
        problem = error
    client = _client(engine, session.context_name)
    if form:
        sys.stdout.write(render_values([{"Client": client, "Server": server}], form))
    else:
        sys.stdout.write(_client_text(client) + (_server_text(server) if server else ""))
    if problem:
        complain(problem)
        raise Exit(1)
