"""Sizes, ulimits, and reload plans."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_kernel.config import Config, Loaded, plan, reload_attributes
from orlop_kernel.config.values import format_size, key_value, parse_size, parse_size_decimal, parse_ulimit


@pytest.mark.parametrize(
    ("text", "size"),
    [("64M", 64 << 20), ("64mb", 64 << 20), ("1.5GiB", 3 << 29), ("10", 10), ("10b", 10), ("32 kB", 32768), ("0", 0)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1x", "1 2", "0x10", "1..5m"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        parse_size(text)


def test_decimal_sizes() -> None:
    assert parse_size_decimal("10m") == 10_000_000


@given(st.integers(0, 1 << 60))
def test_sizes_survive_being_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


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
