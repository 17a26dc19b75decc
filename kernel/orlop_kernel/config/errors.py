"""Errors of the configuration. They do not use `orlop_sdk.errors`, because `orlopd --help` must not import the driver
contracts (`orlop_sdk`)."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ConfigError", "Problem"]


class Problem(NamedTuple):
    """What is wrong with a configuration, and the keys whose values cause it."""

    text: str
    keys: tuple[str, ...]


class ConfigError(Exception):
    """The configuration cannot be used; the text is for the user who wrote it. `problems` lists all errors, each on one
    line, so that the user can correct them together."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
