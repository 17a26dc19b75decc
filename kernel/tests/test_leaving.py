"""A stopped daemon exits, although abandoned calls still run."""

import pytest
import trio

from orlop_kernel import abandoned, daemon


class Left(BaseException):
    pass


class Stopped:
    async def live(self):
        pass


@pytest.mark.parametrize("running", [0, 1])
def test_daemon_process_exits_although_abandoned_calls_still_run(monkeypatch, running):
    left = []

    def leave(status):
        left.append(status)
        raise Left

    monkeypatch.setattr(daemon.os, "_exit", leave)
    monkeypatch.setattr(daemon.logging, "shutdown", lambda: None)
    abandoned.count(running)
    try:
        trio.run(daemon._live, Stopped())
    except Left:
        pass
    finally:
        abandoned.count(-running)
    assert left == [0] * running
