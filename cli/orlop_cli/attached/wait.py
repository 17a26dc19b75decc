"""Waits for a container's exit on a separate connection, opened before the container starts."""

from __future__ import annotations

from orlop_cli._errors import CliError
from orlop_cli.values import jsontext

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli.daemon.client import Engine


class Wait:
    """`POST .../wait`. The constructor returns after the head of the answer has arrived, so no exit can be missed."""

    def __init__(self, engine: Engine, path: str, removed: bool) -> None:
        self._answer = engine.detached("POST", f"{path}/wait", {"condition": "removed" if removed else "next-exit"})

    def code(self) -> int:
        """Wait for the exit. Returns the container's exit code, or 125 if waiting failed."""
        try:
            ended = jsontext.loads(self._answer.read())
        except (ValueError, OSError) as error:
            raise CliError(f"error waiting for container: {error}", 125) from None
        problem = (ended.get("Error") or {}).get("Message")
        if problem:
            raise CliError(problem, 125)
        return int(ended["StatusCode"])
