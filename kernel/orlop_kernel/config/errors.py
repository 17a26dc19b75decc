"""The one error of this room. Apart from `spi.errors`: `orlopd --help` must not import the driver contracts."""

from __future__ import annotations

__all__ = ["ConfigError"]


class ConfigError(Exception):
    """The configuration cannot be used; the text is for the person who wrote it. `problems` are all that was found, a line
    each: who starts a daemon wants to know of every one."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
