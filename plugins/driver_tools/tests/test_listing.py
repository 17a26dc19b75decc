"""`orlop driver list`: installed drivers, and those that the daemon finds degraded."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from orlop_driver_tools import listing
from orlop_driver_tools.cli import driver
from orlop_driver_tools.listing import Installed

DRIVERS = [
    Installed("log", "a:twin", "a", "1", "ok"),
    Installed("log", "b:twin", "b", "1", "ok"),
    Installed("runtime", "runc", "c", "1", "ok"),
    Installed("volume", "mine", "d", "1", "ok"),
]


def used(kind: str, name: str, distribution: str, degraded: str = "") -> dict[str, str]:
    more = {"Degraded": degraded} if degraded else {}
    return {"Kind": kind, "Name": name, "Distribution": distribution, "Version": "1", **more}


class Session:
    """The part of the client's session that the command uses."""

    def __init__(self, path: str, info: Any) -> None:
        self.address = SimpleNamespace(path=path)
        self.engine = SimpleNamespace(get=lambda route: info(route))


def listed(monkeypatch: pytest.MonkeyPatch, session: Any) -> dict[str, str]:
    monkeypatch.setattr(listing, "installed", lambda: DRIVERS)
    done = CliRunner().invoke(driver, ["list", "--format", "json"], obj=session)
    assert done.exit_code == 0, done.output
    return {f"{each['kind']} {each['name']}": each["state"] for each in json.loads(done.output)}


def test_degraded_drivers_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    in_use = [
        used("log", "b:twin", "b", "did not answer"),
        used("runtime", "an-entry-of-daemon.json", "c", "failed"),
        used("volume", "mine", "d"),
        used("network", "mine", "d", "not listed"),
    ]
    assert listed(monkeypatch, Session("/run/orlop.sock", lambda route: {"OrlopDrivers": in_use})) == {
        "log a:twin": "ok",
        "log b:twin": "degraded: did not answer",
        "runtime runc": "degraded: failed",
        "volume mine": "ok",
    }


def test_installed_drivers_are_listed_without_a_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(route: str) -> Any:
        raise OSError("connection refused")

    asked: list[str] = []
    remote = Session("", asked.append)  # a daemon on another machine has other drivers
    for session in (None, Session("/run/orlop.sock", fails), Session("/run/d.sock", lambda route: {}), remote):
        assert set(listed(monkeypatch, session).values()) == {"ok"}
    assert asked == []
