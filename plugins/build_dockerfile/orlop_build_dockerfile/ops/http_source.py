"""The source http: files for ADD, and contexts that a client uploads. A known file is requested again with its ETag, or not
at all if the build specifies its checksum."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import msgspec
import trio

from orlop_build_dockerfile.cache.records import Lease, Record
from orlop_build_dockerfile.contracts import BuildFailed, Settings
from orlop_build_dockerfile.contracts import Vertex as Shown
from orlop_build_dockerfile.solver.definition import Vertex
from orlop_build_dockerfile.solver.values import Made, join_key

from . import paths
from .upload import StoredUpload, Upload

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.core import Core
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["http_source"]

_TIMEOUT = 60.0  # seconds without data
_CHUNK = 1 << 20
_AGENT = "orlop-build"
_SESSION = "http://buildkit-session/"  # URLs that begin with this text mean archives that the client sends as its context


class _Wanted(msgspec.Struct, frozen=True):
    url: str
    checksum: str
    filename: str
    mode: int
    owner: tuple[int, int]


class _Received(msgspec.Struct, frozen=True):
    """`digest` is "" if the server says that the file has not changed."""

    digest: str = ""
    filename: str = ""
    etag: str = ""
    modified: int = 0


def _wanted(vertex: Vertex) -> _Wanted:
    attrs = vertex.op.source.attrs
    try:
        mode = int(attrs.get("http.perm", "0600"), 8) & 0o7777
        owner = int(attrs.get("http.uid", "0")), int(attrs.get("http.gid", "0"))
    except ValueError:
        raise BuildFailed("invalid mode or owner of an HTTP source", code=3) from None
    checksum = attrs.get("http.checksum", "")
    if checksum and not re.fullmatch(r"sha256:[0-9a-f]{64}", checksum):
        raise BuildFailed(f"unsupported checksum {checksum[:100]}: only sha256 is supported", code=3)
    return _Wanted(vertex.op.source.identifier, checksum, attrs.get("http.filename", ""), mode, owner)


async def http_source(job: SolverJob, vertex: Vertex) -> Made | Upload:
    wanted, records = _wanted(vertex), job.core.records
    by_address = join_key("http", msgspec.json.encode(wanted))
    if wanted.url.startswith(_SESSION):
        return await _uploaded(job, vertex, wanted, by_address)
    async with job.build.progress.vertex(vertex.digest, vertex.name, ()) as shown:
        known = None if vertex.ignore_cache else records.find(by_address)
        if known is not None:
            records.use(known, job.lease)
            if wanted.checksum:
                shown.cached = True
                job.materials[vertex.digest] = (wanted.url, wanted.checksum)
                return Made(job.core, known, 0)

        async def fetch(lease: Lease) -> Record:
            return await _fetch(job, wanted, by_address, known, shown, lease)

        record = await job.core.shared_step(job, f"{by_address}:{job.id if vertex.ignore_cache else ''}", fetch)
        shown.cached = record is known
        if digest := wanted.checksum or record.extra.get("digest", ""):
            job.materials[vertex.digest] = (wanted.url, digest)
        return Made(job.core, record, 0)


async def _fetch(job: SolverJob, wanted: _Wanted, key: str, known: Record | None, shown: Shown, lease: Lease) -> Record:
    core = job.core
    etag = known.extra.get("etag", "") if known is not None else ""
    async with _temporary(core) as path:
        received = await trio.to_thread.run_sync(_download, wanted, path, etag, core.settings, shown, abandon_on_cancel=True)
        if not received.digest and known is not None:
            return known
        if wanted.checksum and received.digest != wanted.checksum:
            raise BuildFailed(f"digest mismatch {received.digest}: {wanted.checksum}")
        content = _content_key(wanted, received)
        record = core.records.find(content)
        if record is not None:
            # `lease` is the lease of the step, because other builds may wait for the step when this build has ended
            core.records.use(record, lease)
            await core.records.link(key, record)
            return record
        return await _stored(core, wanted, received, path, content, lease, [key])


def _content_key(wanted: _Wanted, received: _Received) -> str:
    return join_key("http-content", msgspec.json.encode(received), str(wanted.mode), str(wanted.owner))


async def _stored(
    core: Core, wanted: _Wanted, received: _Received, path: str, content: str, lease: Lease, keys: Sequence[str]
) -> Record:
    """Make a record of the file `path`."""
    async with core.active("") as active:
        async with core.views.write(active.key) as root:
            await core.file_work(lambda: _place(path, root, wanted, received))
        snapshot = await active.commit()
    return await core.records.add(
        content,
        {0: (snapshot, "")},
        lease,
        keys=keys,
        description=f"http url {wanted.url}"[:500],
        extra={"etag": received.etag, "digest": received.digest},
    )


@asynccontextmanager
async def _temporary(core: Core) -> AsyncIterator[str]:
    """The path for a temporary file. The file is removed at the end of the block."""
    path = os.path.join(core.directory, f"unpack-{secrets.token_hex(8)}")
    try:
        yield path
    finally:
        with trio.move_on_after(10, shield=True):
            await trio.to_thread.run_sync(_unlink, path)


# --- uploads


async def _uploaded(job: SolverJob, vertex: Vertex, wanted: _Wanted, key: str) -> StoredUpload | Upload:
    """The upload of this build's client. The upload can be read only once, and no other build uses it."""

    async def receive() -> StoredUpload | Upload:
        async with job.build.progress.vertex(vertex.digest, vertex.name, ()) as shown:

            async def store() -> StoredUpload:
                return StoredUpload(job.core, await _received_upload(job, vertex, wanted, shown), 0)

            streamed = None if wanted.checksum else await job.build.session.stream()
            return await store() if streamed is None else Upload(job, streamed, store)

    return await job.uploads.run(key, receive)


