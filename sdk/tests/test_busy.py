"""How long an event loop may be blocked in a test."""

from __future__ import annotations

import os

import pytest

from orlop_sdk.testing.busy import tolerated


@pytest.mark.parametrize(("load", "slowness", "seconds"), [(0.0, "1", 0.1), (1000.0, "1", 0.4), (0.0, "10", 4.0)])
def test_event_loop_may_be_blocked_longer_on_busy_and_emulated_machines(
    monkeypatch: pytest.MonkeyPatch, load: float, slowness: str, seconds: float
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    monkeypatch.setenv("ORLOP_TEST_SLOWNESS", slowness)
    assert tolerated() == pytest.approx(seconds)
