"""Discovery of plugins by entry point."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from orlop_sdk import NotFound, discovery


def test_plugins_are_scanned_once_and_new_ones_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One scan of the installed distributions, which takes milliseconds, serves many lookups; a later scan finds new
    plugins."""
    points = [EntryPoint("a", "nowhere", "orlop.log"), EntryPoint("x", "nowhere", "console_scripts")]
    now, scans = [100.0], [0]

    def all_points() -> list[EntryPoint]:
        scans[0] += 1
        return list(points)

    monkeypatch.setattr(discovery, "_scanned", (0.0, {}))
    monkeypatch.setattr(discovery, "_all_points", all_points)
    monkeypatch.setattr(discovery.time, "monotonic", lambda: now[0])
    for _ in range(20):
        assert discovery.installed("log") == ["a"]
        assert discovery.installed("storage") == []
    assert scans == [1]
    points.append(EntryPoint("b", "nowhere", "orlop.log"))
    with pytest.raises(NotFound, match='cannot find log driver "b": installed log drivers are: a'):
        discovery.find("log", "b")
    now[0] += 60
    with pytest.raises(discovery.DriverError, match='cannot load log driver "b"'):
        discovery.find("log", "b")
    assert discovery.installed("log") == ["a", "b"]
    assert scans == [2]
