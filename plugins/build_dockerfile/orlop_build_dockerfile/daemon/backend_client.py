"""The implementation of `contracts.Backend` in the builder process. Each method is a call to the daemon."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import trio

from orlop_build_dockerfile.contracts import (
    Archive,
    Base,
    Blob,
    Credentials,
    Download,
    ImagePart,
    Layer,
    LayerBlob,
    LayerForm,
    Manifest,
    Prefix,
    Report,
    SnapshotUsage,
    Step,
)
from orlop_build_dockerfile.processes import Process, Streams
from orlop_sdk import Mount

from . import messages
from .link import Link

__all__ = ["BackendClient"]

_UNDO = 60.0


class BackendClient:
    """Implements `contracts.Backend`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def resolve(self, name: str, platform: str, *, pull: bool, credentials: Credentials | None) -> Base:
        found: Base = await self._link.call(messages.Resolve(name, platform, pull, credentials))
        return found

    @asynccontextmanager
    async def base(
        self, name: str, platform: str, *, pull: bool, credentials: Credentials | None
    ) -> AsyncIterator[AsyncIterator[Download | Base]]:
        """See `contracts.Backend`. Leaving the block before the last item cancels the pull."""
        question = messages.FetchBase(name, platform, pull, credentials)
        failure: Exception | None = None
        send: trio.MemorySendChannel[Download | Base]
        send, receive = trio.open_memory_channel[Download | Base](math.inf)

        def report(download: Download) -> None:
            # The caller has left the block, and the daemon has not received the cancellation yet
            with suppress(trio.BrokenResourceError):
                send.send_nowait(download)

        async def fetch() -> None:
            nonlocal failure
            with send:
                try:
                    base: Base = await self._link.call(
                        question, report=report, undo=lambda base: messages.Release(base.digest)
                    )
                    send.send_nowait(base)
                except trio.BrokenResourceError:  # the caller has left the block
                    with trio.move_on_after(_UNDO, shield=True):
                        await self.release(base.digest)
                except Exception as error:
                    failure = error

        async def items() -> AsyncIterator[Download | Base]:
            async for item in receive:
                yield item
            if failure is not None:
                raise failure

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            with receive:
                yield items()
            nursery.cancel_scope.cancel()

    async def release(self, digest: str) -> None:
        await self._link.call(messages.Release(digest))

    async def prepare(self, parent: str) -> str:
        key: str = await self._link.call(messages.Prepare(parent), undo=messages.Remove)
        return key

    async def commit(self, key: str) -> str:
        committed: str = await self._link.call(messages.Commit(key), undo=messages.Remove)
        return committed

    async def remove(self, key: str) -> None:
        await self._link.call(messages.Remove(key))

    async def mounts(self, key: str, *, readonly: bool) -> Sequence[Mount]:
        found: tuple[Mount, ...] = await self._link.call(messages.Mounts(key, readonly))
        return found

    async def usage(self, key: str) -> SnapshotUsage:
        found: SnapshotUsage = await self._link.call(messages.MeasureSnapshot(key))
        return found

    async def snapshots(self) -> Sequence[str]:
        found: tuple[str, ...] = await self._link.call(messages.ListSnapshots())
        return found

    async def shared(self) -> Sequence[str]:
        found: Sequence[str] = await self._link.call(messages.ListShared())
        return found

    async def unpack(self, archive: int, directory: int, owner: tuple[int, int] | None = None) -> None:
        await self._link.call(messages.Unpack(owner), (archive, directory))

    async def copy_files(self, connection: int) -> None:
        await self._link.call(messages.CopyFiles(), (connection,))

    async def run(self, step: Step, stdout: int, stderr: int, stdin: int = -1) -> int:
        given = (stdout, stderr) if stdin < 0 else (stdout, stderr, stdin)
        code: int = await self._link.call(messages.Run(step), given)
        return code

    async def serve(self, name: str, step: Step, streams: Streams, client: int) -> int:
        code: int = await self._link.call(messages.ServeStep(name, step, streams), (client,))
        return code

    async def execute(self, name: str, process: str, request: Process, client: int) -> int:
        code: int = await self._link.call(messages.Execute(name, process, request), (client,))
        return code

    async def signal(self, name: str, process: str, signal: str) -> None:
        await self._link.call(messages.SendSignal(name, process, signal))

    async def resize(self, name: str, process: str, rows: int, columns: int) -> None:
        await self._link.call(messages.Resize(name, process, rows, columns))

    async def pack(self, key: str) -> Layer:
        layer: Layer = await self._link.call(messages.Pack(key))
        return layer

    async def create_images(self, parts: Sequence[ImagePart], names: Sequence[str], index: str = "") -> Sequence[str]:
        ids: tuple[str, ...] = await self._link.call(messages.CreateImages(parts, names, index))
        return ids

    async def labelled(self, config: bytes) -> bytes:
        found: bytes = await self._link.call(messages.LabelConfig(config))
        return found

    # --- artifacts

    async def layers(self, artifact: str, snapshots: Sequence[str], form: LayerForm, report: Report) -> Sequence[LayerBlob]:
        question = messages.StoreLayers(artifact, snapshots, form)
        found: tuple[LayerBlob, ...] = await self._link.call(question, report=report)
        return found

    async def put(self, artifact: str, data: bytes) -> str:
        digest: str = await self._link.call(messages.PutBlob(artifact, data))
        return digest

    async def receive(self, artifact: str, digest: str, source: int) -> None:
        await self._link.call(messages.ReceiveBlob(artifact, digest), (source,))

    async def read(self, artifact: str, digest: str, target: int) -> None:
        await self._link.call(messages.ReadBlob(artifact, digest), (target,))

    async def push(
        self,
        artifact: str,
        name: str,
        manifests: Sequence[Manifest],
        credentials: Credentials | None,
        report: Report,
        *,
        by_digest: bool = False,
    ) -> None:
        question = messages.PushArtifact(artifact, name, manifests, credentials, by_digest)
        await self._link.call(question, report=report)

    async def save(self, artifact: str, archive: Archive, target: int) -> None:
        await self._link.call(messages.SaveArtifact(artifact, archive), (target,))

    async def fetch_manifest(self, name: str, credentials: Credentials | None) -> tuple[str, bytes]:
        found: tuple[str, bytes] = await self._link.call(messages.FetchManifest(name, credentials))
        return found

    async def fetch(
        self, artifact: str, name: str, blobs: Sequence[Blob], credentials: Credentials | None, report: Report
    ) -> None:
        await self._link.call(messages.FetchBlobs(artifact, name, blobs, credentials), report=report)

    async def prefix(self, diff_ids: Sequence[str]) -> Prefix:
        found: Prefix = await self._link.call(messages.FindPrefix(diff_ids))
        return found

    async def unpack_layer(self, artifact: str, parent: str, blob: LayerBlob) -> str:
        key: str = await self._link.call(messages.UnpackLayer(artifact, parent, blob))
        return key

    async def drop(self, artifact: str) -> None:
        await self._link.call(messages.DropArtifact(artifact))
