"""The requests of explanations. Answers that only add details may be refused: by an old daemon, a restricted role, or a log
driver that cannot read."""

from __future__ import annotations

import os

from orlop_cli._errors import ApiError, CliError
from orlop_cli.attached.streams import Demultiplexer
from orlop_cli.daemon.client import records, segment
from orlop_cli.explain import ports
from orlop_cli.values import jsontext

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli.daemon.client import Engine

    Json = dict[str, Any]

__all__ = ["KINDS", "containers", "disk_usage", "events", "find", "log_lines", "port_holders", "same_host"]

KINDS = {"container": "/containers/{}/json", "image": "/images/{}/json", "network": "/networks/{}", "volume": "/volumes/{}"}


def find(engine: Engine, name: str, kind: str | None) -> list[tuple[str, Json]]:
    """The objects with this name, by kind. Raises CliError if no object has the name."""
    found = []
    for one in (kind,) if kind else KINDS:
        query = {"size": 1} if one == "container" else None
        try:
            found.append((one, engine.get(KINDS[one].format(segment(name)), query)))
        except ApiError as error:
            if error.status not in (400, 404):  # 400: the name is invalid for this kind
                raise
    if not found:
        missing = CliError(f"no such {kind or 'object'}: {name}")
        missing.source = engine
        raise missing
    return found


def containers(engine: Engine) -> list[Json]:
    """All containers."""
    return list(engine.get("/containers/json", {"all": 1}))


def events(engine: Engine, ident: str) -> list[Json]:
    """The events of a container in the daemon's history about exits, kills and restarts, the oldest first."""
    filters = {"container": {ident: True}, "event": dict.fromkeys(("die", "kill", "oom", "restart"), True)}
    query = {"since": "0", "until": _now(engine), "filters": jsontext.dumps(filters)}
    try:
        return list(records(engine.open("GET", "/events", query)))
    except ApiError:
        return []


def _now(engine: Engine) -> str:
    """The daemon's time, because the daemon compares it with the times of events."""
    from orlop_cli.values.times import parse_nanoseconds

    try:
        nanoseconds = parse_nanoseconds(engine.get("/info")["SystemTime"])
    except (ApiError, KeyError, ValueError):
        import time

        nanoseconds = time.time_ns()
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"


def log_lines(engine: Engine, container: Json, number: int) -> tuple[list[str], str]:
    """The last lines of a container's log, and the reason if the log cannot be read."""
    query: Json = {"stdout": 1, "stderr": 1, "tail": str(number)}
    try:
        answer = engine.open("GET", f"/containers/{container['Id']}/logs", query)
        data = answer.read()
        if not container["Config"]["Tty"]:
            data = b"".join(bytes(piece) for _, pieces in Demultiplexer().feed(data) for piece in pieces)
    except CliError as error:
        return [], error.message.removeprefix("Error response from daemon: ")
    return data.decode("utf-8", "replace").splitlines()[-number:], ""


def disk_usage(engine: Engine, kind: str) -> list[Json]:
    """The rows of `system df` of one kind (container, image, volume)."""
    key = {"container": "Containers", "image": "Images", "volume": "Volumes"}[kind]
    try:
        engine.prefer((1, 42))  # before this version, the daemon computes all kinds
        return list(engine.get("/system/df", {"type": kind}).get(key) or [])
    except ApiError:
        return []


def same_host(engine: Engine) -> bool:
    """Whether the daemon runs on this machine, and not in another container or behind a forwarded socket."""
    if not engine.address.path or engine.address.ssh:
        return False
    try:
        return bool(engine.get("/info").get("Name") == os.uname().nodename)
    except ApiError:
        return False


def port_holders(engine: Engine, port: int, protocol: str) -> list[ports.Holder]:
    """The processes that hold a port, if the client can see the daemon's host."""
    return ports.holders(port, protocol) if same_host(engine) else []
