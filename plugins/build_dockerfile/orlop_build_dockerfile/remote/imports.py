"""The caches that a build may use. They are read once, at the first lookup of a step. An unreadable cache is reported and
ignored."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import trio

from orlop_build_dockerfile.contracts import Blob, BuildFailed, CacheTarget, Credentials, Download, Report
from orlop_build_dockerfile.export.documents import digest_of
from orlop_build_dockerfile.export.pipes import pipe
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.solver.values import join_key, registry_of
from orlop_sdk import OrlopError

from .config import Document, Found, configuration, parse_document, read, read_inline

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["Imported", "Source", "load"]

_LIMIT = 16 << 20  # limit for the bytes of a manifest or a configuration
_MOST = 50  # limit for the manifests of an index


class Source(Protocol):
    """The location of a cache."""

    async def document(self, reference: str) -> bytes:
        """A manifest by digest; "" for the root manifest."""
        ...

    async def small(self, digest: str, size: int) -> bytes: ...

    async def fetch(self, artifact: str, blobs: Sequence[Blob], report: Report) -> None:
        """Make blobs part of an artifact."""
        ...


class Imported:
    """A cache that was read, and the location of its layers."""

    def __init__(self, source: Source, found: Found) -> None:
        self.source, self.found = source, found


async def load(job: SolverJob, target: CacheTarget) -> list[Imported]:
    """Read a cache. If it cannot be read, show the error on its vertex and return nothing."""
    place = target.attributes.get("ref") or target.attributes.get("src") or ""
    vertex = "sha256:" + join_key("import", job.id, target.kind, place)
    try:
        async with job.build.progress.vertex(vertex, f"importing cache manifest from {place}", ()):
            source = await _source(job, target)
            return await _read(source)
    except (BuildFailed, OrlopError):
        return []  # as in BuildKit, the vertex has failed, but not the build


async def _source(job: SolverJob, target: CacheTarget) -> Source:
    attributes = target.attributes
    if target.kind == "registry":
        name = attributes.get("ref", "")
        if not registry_of(name):
            raise BuildFailed(f"failed to configure registry cache importer: invalid reference {name[:200]!r}", code=3)
        return RegistrySource(job, name, await job.build.session.credentials(registry_of(name)))
    if target.kind == "local":
        if not attributes.get("src") or not attributes.get("digest"):
            raise BuildFailed("local cache importer requires src and an explicit digest", code=3)
        return StoreSource(job, f"local:{attributes['src']}", attributes["digest"])
    raise BuildFailed(f"unknown cache importer: {target.kind[:100]}", code=3)


async def _read(source: Source) -> list[Imported]:
    document = parse_document(await source.document(""))
    config = configuration(document)
    if config is not None:
        data = await source.small(config.digest, config.size)
        return [Imported(source, await trio.to_thread.run_sync(read, document, data))]
    found = []
    for manifest in await _images(source, document):
        if manifest.config is not None and manifest.layers:
            data = await source.small(manifest.config.digest, manifest.config.size)
            found.append(Imported(source, await trio.to_thread.run_sync(read_inline, manifest, data)))
    return found


async def _images(source: Source, document: Document) -> list[Document]:
    if not document.manifests:
        return [document]
    return [parse_document(await source.document(each.digest)) for each in document.manifests[:_MOST]]


class RegistrySource:
    def __init__(self, job: SolverJob, name: str, credentials: Credentials | None) -> None:
        self._backend, self._name, self._credentials = job.core.backend, name, credentials

    async def document(self, reference: str) -> bytes:
        name = f"{self._name.partition('@')[0]}@{reference}" if reference else self._name
        return (await self._backend.fetch_manifest(name, self._credentials))[1]

    async def small(self, digest: str, size: int) -> bytes:
        async with _artifact(self._backend) as artifact:
            blob = Blob("", digest, _checked(size))
            await self._backend.fetch(artifact, self._name, [blob], self._credentials, lambda _: None)
            async with pipe() as (reader, writer), nursery() as tasks, reader:

                async def write() -> None:
                    try:
                        await self._backend.read(artifact, digest, writer.fileno())
                    finally:
                        writer.close()

                tasks.start_soon(write)
                return await _joined(reader.chunks())
        raise AssertionError("unreachable")

    async def fetch(self, artifact: str, blobs: Sequence[Blob], report: Report) -> None:
        await self._backend.fetch(artifact, self._name, blobs, self._credentials, report)


class StoreSource:
    """A content store of the client."""

    def __init__(self, job: SolverJob, store: str, root: str) -> None:
        self._backend, self._session, self._store, self._root = job.core.backend, job.build.session, store, root

    async def document(self, reference: str) -> bytes:
        return await self.small(reference or self._root, 0)

    async def small(self, digest: str, size: int) -> bytes:
        _checked(size)
        async with self._session.read_content(self._store, digest) as chunks:
            data = await _joined(chunks)
        if digest_of(data) != digest:
            raise BuildFailed(f"the client's content of {digest[:100]} is damaged")
        return data

    async def fetch(self, artifact: str, blobs: Sequence[Blob], report: Report) -> None:
        for blob in blobs:
            await self._fetch(artifact, blob, report)

    async def _fetch(self, artifact: str, blob: Blob, report: Report) -> None:
        done, name = 0, blob.digest.removeprefix("sha256:")[:12]
        async with pipe() as (reader, writer), nursery() as tasks:
            tasks.start_soon(self._backend.receive, artifact, blob.digest, reader.fileno())
            try:
                async with self._session.read_content(self._store, blob.digest) as chunks:
                    async for chunk in chunks:
                        await writer.send(chunk)
                        done += len(chunk)
                        report(Download(name, done, blob.size, "downloading"))
            finally:
                writer.close()
        report(Download(name, done, blob.size, "done"))


def _checked(size: int) -> int:
    if not 0 <= size <= _LIMIT:
        raise BuildFailed(f"cannot read a manifest or configuration of {size} bytes")
    return size


async def _joined(chunks: AsyncIterator[bytes]) -> bytes:
    found = bytearray()
    async for chunk in chunks:
        found += chunk
        _checked(len(found))
    return bytes(found)


@asynccontextmanager
async def _artifact(backend: object) -> AsyncIterator[str]:
    async with AsyncExitStack() as stack:
        name = uuid.uuid4().hex
        stack.push_async_callback(backend.drop, name)  # type: ignore[attr-defined]
        yield name
