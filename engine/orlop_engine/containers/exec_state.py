"""The state of one exec. The module `orlop_engine.execs` keeps these states."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from orlop_engine.futures import Future
from orlop_engine.types.containers import ExecConfig

from .container import Container

__all__ = ["ExecState"]


@dataclass(slots=True)
class ExecState:
    id: str
    container: Container
    config: ExecConfig
    command: list[str]
    detach_keys: bytes
    running: bool = False
    started: bool = False
    pid: int = 0
    exit_code: int | None = None
    begun_at: float = float("inf")
    ended_at: float = float("inf")
    begun: trio.Event = field(default_factory=trio.Event)
    """Set when the process has started or has failed to start."""
    ended: Future[int] = field(default_factory=Future)
    early: int | None = None
    """The exit code, if the report of the exit arrives before the report of the start. The two reports use different
    connections."""
