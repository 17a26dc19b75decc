"""What `orlop driver check` requires, and which drivers it finds."""

from __future__ import annotations

import os

import pytest

from orlop_driver_tools import check
from orlop_sdk import InvalidParameter, NotFound, Unavailable, discovery


def test_missing_pytest_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "find_spec", lambda name: None)
    with pytest.raises(
        Unavailable, match=r"pytest and trio cannot be imported\. Run: .* -m pip install 'orlop-sdk\[testing\]'"
    ):
        check.run("vfs", "storage")


def test_kinds_that_need_root_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root, the check of such a driver fails with a message."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match="the tests of network drivers need root"):
        check.run("bridge", "network")


def test_kind_of_a_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
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
