"""By these calls, the builder process asks the daemon to exchange content with registries and clients. `Artifacts` declares
the calls, and is a part of `contracts.Backend`; the other classes are the values in the calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

__all__ = [
    "Archive",
    "Artifacts",
    "Authorization",
    "Blob",
    "Challenge",
    "Credentials",
    "Download",
    "ImagePart",
    "LayerBlob",
    "LayerForm",
    "Manifest",
    "Prefix",
    "Report",
]


class Credentials(msgspec.Struct, frozen=True):
    """`token` is an identity token; with it, `username` may be empty. With `session`, the credentials are not known yet. The
    daemon asks the client of the session for them when the registry `host` requires credentials (`Builder.authorize`)."""

    username: str = ""
    password: str = ""
    token: str = ""
    session: str = ""
    host: str = ""


class Challenge(msgspec.Struct, frozen=True):
    """The authentication that a registry requires: a token of a service, or user and password if `realm` is empty."""

    realm: str = ""
    service: str = ""
    scopes: Sequence[str] = ()


class Authorization(msgspec.Struct, frozen=True):
    """The answer to a challenge: a `token` that the client has fetched (`lifetime` in seconds, 0 if unknown), or the
    client's credentials (None if the client has none)."""

    token: str = ""
    lifetime: float = 0
    credentials: Credentials | None = None


class Download(msgspec.Struct, frozen=True):
    """Progress of one layer of a pull, or of a push."""

    layer: str
    current: int
    total: int
    what: str  # "resolving", "downloading", "extracting", "compressing", "pushing", "done"


class Blob(msgspec.Struct, frozen=True):
    """A descriptor of a blob."""

    media_type: str
    digest: str
    size: int


class LayerForm(msgspec.Struct, frozen=True):
    """The compression of exported layers. `kind` is "gzip", "zstd", "uncompressed", or "" for the compression in
    daemon.json; `level` is -1 for the default. If a layer already has a blob, this blob is used, unless `force` is set.
    `latest` (seconds since 1970): in layers that Orlop has built, file times after `latest` are replaced by `latest`."""

    kind: str = ""
    level: int = -1
    force: bool = False
    latest: int | None = None


class LayerBlob(msgspec.Struct, frozen=True):
    """A layer as a blob: `compression` is "gzip", "zstd" or "" for a plain tar."""

    digest: str
    size: int
    compression: str
    diff_id: str


class Manifest(msgspec.Struct, frozen=True):
    """A manifest or an index of an artifact. `blobs` are the blobs that it refers to, without other manifests. In an image,
    the first blob is the configuration. `layers` are the blobs whose progress is reported: digest and name."""

    descriptor: Blob
    blobs: Sequence[Blob] = ()
    layers: Mapping[str, str] = {}


class Archive(msgspec.Struct, frozen=True):
    """An OCI layout as a tar: `root` under `names`, and the `blobs` that it needs. `docker`: the digests of the
    configuration and of the layers, for a `manifest.json`."""

    root: Blob
    blobs: Sequence[Blob]
    names: Sequence[str] = ()
    annotations: Mapping[str, str] = {}
    docker: tuple[str, tuple[str, ...]] | None = None


class ImagePart(msgspec.Struct, frozen=True):
    """An image for one platform: a configuration and the snapshots of its layers, lowest first, beginning with its base
    image. `blobs`: the layers in its manifest, if it has a manifest. `manifests`: the digests of its index, if any, and of
    its manifest. `attachments`: attestations about the image, and the blobs that they refer to."""

    config: bytes
    snapshots: Sequence[str]
    blobs: Sequence[LayerBlob] = ()
    manifests: Sequence[str] = ()
    attachments: Sequence[str] = ()


class Prefix(msgspec.Struct, frozen=True):
    """The lowest layers of a chain that are in a stored image: their number, and the snapshot of the highest of them. `name`
    is for `Backend.release`; "" if no image has any of the layers."""

    name: str
    count: int
    snapshot: str


Report = Callable[[Download], None]


class Artifacts(Protocol):
    """Blobs that will be exported, or that were imported. The builder chooses the names of artifacts. The blobs of an
    artifact are kept until the artifact is dropped, or the builder's connection to the daemon ends."""

    async def labelled(self, config: bytes) -> bytes:
        """The configuration of an image, with the labels that the daemon adds to images of this client."""
        ...

    async def layers(self, artifact: str, snapshots: Sequence[str], form: LayerForm, report: Report) -> Sequence[LayerBlob]:
        """Store the layers of a chain of snapshots as blobs, lowest first, beginning with the base image."""
        ...

    async def put(self, artifact: str, data: bytes) -> str:
        """Store a document. Returns its digest."""
        ...

    async def receive(self, artifact: str, digest: str, source: int) -> None:
        """Store a blob that is read from a pipe; it must have this digest."""
        ...

    async def read(self, artifact: str, digest: str, target: int) -> None:
        """Write a blob of the artifact to a pipe."""
        ...

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
        """Push manifests, the root last, and the blobs that they refer to. The root gets the name's tag, unless `by_digest`
        is set."""
        ...

    async def save(self, artifact: str, archive: Archive, target: int) -> None:
        """Write an archive to a pipe."""
        ...

    async def fetch_manifest(self, name: str, credentials: Credentials | None) -> tuple[str, bytes]:
        """The media type and the bytes of the manifest that a name refers to at its registry."""
        ...

    async def fetch(
        self, artifact: str, name: str, blobs: Sequence[Blob], credentials: Credentials | None, report: Report
    ) -> None:
        """Download blobs of a repository."""
        ...

    async def prefix(self, diff_ids: Sequence[str]) -> Prefix:
        """The lowest layers of a chain, as many as are in a stored image. The layers are kept until they are released."""
        ...

    async def unpack_layer(self, artifact: str, parent: str, blob: LayerBlob) -> str:
        """Make a committed snapshot of a layer on the snapshot `parent`. Returns its key."""
        ...

    async def drop(self, artifact: str) -> None: ...
