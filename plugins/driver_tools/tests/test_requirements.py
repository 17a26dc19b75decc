"""What `orlop driver check` requires, and which drivers it finds."""

from __future__ import annotations

import os

import pytest

from orlop_driver_tools import check
from orlop_sdk import InvalidParameter, NotFound, Unavailable, discovery


def test_error_for_missing_pytest_shows_the_command_that_installs_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "find_spec", lambda name: None)
    with pytest.raises(
        Unavailable, match=r"pytest and trio cannot be imported\. Run: .* -m pip install 'orlop-sdk\[testing\]'"
    ):
        check.run("vfs", "storage")


def test_check_of_a_driver_that_needs_root_fails_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root, the check of such a driver fails with a message."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match="the tests of network drivers need root"):
        check.run("bridge", "network")


def test_check_finds_the_kind_of_a_driver_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` finds the kind of a driver by the driver's name, and refuses ambiguous names."""
    names = {"storage": ["vfs"], "volume": ["local"], "log": ["local", "a:twin", "b:twin"]}
    monkeypatch.setattr(discovery, "installed", lambda kind: names.get(kind, []))
    assert check.which_kind("vfs") == "storage"
    assert check.which_kind("local", "volume") == "volume"
    with pytest.raises(NotFound, match='cannot find log driver "vfs"'):
        check.which_kind("vfs", "log")
    with pytest.raises(InvalidParameter, match="use --kind with one of log, volume"):
        check.which_kind("local")
    with pytest.raises(InvalidParameter, match="use one of a:twin, b:twin"):
        check.which_kind("twin")
