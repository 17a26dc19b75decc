"""The messages between orlopd and the builder process. Both have the same version: the process ends with its daemon.

A frame is `HEADER` (length of the body, number of descriptors), then msgpack of `Frame`. Descriptors are attached
(SCM_RIGHTS) to the frame's first byte. Each side numbers its own calls; an answer has the number of its call.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from orlop_build_dockerfile.contracts import (
    Base,
    CacheRecord,
    Client,
    Credentials,
    Download,
    Layer,
    Pruned,
    Settings,
    SnapshotUsage,
    Step,
)
from orlop_sdk import Mount

__all__ = ["FRAME_LIMIT", "HEADER", "RESULTS", "Answer", "Call", "Cancel", "Failed", "Frame", "Item", "Question", "decode"]

HEADER = struct.Struct("<II")
FRAME_LIMIT = 64 << 20


# --- asked by the builder -------------------------------------------------------------------------------------------


class Resolve(msgspec.Struct, frozen=True, tag=True):
    name: str
    platform: str
    pull: bool
    credentials: Credentials | None


class FetchBase(msgspec.Struct, frozen=True, tag=True):
    """Each `Download` is an `Item`; the answer is the `Base`."""

    name: str
    platform: str
    pull: bool
    credentials: Credentials | None


class Release(msgspec.Struct, frozen=True, tag=True):
    digest: str


class Prepare(msgspec.Struct, frozen=True, tag=True):
    parent: str


class Commit(msgspec.Struct, frozen=True, tag=True):
    key: str


class Remove(msgspec.Struct, frozen=True, tag=True):
    key: str


class Mounts(msgspec.Struct, frozen=True, tag=True):
    key: str
    readonly: bool


class MeasureSnapshot(msgspec.Struct, frozen=True, tag=True):
    key: str


class ListSnapshots(msgspec.Struct, frozen=True, tag=True):
    pass


class Unpack(msgspec.Struct, frozen=True, tag=True):
    """With two descriptors: the archive and the directory."""


class Run(msgspec.Struct, frozen=True, tag=True):
    """With two descriptors: standard output and standard error of the step; or with three, the last of which is its
    standard input."""

    step: Step


class Pack(msgspec.Struct, frozen=True, tag=True):
    key: str


class CreateImage(msgspec.Struct, frozen=True, tag=True):
    config: bytes
    snapshots: Sequence[str]
    names: Sequence[str]


class Tag(msgspec.Struct, frozen=True, tag=True):
    image_id: str
    name: str


class Save(msgspec.Struct, frozen=True, tag=True):
    """With one descriptor: the archive."""

    image_id: str
    names: Sequence[str]


# --- asked by the daemon --------------------------------------------------------------------------------------------


class Begin(msgspec.Struct, frozen=True, tag=True):
    """The first call. Answered when the builder can serve clients."""

    settings: Settings


class Serve(msgspec.Struct, frozen=True, tag=True):
    """With one descriptor: the client's connection. Answered when the connection has ended."""

    client: Client


class ListCache(msgspec.Struct, frozen=True, tag=True):
    pass


class PruneCache(msgspec.Struct, frozen=True, tag=True):
    filters: Mapping[str, Sequence[str]]
    everything: bool
    reserved: int
    maximum: int
    free: int


class CancelBuild(msgspec.Struct, frozen=True, tag=True):
    id: str


Question = (
    Resolve
    | FetchBase
    | Release
    | Prepare
    | Commit
    | Remove
    | Mounts
    | MeasureSnapshot
    | ListSnapshots
    | Unpack
    | Run
    | Pack
    | CreateImage
    | Tag
    | Save
    | Begin
    | Serve
    | ListCache
    | PruneCache
    | CancelBuild
)

RESULTS: dict[type, Any] = {
    Resolve: Base,
    FetchBase: Base,
    Prepare: str,
    Commit: str,
    Mounts: tuple[Mount, ...],
    MeasureSnapshot: SnapshotUsage,
    ListSnapshots: tuple[str, ...],
    Run: int,
    Pack: Layer,
    CreateImage: str,
    ListCache: tuple[CacheRecord, ...],
    PruneCache: Pruned,
}
"""The type of a call's result; None for those that are not listed."""


# --- frames ---------------------------------------------------------------------------------------------------------


class Call(msgspec.Struct, frozen=True, tag=True):
    number: int
    question: Question


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """The call is undone, and answered all the same."""

    number: int


class Item(msgspec.Struct, frozen=True, tag=True):
    """Progress of a call."""

    number: int
    download: Download


class Answer(msgspec.Struct, frozen=True, tag=True):
    number: int
    value: msgspec.Raw


class Failed(msgspec.Struct, frozen=True, tag=True):
    """`kind` is the name of a class of `orlop_sdk.errors`, "" for a mistake of the other side, or "Cancelled"."""

    number: int
    kind: str
    message: str


Frame = Call | Cancel | Item | Answer | Failed

decode = msgspec.msgpack.Decoder(Frame).decode
