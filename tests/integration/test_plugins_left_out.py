"""Daemons without some plugins in daemon.json: they boot, keep their containers, and log which APIs they serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tests.integration.engine import BUSYBOX, Engine

pytestmark = pytest.mark.root

LIVE: Mapping[str, Any] = {"live-restore": True, "services": ["engine", "metrics"]}


@pytest.mark.parametrize(
    ("left", "shown", "statuses"),
    [
        ({"front-ends": ["check"]}, "services: engine, metrics; front ends: check; guards: listeners", (404, 200)),
        ({"front-ends": []}, "services: engine, metrics; front ends: none; guards: listeners", (404, 404)),
        ({"services": ["engine"], "guards": []}, "services: engine; front ends: docker, check; guards: none", (200, 200)),
    ],
)
def test_daemon_serves_without_some_plugins(
    fresh: Callable[..., Engine],
    monkeypatch: pytest.MonkeyPatch,
    left: dict[str, Any],
    shown: str,
    statuses: tuple[int, int],
) -> None:
    def answers() -> bool:
        assert engine.process is not None and engine.process.poll() is None, engine.log()
        try:
            return engine.raw("GET", "/_ping")[0] in (200, 404)
        except OSError:
            return False

    engine = fresh(LIVE)
    ident = engine.ok("run", "-d", "--name", "stays", BUSYBOX, "sleep", "600")
    monkeypatch.setattr(engine, "_answers", answers)
    engine.configure({**LIVE, **left})
    engine.restart()
    assert f"serving with {shown}" in engine.log()
    assert (engine.raw("GET", "/_ping")[0], engine.raw("GET", "/orlop/check")[0]) == statuses
    engine.configure(LIVE)
    engine.restart()
    assert engine.inspect("stays")["State"]["Running"]
    assert engine.inspect("stays")["Id"] == ident
    assert engine.inspect("stays")["RestartCount"] == 0
