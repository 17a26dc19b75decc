"""Bodies of requests about containers that only routes read, and answers that are not made from a value of the engine."""

from __future__ import annotations

from msgspec import UNSET, UnsetType, field

from orlop_sdk.base import WireBase

__all__ = ["CheckpointCreate", "CreateResponse", "ExecStart", "UpdateResponse", "WaitError", "WaitResponse"]


class CreateResponse(WireBase):
    id: str
    warnings: list[str] = field(default_factory=list)


class UpdateResponse(WireBase):
    warnings: list[str] | None


class WaitError(WireBase):
    message: str


class WaitResponse(WireBase):
    status_code: int
    error: WaitError | UnsetType = UNSET


class CheckpointCreate(WireBase):
    """The body of `POST /containers/{id}/checkpoints`."""

    checkpoint_id: str = field(default="", name="CheckpointID")
    checkpoint_dir: str = ""
    exit: bool = False


class ExecStart(WireBase):
    """The body of `POST /exec/{id}/start`."""

    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None
