"""Ulimits, and reload plans."""

from __future__ import annotations

import pytest

from orlop_kernel.config import Config, Loaded, plan, reload_attributes
from orlop_kernel.config.values import key_value, parse_ulimit


def test_ulimits() -> None:
    assert parse_ulimit("nofile=1024:2048") == ("nofile", 1024, 2048)
    assert parse_ulimit("nproc=5") == ("nproc", 5, 5)
    assert parse_ulimit("memlock=-1:-1") == ("memlock", -1, -1)
    for text in ("files=1", "nofile=x", "nofile", "nofile=-1:5"):
        with pytest.raises(ValueError, match=r"ulimit|key=value"):
            parse_ulimit(text)


def test_key_value_splits_once() -> None:
    assert key_value("a=b=c") == ("a", "b=c")


def test_reload_applies_what_it_may_and_names_the_rest() -> None:
    running = Config(debug=False, log_level="warn", group="a")
    wanted = Config(debug=True, group="b")
    found = plan(Loaded(running), Loaded(wanted))
    assert found.applied == ("debug", "log-level")
    assert found.needs_restart == ("group",)
    assert (found.config.debug, found.config.log_level, found.config.group) == (True, "info", "a")


def test_reload_without_a_difference_changes_nothing() -> None:
    found = plan(Loaded(Config()), Loaded(Config()))
    assert (found.applied, found.needs_restart) == ((), ())
    assert found.config == Config()


def test_reload_attributes_are_text() -> None:
    assert reload_attributes(Config(debug=True)) == {"debug": "true", "log-level": "info"}
