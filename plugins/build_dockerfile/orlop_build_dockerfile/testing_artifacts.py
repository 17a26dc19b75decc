"""A fake of the daemon's part of artifacts, for tests: blobs and registries are dictionaries."""

from __future__ import annotations

import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import trio

from orlop_build_dockerfile.artifacts import Archive, Blob, Credentials, LayerBlob, LayerForm, Manifest, Prefix, Report
from orlop_build_dockerfile.contracts import Download, Layer
from orlop_sdk import NotFound

__all__ = ["FakeArtifacts"]


class FakeArtifacts:
    """Implements `artifacts.Artifacts`. `registry` has manifests by name, `stored` blobs by digest. The blob of a layer is
    JSON with the files of its snapshot and of all snapshots below it. `fetched`: blobs that were fetched from a registry."""

    def __init__(self) -> None:
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.registry: dict[str, tuple[str, bytes]] = {}
        self.stored: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.archives: list[Archive] = []
        self.pushed: list[tuple[str, Sequence[Manifest], Credentials | None]] = []

    @abstractmethod
    async def pack(self, key: str) -> Layer: ...

    @abstractmethod
    async def files_of(self, key: str) -> dict[str, str]: ...

    @abstractmethod
    async def snapshot_with(self, parent: str, files: Mapping[str, str]) -> str: ...

    def _put(self, artifact: str, data: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs.setdefault(artifact, {})[digest] = data
        return digest

    async def labelled(self, config: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return config

    async def layers(self, artifact: str, snapshots: Sequence[str], form: LayerForm, report: Report) -> Sequence[LayerBlob]:
        found = []
        for key in snapshots:
            layer = await self.pack(key)
            data = json.dumps([form.kind, await self.files_of(key)]).encode()
            digest = self._put(artifact, data)
            report(Download(digest, len(data), len(data), "done"))
            kind = "" if form.kind == "uncompressed" else form.kind or "gzip"
            found.append(LayerBlob(digest, len(data), kind, layer.diff_id))
        return found

    async def put(self, artifact: str, data: bytes) -> str:
        await trio.lowlevel.checkpoint()
        return self._put(artifact, data)

    async def receive(self, artifact: str, digest: str, source: int) -> None:
        data = b""
        async with trio.lowlevel.FdStream(os.dup(source)) as stream:
            async for piece in stream:
                data += piece
        assert self._put(artifact, data) == digest

    async def read(self, artifact: str, digest: str, target: int) -> None:
        async with trio.lowlevel.FdStream(os.dup(target)) as stream:
            await stream.send_all(self.blobs[artifact][digest])

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
        held = self.blobs[artifact]
        for manifest in manifests:
            for blob in (manifest.descriptor, *manifest.blobs):
                self.stored[blob.digest] = held[blob.digest]
        root = manifests[-1].descriptor
        self.registry[f"{name}@{root.digest}" if by_digest else name] = (root.media_type, held[root.digest])
        self.pushed.append((name, manifests, credentials))
        await trio.lowlevel.checkpoint()

    async def save(self, artifact: str, archive: Archive, target: int) -> None:
        self.archives.append(archive)
        async with trio.lowlevel.FdStream(os.dup(target)) as stream:
            await stream.send_all(self.blobs[artifact][archive.root.digest])

    async def fetch_manifest(self, name: str, credentials: Credentials | None) -> tuple[str, bytes]:
        await trio.lowlevel.checkpoint()
        if name not in self.registry:
            raise NotFound(f"{name}: not found")
        return self.registry[name]

    async def fetch(
        self, artifact: str, name: str, blobs: Sequence[Blob], credentials: Credentials | None, report: Report
    ) -> None:
        await trio.lowlevel.checkpoint()
        for blob in blobs:
            self.fetched.append(blob.digest)
            self.blobs.setdefault(artifact, {})[blob.digest] = self.stored[blob.digest]

    async def prefix(self, diff_ids: Sequence[str]) -> Prefix:
        await trio.lowlevel.checkpoint()
        return Prefix("", 0, "")

    async def unpack_layer(self, artifact: str, parent: str, blob: LayerBlob) -> str:
        _, files = json.loads(self.blobs[artifact][blob.digest])
        return await self.snapshot_with(parent, files)

    async def drop(self, artifact: str) -> None:
        await trio.lowlevel.checkpoint()
        self.blobs.pop(artifact, None)
