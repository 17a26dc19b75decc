"""Detecting that a container is out of memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

import pytest

from orlop_monitor import oom
from orlop_monitor.loop import Timer
from orlop_sdk import cgroups


class FakeLoop:
    """Stores the callbacks, which the test calls."""

    def __init__(self) -> None:
        self.readable: dict[int, Callable[[], None]] = {}
        self.timers: list[Timer] = []

    def on_readable(self, fd: int, callback: Callable[[], None]) -> None:
        self.readable[fd] = callback

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(callback))
        return self.timers[-1]

    def forget(self, fd: int) -> None:
        del self.readable[fd]


def test_oom_kill_counted_after_the_wake_up_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """cgroup v1 reports the lack of memory first, and counts the kill afterwards."""
    fd, kills, told = os.eventfd(0, os.EFD_NONBLOCK), [0], list[int]()
    monkeypatch.setattr(oom, "_eventfd", lambda path: fd)
    monkeypatch.setattr(cgroups, "oom_kills", lambda file: kills[0])
    monkeypatch.setattr(cgroups, "oom_stopped", lambda file: False)
    loop = FakeLoop()
    watch = oom.OomWatch(cast("Any", loop), "/nowhere/memory.oom_control", lambda: told.append(kills[0]))
    os.eventfd_write(fd, 1)
    loop.readable[fd]()
    assert not told
    kills[0] = 1
    for timer in loop.timers:
        if timer.callback:
            timer.callback()
    assert told == [1] and watch.happened
    watch.close()
    assert loop.timers and not any(timer.callback for timer in loop.timers)
