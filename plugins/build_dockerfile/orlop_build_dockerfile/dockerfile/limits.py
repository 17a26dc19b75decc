"""Limits for the work that a Dockerfile causes.

The text is not trusted. Variables can double at each step, and each instruction copies the whole environment into its
operation. So the processed and produced characters of a build are counted.
"""

from __future__ import annotations

from .interface import DockerfileError

__all__ = ["MAX_DOCKERFILE", "MAX_INSTRUCTIONS", "Budget"]

MAX_DOCKERFILE = 16 << 20  # BuildKit's limit
MAX_INSTRUCTIONS = 50_000
_CHARACTERS = 64 << 20


class Budget:
    """The number of characters that may still be processed."""

    def __init__(self, characters: int = _CHARACTERS) -> None:
        self._left = characters

    def spend(self, characters: int) -> None:
        self._left -= characters
        if self._left < 0:
            raise DockerfileError("the Dockerfile is too large after the expansion of its variables", code=8)