async def _received_upload(job: SolverJob, vertex: Vertex, wanted: _Wanted, shown: Shown) -> Record:
    """Receive an upload. A short upload is kept in memory, and is not written if the cache contains it."""
    core, digest, size, waiting = job.core, hashlib.sha256(), 0, bytearray()
    async with _temporary(core) as path, job.build.session.upload(wanted.url.removeprefix(_SESSION)) as pieces:
        async for piece in pieces:
            digest.update(piece)
            size += len(piece)
            waiting += piece
            if len(waiting) >= _CHUNK:
                await trio.to_thread.run_sync(_append, path, waiting)
                waiting = bytearray()
            shown.status(wanted.url, name="transferring", current=size)
        shown.status(wanted.url, name="transferring", current=size, done=True)
        received = _Received("sha256:" + digest.hexdigest(), wanted.filename or "context")
        if wanted.checksum and received.digest != wanted.checksum:
            raise BuildFailed(f"digest mismatch {received.digest}: {wanted.checksum}")
        job.materials[vertex.digest] = (wanted.url, received.digest)
        content = _content_key(wanted, received)
        record = core.records.find(content)
        if record is None:
            await trio.to_thread.run_sync(_append, path, waiting)
            record = await _stored(core, wanted, received, path, content, job.lease, ())
        core.records.use(record, job.lease)
        return record


def _append(path: str, data: bytes | bytearray) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _place(path: str, root: int, wanted: _Wanted, received: _Received) -> None:
    from .copying import Copier, Options

    directory, name = os.path.split(path)
    with paths.opened(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as source:
        attributes = paths.Attributes(wanted.owner, received.modified)
        options = Options(attributes=attributes, mode=lambda _: wanted.mode)
        Copier(source, root, options).copy(name, f"/{received.filename}")


def _is_direct(host: str, no_proxy: str) -> bool:
    """Whether NO_PROXY contains the host or its domain."""
    names = [name.strip().lstrip(".").lower() for name in no_proxy.split(",") if name.strip()]
    return any(name == "*" or host == name or host.endswith("." + name) for name in names)


def _opener(url: str, proxies: Mapping[str, str], *, public_only: bool) -> urllib.request.OpenerDirector:
    host = urllib.parse.urlsplit(url).hostname or ""
    found = {scheme: proxies.get(f"{scheme.upper()}_PROXY", "") for scheme in ("http", "https")}
    chosen = {scheme: proxy for scheme, proxy in found.items() if proxy}
    if _is_direct(host, proxies.get("NO_PROXY", "")):
        chosen = {}
    plain, secure = urllib.request.HTTPHandler, urllib.request.HTTPSHandler
    if public_only:
        from . import public_only as restricted

        plain, secure = restricted.HTTPHandler, restricted.HTTPSHandler
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(chosen),
        plain(),
        secure(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _download(wanted: _Wanted, path: str, etag: str, settings: Settings, shown: Shown) -> _Received:
    """Download to the file `path`. Runs on a thread, and ends soon after the build is cancelled."""
    headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity", **({"If-None-Match": etag} if etag else {})}
    request = urllib.request.Request(wanted.url, headers=headers)  # noqa: S310 - the scheme has been checked
    try:
        with _opener(wanted.url, settings.proxies, public_only=settings.public_only).open(
            request, timeout=_TIMEOUT
        ) as answer:
            digest, size = hashlib.sha256(), 0
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                while data := answer.read(_CHUNK):
                    trio.from_thread.check_cancelled()
                    file.write(data)
                    digest.update(data)
                    size += len(data)
                    total = int(answer.headers.get("Content-Length") or 0)
                    trio.from_thread.run_sync(_show, shown, wanted.url, size, total)
            return _received(wanted, answer, "sha256:" + digest.hexdigest())
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 304:
                return _Received()
            raise BuildFailed(f"failed to load {wanted.url}: invalid response status {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise BuildFailed(f"failed to load {wanted.url}: {reason}") from None


def _show(shown: Shown, url: str, size: int, total: int) -> None:
    shown.status(url, name="downloading", current=size, total=total, done=bool(total) and size >= total)


def _received(wanted: _Wanted, answer: http.client.HTTPResponse, digest: str) -> _Received:
    modified = 0
    try:
        modified = int(parsedate_to_datetime(answer.headers["Last-Modified"]).timestamp()) * 1_000_000_000
    except (TypeError, ValueError, OverflowError):
        pass
    name = wanted.filename or answer.headers.get_filename() or urllib.parse.unquote(urllib.parse.urlsplit(answer.url).path)
    name = os.path.basename(name.rstrip("/")) or "download"
    if name in (".", "..") or "\0" in name:
        name = "download"
    return _Received(digest, name, answer.headers.get("ETag") or "", modified)
