"""What the builder process asks of the daemon about content that goes elsewhere or comes from there: `Artifacts`, which is a
part of `contracts.Backend`, and the values that pass through it."""

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
    """`token` is an identity token; with it, `username` may be empty. With `session`, nothing of this is known yet: the
    daemon asks the client of the session when the registry `host` wants it (`Builder.authorize`)."""

    username: str = ""
    password: str = ""
    token: str = ""
    session: str = ""
    host: str = ""


class Challenge(msgspec.Struct, frozen=True):
    """What a registry asks for: a token of a service, or user and password, if there is no `realm`."""

    realm: str = ""
    service: str = ""
    scopes: Sequence[str] = ()


class Authorization(msgspec.Struct, frozen=True):
    """The answer to a challenge: a `token` that the client has fetched (`lifetime` in seconds, 0 if unknown), else the
    client's credentials, None if it has none."""

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
    """How layers are stored outside. `kind` is "gzip", "zstd", "uncompressed", or "" as daemon.json says; `level` is -1 for
    the usual one. Layers that have a blob already keep it, unless `force`. `latest`: later times of files in layers that
    were built here become this one (seconds since 1970)."""

    kind: str = ""
    level: int = -1
    force: bool = False
    latest: int | None = None


class LayerBlob(msgspec.Struct, frozen=True):
    """A layer as it is outside: `compression` is "gzip", "zstd" or "" for a plain tar."""

    digest: str
    size: int
    compression: str
    diff_id: str


class Manifest(msgspec.Struct, frozen=True):
    """A manifest or an index of an artifact. `blobs` are what it names, without other manifests: of an image, the
    configuration comes first. `layers` are those of them that progress is reported for: digest and name."""

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
    """An image for one platform, of a configuration and its layers' snapshots, lowest first (a base comes first). `blobs`:
    the layers as its manifest names them, if it has one. `manifests`: the digests of its index, if there is one, and of its
    manifest. `attachments`: attestations about it, and what they name."""

    config: bytes
    snapshots: Sequence[str]
    blobs: Sequence[LayerBlob] = ()
    manifests: Sequence[str] = ()
    attachments: Sequence[str] = ()


class Prefix(msgspec.Struct, frozen=True):
    """The lowest layers of a chain, as images here have them: how many, and the snapshot of the highest. `name` is for
    `Backend.release`; "" if there are none."""

    name: str
    count: int
    snapshot: str


Report = Callable[[Download], None]


class Artifacts(Protocol):
    """Blobs that go elsewhere, or that have come from there. The builder chooses the names of artifacts. What an artifact
    has is kept until it is dropped, or the builder's connection to the daemon ends."""

    async def labelled(self, config: bytes) -> bytes:
        """The configuration of an image, with the labels that the client's images get."""
        ...

    async def layers(self, artifact: str, snapshots: Sequence[str], form: LayerForm, report: Report) -> Sequence[LayerBlob]:
        """Store the layers of a chain of snapshots as blobs, lowest first (a base comes first)."""
        ...

    async def put(self, artifact: str, data: bytes) -> str:
        """Store a document. Returns its digest."""
        ...

    async def receive(self, artifact: str, digest: str, source: int) -> None:
        """Store a blob that a pipe brings; it must have this digest."""
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
        """Push manifests, the root last, and what they name. The root gets the name's tag, unless `by_digest`."""
        ...

    async def save(self, artifact: str, archive: Archive, target: int) -> None:
        """Write an archive to a pipe."""
        ...

    async def fetch_manifest(self, name: str, credentials: Credentials | None) -> tuple[str, bytes]:
        """The media type and the bytes of what a name means at its registry."""
        ...

    async def fetch(
        self, artifact: str, name: str, blobs: Sequence[Blob], credentials: Credentials | None, report: Report
    ) -> None:
        """Download blobs of a repository."""
        ...

    async def prefix(self, diff_ids: Sequence[str]) -> Prefix:
        """The longest part of a chain of layers, from the lowest up, that images here have. Kept until it is released."""
        ...

    async def unpack_layer(self, artifact: str, parent: str, blob: LayerBlob) -> str:
        """Make a committed snapshot of a layer on another one. Returns its key."""
        ...

    async def drop(self, artifact: str) -> None: ...
