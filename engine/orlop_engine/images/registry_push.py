"""A client of a registry (distribution spec, push): uploads blobs and manifests to one repository at one endpoint.

This module is imported on demand, like `registry_session`. Each method makes one request. The module `upload` repeats
requests and resumes uploads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from urllib.parse import quote

import httpx
import trio

from .content import DamagedBlob
from .documents import digest as digest_of
from .registry_errors import RegistryError
from .registry_session import Session
from .upload import Part

__all__ = ["PushRegistry"]

_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")
_MAX_LOCATION = 16 << 10
_PIECE = 256 << 10


def _with_digest(location: str, digest: str) -> str:
    """Add the digest to an upload's location, which may already have a query."""
    return f"{location}{'&' if '?' in location else '?'}digest={quote(digest)}"


def _size(response: httpx.Response) -> int | None:
    text = response.headers.get("content-length", "")
    return int(text) if text.isdigit() and len(text) < 19 else None


class _Stream(httpx.AsyncByteStream):
    """Reads a part of a file on threads. This class is not a generator, because httpx does not close a generator when a
    request fails."""

    def __init__(self, part: Part, sent: Callable[[int], None]) -> None:
        self._part, self._sent = part, sent
        self._at = part.start

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> bytes:
        left = self._part.start + self._part.length - self._at
        if not left:
            raise StopAsyncIteration
        data = await trio.to_thread.run_sync(os.pread, self._part.fd, min(_PIECE, left), self._at)
        if not data:
            raise DamagedBlob(f"cannot push a blob: its file is {left} bytes shorter than recorded")
        self._at += len(data)
        self._sent(self._at)
        return data


class PushRegistry(Session):
    """A connection for writing to one repository. Open it with `PushRegistry.connect`."""

    actions = "pull,push"

    def _check_digest(self, response: httpx.Response, wanted: str, what: str) -> None:
        """Raise if the registry's answer contains another digest, which means that the registry has stored other content."""
        found = response.headers.get("docker-content-digest", "")
        if found and found != wanted:
            raise RegistryError(f"cannot push {what} {wanted}: the registry reports the digest {found[:100]}")

    async def has_blob(self, digest: str, size: int) -> bool:
        """Whether the repository has the blob. False if the registry's blob has another size; the blob is then uploaded
        again."""
        try:
            async with self.request("HEAD", f"/v2/{self.repository}/blobs/{digest}", {}) as response:
                self._check_digest(response, digest, "blob")
                return _size(response) in (size, None)
        except RegistryError as error:
            if error.status == 404:
                return False
            raise

    async def start(self) -> str:
        """Start an upload. Returns its location."""
        path = f"/v2/{self.repository}/blobs/uploads/"
        async with self.request("POST", path, {"Content-Length": "0"}) as response:
            return self._location("POST", response, self.endpoint.at(path))

    async def mount(self, digest: str, source: str) -> str:
        """Mount a blob from another repository of this registry. Returns "" if the registry has mounted the blob. Otherwise
        returns the location of the upload that the registry has started instead."""
        path = f"/v2/{self.repository}/blobs/uploads/?mount={quote(digest)}&from={quote(source)}"
        async with self.request("POST", path, {"Content-Length": "0"}, source=source) as response:
            if response.status_code == 201:
                self._check_digest(response, digest, "blob")
                return ""
            return self._location("POST", response, self.endpoint.at(path))

    async def append(self, location: str, part: Part, sent: Callable[[int], None]) -> tuple[str, int | None]:
        """Send bytes of a blob. Returns the location for the next request, and the number of bytes that the registry reports
        as received (None if its answer contains no number). Before this method sends a piece, it calls `sent` with the
        offset of the piece's end."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(part.length)}
        if part.ranged:
            headers["Content-Range"] = f"{part.start}-{part.start + part.length - 1}"
        async with self.request("PATCH", location, headers, partial(_Stream, part, sent)) as response:
            return self._location("PATCH", response, location), _received(response)

    async def finish(self, location: str, digest: str, part: Part | None, sent: Callable[[int], None]) -> None:
        """Complete an upload. `part` is the whole blob, or None if all bytes were sent before. The registry verifies the
        digest, which may take a long time."""
        length = part.length if part else 0
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
        body = partial(_Stream, part, sent) if part else None
        patience = self.timeouts.finish
        async with self.request("PUT", _with_digest(location, digest), headers, body, patience=patience) as response:
            if response.status_code not in (201, 204):
                raise RegistryError(f"cannot push blob {digest}: unexpected HTTP status {response.status_code}")
            self._check_digest(response, digest, "blob")

    async def state(self, location: str) -> tuple[str, int]:
        """The location at which to continue an upload, and the number of bytes that the registry has received."""
        async with self.request("GET", location, {}) as response:
            received = _received(response)
            if response.status_code != 204 or received is None:
                raise RegistryError(
                    "cannot resume the upload: the registry does not say how much it has received", status=404
                )
            has_location = "location" in response.headers
            return self._location("GET", response, location) if has_location else location, received

    async def cancel(self, location: str) -> None:
        """Cancel an upload, so that the registry removes its data. Errors are ignored, because registries remove old
        uploads anyway."""
        with trio.move_on_after(5, shield=True), suppress(RegistryError):
            async with self.request("DELETE", location, {"Content-Length": "0"}):
                pass

    def _location(self, method: str, response: httpx.Response, url: str) -> str:
        location = response.headers.get("location", "")
        if response.status_code not in (201, 202, 204) or not location or len(location) > _MAX_LOCATION:
            raise RegistryError(f'{method.capitalize()} "{url}": the registry gave no location for the upload')
        return self.target(method, url, location)

    async def has_manifest(self, tag: str, media_type: str, data: bytes) -> bool:
        """Whether the tag at the registry refers to this manifest. False if the request fails."""
        try:
            async with self.request("HEAD", f"/v2/{self.repository}/manifests/{tag}", {"Accept": media_type}) as response:
                found = response.headers.get("docker-content-digest", "")
                return found == digest_of(data) and _size(response) in (len(data), None)
        except RegistryError:
            return False

    async def put_manifest(self, reference: str, media_type: str, data: bytes) -> None:
        path = f"/v2/{self.repository}/manifests/{reference}"
        headers = {"Content-Type": media_type, "Content-Length": str(len(data))}
        async with self.request("PUT", path, headers, data, patience=self.timeouts.finish) as response:
            if response.status_code not in (200, 201, 202):
                raise RegistryError(f"cannot push manifest {reference}: unexpected HTTP status {response.status_code}")
            self._check_digest(response, digest_of(data), "manifest")

    async def check_manifest(self, media_type: str, data: bytes) -> None:
        """Check that the registry returns this manifest for its digest. After a 404, a retry may succeed, because some
        registries are replicated."""
        digest = digest_of(data)
        path = f"/v2/{self.repository}/manifests/{digest}"
        try:
            async with self.request("HEAD", path, {"Accept": media_type}) as response:
                self._check_digest(response, digest, "manifest")
                if _size(response) not in (len(data), None):
                    raise RegistryError(f"cannot push manifest {digest}: the registry has {_size(response)} bytes of it")
        except RegistryError as error:
            if error.status != 404:
                raise
            text = f"cannot push manifest {digest}: the registry accepted it, but does not have it"
            raise RegistryError(text, status=404, retry=True) from error


def _received(response: httpx.Response) -> int | None:
    """The number of received bytes, from the header `Range`: "0-<last byte>". "0-0" can also mean that nothing was
    received."""
    given = _RANGE.fullmatch(response.headers.get("range", ""))
    if given is None:
        return None
    last = int(given[1])
    return last + 1 if last else 0
