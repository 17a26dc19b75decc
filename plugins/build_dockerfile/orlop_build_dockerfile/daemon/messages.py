"""The messages between orlopd and the builder process. Both processes have the same version, because the builder process
ends with its daemon.

A frame is `HEADER` (length of the body, number of file descriptors), then msgpack of `Frame`. The descriptors are attached
(SCM_RIGHTS) to the frame's first byte. Each side numbers its calls, and an answer has the number of its call.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from orlop_build_dockerfile.contracts import (
    Archive,
    Authorization,
    Base,
    Blob,
    CacheRecord,
    Challenge,
    Client,
    Credentials,
    Download,
    ImagePart,
    Layer,
    LayerBlob,
    LayerForm,
    Manifest,
    Prefix,
    Pruned,
    Settings,
    SnapshotUsage,
    Step,
)
from orlop_build_dockerfile.processes import Process, Streams
from orlop_sdk import Mount

__all__ = ["FRAME_LIMIT", "HEADER", "RESULTS", "Answer", "Call", "Cancel", "Failed", "Frame", "Item", "Question", "decode"]

HEADER = struct.Struct("<II")
FRAME_LIMIT = 64 << 20


# --- calls of the builder -------------------------------------------------------------------------------------------


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


class ListShared(msgspec.Struct, frozen=True, tag=True):
    pass


class Unpack(msgspec.Struct, frozen=True, tag=True):
    """The call has two file descriptors: the archive and the directory."""

    owner: tuple[int, int] | None = None


class CopyFiles(msgspec.Struct, frozen=True, tag=True):
    """The call has one file descriptor: the connection to the owner of the copy."""


class Run(msgspec.Struct, frozen=True, tag=True):
    """The call has two or three file descriptors: standard output and standard error of the step, and optionally its
    standard input."""

    step: Step


class ServeStep(msgspec.Struct, frozen=True, tag=True):
    """With one descriptor: the client's socket, as with `Execute`."""

    name: str
    step: Step
    streams: Streams


class Execute(msgspec.Struct, frozen=True, tag=True):
    name: str
    process: str
    request: Process


class SendSignal(msgspec.Struct, frozen=True, tag=True):
    name: str
    process: str
    signal: str


class Resize(msgspec.Struct, frozen=True, tag=True):
    name: str
    process: str
    rows: int
    columns: int


class Pack(msgspec.Struct, frozen=True, tag=True):
    key: str


class CreateImages(msgspec.Struct, frozen=True, tag=True):
    parts: Sequence[ImagePart]
    names: Sequence[str]
    index: str


class LabelConfig(msgspec.Struct, frozen=True, tag=True):
    config: bytes


class StoreLayers(msgspec.Struct, frozen=True, tag=True):
    """Progress is sent as `Item`, as with `PushArtifact` and `FetchBlobs`."""

    artifact: str
    snapshots: Sequence[str]
    form: LayerForm


class PutBlob(msgspec.Struct, frozen=True, tag=True):
    artifact: str
    data: bytes


class ReceiveBlob(msgspec.Struct, frozen=True, tag=True):
    """The call has one file descriptor: the pipe from which the blob is read."""

    artifact: str
    digest: str


class ReadBlob(msgspec.Struct, frozen=True, tag=True):
    """The call has one file descriptor: the pipe to which the blob is written."""

    artifact: str
    digest: str


class PushArtifact(msgspec.Struct, frozen=True, tag=True):
    artifact: str
    name: str
    manifests: Sequence[Manifest]
    credentials: Credentials | None
    by_digest: bool


class SaveArtifact(msgspec.Struct, frozen=True, tag=True):
    """The call has one file descriptor: the pipe to which the archive is written."""

    artifact: str
    archive: Archive


class FetchManifest(msgspec.Struct, frozen=True, tag=True):
    name: str
    credentials: Credentials | None


class FetchBlobs(msgspec.Struct, frozen=True, tag=True):
    artifact: str
    name: str
    blobs: Sequence[Blob]
    credentials: Credentials | None


class FindPrefix(msgspec.Struct, frozen=True, tag=True):
    diff_ids: Sequence[str]


class UnpackLayer(msgspec.Struct, frozen=True, tag=True):
    artifact: str
    parent: str
    blob: LayerBlob


class DropArtifact(msgspec.Struct, frozen=True, tag=True):
    artifact: str


# --- calls of the daemon --------------------------------------------------------------------------------------------


class Begin(msgspec.Struct, frozen=True, tag=True):
    """The first call. The answer is "" when the builder can serve clients. Otherwise, the answer is the reason why it
    cannot, and the process answers each call of a client with this reason."""

    settings: Settings


class Serve(msgspec.Struct, frozen=True, tag=True):
    """The call has one file descriptor: the client's connection. The call is answered when the connection has ended."""

    client: Client


class ListCache(msgspec.Struct, frozen=True, tag=True):
    pass


class PruneCache(msgspec.Struct, frozen=True, tag=True):
    filters: Mapping[str, Sequence[str]]
    everything: bool
    reserved: int
    maximum: int
    free: int


class Authorize(msgspec.Struct, frozen=True, tag=True):
    session: str
    host: str
    challenge: Challenge


class Drain(msgspec.Struct, frozen=True, tag=True):
    reason: str


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
    | ListShared
    | Unpack
    | CopyFiles
    | Run
    | ServeStep
    | Execute
    | SendSignal
    | Resize
    | Pack
    | CreateImages
    | LabelConfig
    | StoreLayers
    | PutBlob
    | ReceiveBlob
    | ReadBlob
    | PushArtifact
    | SaveArtifact
    | FetchManifest
    | FetchBlobs
    | FindPrefix
    | UnpackLayer
    | DropArtifact
    | Begin
    | Serve
    | ListCache
    | PruneCache
    | Authorize
    | Drain
    | CancelBuild
)

RESULTS: dict[type, Any] = {
    Begin: str,
    Resolve: Base,
    FetchBase: Base,
    Prepare: str,
    Commit: str,
    Mounts: tuple[Mount, ...],
    MeasureSnapshot: SnapshotUsage,
    ListSnapshots: tuple[str, ...],
    ListShared: tuple[str, ...],
    Run: int,
    ServeStep: int,
    Execute: int,
    Pack: Layer,
    CreateImages: tuple[str, ...],
    LabelConfig: bytes,
    StoreLayers: tuple[LayerBlob, ...],
    PutBlob: str,
    FetchManifest: tuple[str, bytes],
    FindPrefix: Prefix,
    UnpackLayer: str,
    ListCache: tuple[CacheRecord, ...],
    PruneCache: Pruned,
    Authorize: Authorization,
}
"""Maps calls to the types of their results. A call that is not in this table has no result."""


# --- frames ---------------------------------------------------------------------------------------------------------


class Call(msgspec.Struct, frozen=True, tag=True):
    number: int
    question: Question


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Undo a call. The cancelled call is still answered."""

    number: int


class Item(msgspec.Struct, frozen=True, tag=True):
    """Progress of a call."""

    number: int
    download: Download


class Answer(msgspec.Struct, frozen=True, tag=True):
    number: int
    value: msgspec.Raw


class Failed(msgspec.Struct, frozen=True, tag=True):
    """`kind` is the name of a class of `orlop_sdk.errors`, "" for an unexpected exception of the other side, or
    "Cancelled"."""

    number: int
    kind: str
    message: str


Frame = Call | Cancel | Item | Answer | Failed

decode = msgspec.msgpack.Decoder(Frame).decode
