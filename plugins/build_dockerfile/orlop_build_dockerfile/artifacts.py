"""The calls by which the builder process has the daemon exchange content with registries and clients: `Artifacts`, which is
a part of `contracts.Backend`, and the values that pass through it."""

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
    """`token` is an identity token; with it, `username` may be empty. With `session`, neither is known yet: the daemon asks
    the client of the session when the registry `host` requires credentials (`Builder.authorize`)."""

    username: str = ""
    password: str = ""
    token: str = ""
    session: str = ""
    host: str = ""


class Challenge(msgspec.Struct, frozen=True):
    """What a registry requires: a token of a service, or user and password if `realm` is empty."""

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
    """A descriptor."""

    media_type: str
    digest: str
    size: int


class LayerForm(msgspec.Struct, frozen=True):
    """The compression of exported layers. `kind` is "gzip", "zstd", "uncompressed", or "" for the one in daemon.json;
    `level` is -1 for the default. A layer that already has a blob keeps the blob, unless `force` is set. `latest`: in layers
    that Orlop has built, later file times are replaced by this time (seconds since 1970)."""

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
    """A manifest or an index of an artifact. `blobs` are the blobs that it names, without other manifests; the configuration
    of an image comes first. `layers` are the blobs whose progress is reported: digest and name."""

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
    """An image for one platform: a configuration and the snapshots of its layers, lowest first (a base comes first).
    `blobs`: the layers as its manifest names them, if it has a manifest. `manifests`: the digests of its index, if any, and
    of its manifest. `attachments`: attestations about the image, and the blobs that they name."""

    config: bytes
    snapshots: Sequence[str]
    blobs: Sequence[LayerBlob] = ()
    manifests: Sequence[str] = ()
    attachments: Sequence[str] = ()


class Prefix(msgspec.Struct, frozen=True):
    """The lowest layers of a chain that stored images have: their number, and the snapshot of the highest. `name` is for
    `Backend.release`; "" if no image has any."""

    name: str
    count: int
    snapshot: str


Report = Callable[[Download], None]


class Artifacts(Protocol):
    """Blobs to export, or that were imported. The builder chooses the names of artifacts. The blobs of an artifact are kept
    until the artifact is dropped, or the builder's connection to the daemon ends."""

    async def labelled(self, config: bytes) -> bytes:
        """The configuration of an image, with the labels that the daemon adds to images of this client."""
        ...

    async def layers(self, artifact: str, snapshots: Sequence[str], form: LayerForm, report: Report) -> Sequence[LayerBlob]:
        """Store the layers of a chain of snapshots as blobs, lowest first (a base comes first)."""
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
        """Push manifests, the root last, and the blobs that they name. The root gets the name's tag, unless `by_digest`."""
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
        """The longest part of a chain of layers, from the lowest up, that stored images have. Kept until it is released."""
        ...

    async def unpack_layer(self, artifact: str, parent: str, blob: LayerBlob) -> str:
        """Make a committed snapshot of a layer on another one. Returns its key."""
        ...

    async def drop(self, artifact: str) -> None: ...
