"""An operation that is interrupted. Its steps run between `prepare` and `undo`, and the daemon acknowledges each step
separately (`docker run` has the steps create and start). Steps raise `Refused` for an answer that is not a success."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.integration.engine import Engine, UnixConnection

__all__ = ["Operation", "Refused", "Step", "all_of", "ask", "request"]

Step = Callable[[Engine], None]


class Refused(AssertionError):
    """The daemon's answer is not a success."""


@dataclass(frozen=True, slots=True)
class Operation:
    """`victim`: the process to kill. "daemon"; "boot", a daemon that is starting; "zygote"; "fork", a process that the
    zygote forks during the operation (a monitor, an unpack worker); "monitor", the monitor of `xx`; "builder", the builder
    process; "command", a program that runs while the daemon is stopped: `command` returns its arguments, and the only step
    runs it. `storage`: the storage driver, "" for the default. `between`: steps that lead from the prepared state to a
    further state that a crash may leave. `window`: the operation includes this number of seconds after its last call.
    `resumes`: after a crash, fetched content is kept until the operation is repeated. `caches`: the build cache keeps the
    results of the build until `undo`."""

    name: str
    steps: tuple[Step, ...]
    prepare: Step = lambda engine: None
    undo: Step = lambda engine: None
    victim: str = "daemon"
    between: tuple[Step, ...] = ()
    window: float = 0.06
    resumes: bool = False
    caches: bool = False
    command: Callable[[Engine], list[str]] = lambda engine: []
    storage: str = ""


def ask(engine: Engine, method: str, path: str, body: Any = None, *also: int) -> Any:
    """Send a request that must succeed. `also` are further statuses that are accepted."""
    connection = UnixConnection(engine.socket)
    try:
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        kind = {"Content-Type": "application/x-tar" if isinstance(body, bytes) else "application/json"}
        connection.request(method, path, raw, kind if raw is not None else {})
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status >= 300 and answer.status not in also:
        raise Refused(f"{method} {path}: {answer.status} {text.decode(errors='replace').strip()}")
    return text


def request(method: str, path: str, body: Any = None, *also: int) -> Step:
    return lambda engine: ask(engine, method, path, body, *also) and None


def all_of(*steps: Step) -> Step:
    def run(engine: Engine) -> None:
        for step in steps:
            step(engine)

    return run
