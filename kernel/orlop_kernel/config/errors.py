"""The error of this package. Not in `orlop_sdk.errors`, because `orlopd --help` must not import the driver contracts."""

from __future__ import annotations

__all__ = ["ConfigError"]


class ConfigError(Exception):
    """The configuration cannot be used; the text is for its author. `problems` lists everything found, one a line, so that
    all of it can be corrected at once."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
