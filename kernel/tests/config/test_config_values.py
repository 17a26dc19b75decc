"""Parsing of values, and the changes that a reload applies."""

from __future__ import annotations

from orlop_kernel.config import Config, Loaded, plan
from orlop_kernel.config.values import key_value


def test_key_value_option_is_split_at_the_first_equals_sign() -> None:
    assert key_value("a=b=c") == ("a", "b=c")


def test_reload_applies_reloadable_keys_and_lists_keys_that_need_a_restart() -> None:
    running = Config(debug=False, log_level="warn", group="a")
    wanted = Config(debug=True, group="b")
    found = plan(Loaded(running), Loaded(wanted))
    assert found.applied == ("debug", "log-level")
    assert found.needs_restart == ("group",)
    assert (found.config.debug, found.config.log_level, found.config.group) == (True, "info", "a")


def test_reload_of_an_unchanged_configuration_changes_nothing() -> None:
    found = plan(Loaded(Config()), Loaded(Config()))
    assert (found.applied, found.needs_restart) == ((), ())
    assert found.config == Config()
