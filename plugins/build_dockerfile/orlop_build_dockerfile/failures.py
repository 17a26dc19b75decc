"""Errors of builds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orlop_build_dockerfile.contracts import Ref
    from orlop_build_dockerfile.pb.ops_pb2 import Op

__all__ = ["BuildFailed", "FailedCommand"]


class FailedCommand:
    """A command that failed, and for each of its mounts the value that was mounted (`inputs`) and the value that the command
    left (`mounts`), or None. The values exist until the end of the build `owner`, and only containers can use them."""

    def __init__(self, owner: object, op: Op, inputs: Sequence[Ref | None], mounts: Sequence[Ref | None]) -> None:
        self.owner, self.op, self.inputs, self.mounts = owner, op, inputs, mounts


class BuildFailed(Exception):
    """A build cannot continue. `code` is a gRPC status; `details` are (type URL, JSON) pairs for the client."""

    command: FailedCommand | None = None
    """Set if the files of the failed command were kept."""

    def __init__(self, message: str, *, code: int = 2, details: Sequence[tuple[str, bytes]] = ()) -> None:
        super().__init__(message)
        self.message, self.code, self.details = message, code, list(details)

    def copy(self) -> BuildFailed:
        made = BuildFailed(self.message, code=self.code, details=self.details)
        made.command = self.command
        return made
