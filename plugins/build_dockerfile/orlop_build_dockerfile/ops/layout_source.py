"""The source oci-layout: images in OCI layouts in directories of the client (`--build-context NAME=oci-layout://DIRECTORY`),
read through the client's content stores.

As with imported caches, a layer is fetched and made a snapshot only if a step needs the layer, and no stored image has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orlop_build_dockerfile.attest.statements import purl
from orlop_build_dockerfile.contracts import Base, Blob, BuildFailed
from orlop_build_dockerfile.dockerfile.platforms import Platform, parse_platform
from orlop_build_dockerfile.remote.chains import snapshot_of
from orlop_build_dockerfile.remote.config import CachedLayer
from orlop_build_dockerfile.remote.imports import StoreSource
from orlop_build_dockerfile.solver.definition import Vertex
from orlop_build_dockerfile.solver.values import Image, Value

from .source import diff_ids, platform_of

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["Layout", "layout_source", "read_layout"]

_DEPTH = 4  # levels of nested indexes
_LAYERS = ("application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar")


class _Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""

    def normalized(self) -> Platform:
        return Platform(self.os, self.architecture, self.variant).normalized()


class _Descriptor(msgspec.Struct):
    digest: str
    size: int
    media_type: str = msgspec.field(name="mediaType", default="")
    platform: _Platform | None = None


class _Document(msgspec.Struct):
    """A manifest or an index."""

    manifests: tuple[_Descriptor, ...] = ()
    config: _Descriptor | None = None
    layers: tuple[_Descriptor, ...] = ()


class Layout(msgspec.Struct, frozen=True):
    """An image without its layers. `base` contains no name and no snapshot."""

    base: Base
    source: StoreSource
    layers: tuple[CachedLayer, ...]


async def read_layout(job: SolverJob, place: str, platform: str) -> Layout:
    """The image at `STORE@DIGEST` for a platform ("" for the host's). Raises `BuildFailed`."""
    store, _, digest = place.partition("@")
    source = StoreSource(job, f"oci:{store}", digest)
    wanted = parse_platform(platform or (job.core.settings.platforms or ("linux/amd64",))[0]).normalized()
    document = _parsed(digest, await source.document(""))
    for _ in range(_DEPTH):
        if document.config is not None:
            break
        found = _chosen(document, wanted)
        if found is None:
            raise BuildFailed(f"no match for platform {wanted} in {digest}", code=5)
        digest = found.digest
        document = _parsed(digest, await source.document(digest))
    if document.config is None:
        raise BuildFailed(f"{digest} is not the manifest of an image", code=3)
    config = await source.small(document.config.digest, document.config.size)
    return Layout(Base("", digest, config), source, _layers(digest, document, diff_ids(config)))


def _parsed(digest: str, data: bytes) -> _Document:
    try:
        return msgspec.json.decode(data, type=_Document)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BuildFailed(f"cannot read manifest {digest[:100]}: {error}", code=3) from None


def _chosen(index: _Document, wanted: Platform) -> _Descriptor | None:
    """The entry for the highest variant that the wanted processor can run, otherwise an entry without a platform."""
    best, found = -1, None
    for each in index.manifests:
        platform = each.platform.normalized() if each.platform else None
        if platform is None:
            variant = 0
        elif (platform.os, platform.architecture) == (wanted.os, wanted.architecture):
            variant = _variant(platform)
        else:
            continue
        if best < variant <= _variant(wanted):
            best, found = variant, each
    return found


def _variant(platform: Platform) -> int:
    """The number of the variant. Processors can run programs for lower variants of their architecture ("linux/arm/v6" on
    v7)."""
    number = platform.variant.removeprefix("v").partition(".")[0]
    return int(number) if number.isascii() and number.isdigit() else {"amd64": 1, "arm64": 8}.get(platform.architecture, 1)


def _layers(digest: str, document: _Document, chain: tuple[str, ...]) -> tuple[CachedLayer, ...]:
    if len(chain) != len(document.layers):
        raise BuildFailed(
            f"manifest {digest} has {len(document.layers)} layers, but its configuration has {len(chain)}", code=3
        )
    for each in document.layers:
        if not each.media_type.startswith(_LAYERS):
            raise BuildFailed(f"layer {each.digest[:100]} has the unknown media type {each.media_type[:100]!r}", code=3)
    layers = zip(document.layers, chain, strict=True)
    return tuple(CachedLayer(Blob(each.media_type, each.digest, each.size), diff_id) for each, diff_id in layers)


async def layout_source(job: SolverJob, vertex: Vertex, name: str) -> Value:
    """The value of an OCI layout. `name` contains the digest; the content store is an attribute of the operation."""
    attributes = vertex.op.source.attrs
    if attributes.get("oci.session", "") not in ("", job.build.session.id):
        raise BuildFailed("OCI layouts of another session are not supported", code=12)
    _, at, digest = name.rpartition("@")
    if not at or not attributes.get("oci.store"):
        raise BuildFailed(f"oci-layout source {name[:200]!r} has no digest or no store", code=3)
    platform, place = platform_of(vertex), f"{attributes['oci.store']}@{digest}"
    async with job.build.progress.vertex(vertex.digest, vertex.name, ()) as shown:
        layout = await job.layout(place, platform)
        shown.cached = True
    job.materials[vertex.digest] = (purl(name, platform, "oci"), digest)

    async def pull() -> Base:
        return await job.base(("layout", place, platform), unpack)

    async def unpack() -> Base:
        if not layout.layers:
            return layout.base
        async with job.build.progress.vertex(vertex.digest, vertex.name, ()) as shown:
            snapshot, _ = await snapshot_of(job, layout.source, layout.layers, vertex.name, shown)
        return msgspec.structs.replace(layout.base, snapshot=snapshot)

    return Image(job.core, layout.base, platform, pull)
