"""Sources: images, OCI layouts and directories of the client, files by HTTP, git repositories."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec

from orlop_build_dockerfile.contracts import Base, BuildFailed
from orlop_build_dockerfile.contracts import Vertex as Shown
from orlop_build_dockerfile.solver.definition import Vertex
from orlop_build_dockerfile.solver.values import Image, Value, registry_of

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["diff_ids", "platform_of", "source"]


async def source(job: SolverJob, vertex: Vertex, inputs: list[Value]) -> Mapping[int, Value]:
    scheme, mark, rest = vertex.op.source.identifier.partition("://")
    if not mark:
        raise BuildFailed(f"invalid source {vertex.op.source.identifier!r}", code=3)
    if scheme == "docker-image":
        return {0: await _image(job, vertex, rest)}
    if scheme == "local":
        from .local import local

        return {0: await local(job, vertex, rest)}
    if scheme in ("http", "https"):
        from .http_source import http_source

        return {0: await http_source(job, vertex)}
    if scheme == "git":
        from .git_source import git_source

        return {0: await git_source(job, vertex, rest)}
    if scheme == "oci-layout":
        from .layout_source import layout_source

        return {0: await layout_source(job, vertex, rest)}
    raise BuildFailed(f"sources of the kind {scheme} are not supported", code=12)


_MODES = {"default": "default", "local": "default", "pull": "pull", "forcepull": "pull"}


def platform_of(vertex: Vertex) -> str:
    """The platform, such as "linux/arm64"; "" for the host's."""
    platform = vertex.op.platform
    return "/".join(part for part in (platform.OS, platform.Architecture, platform.Variant) if part)


async def _image(job: SolverJob, vertex: Vertex, name: str) -> Value:
    mode = _MODES.get(vertex.op.source.attrs.get("image.resolvemode", "default"), "default")
    platform = platform_of(vertex)
    progress = job.build.progress
    async with progress.vertex(vertex.digest, vertex.name, ()) as shown:
        shown.status(f"resolve {name}", name="resolving")
        base = await job.resolve(name, platform, mode)
        shown.status(f"resolve {name}", name="resolving", done=True)
        shown.cached = True

    async def pull() -> Base:
        found = await _pull(job, vertex, name, platform)
        job.hold(found.digest)
        job.core.records.base_layers[found.snapshot] = diff_ids(found.config)
        return found

    image = Image(job.core, base, platform, lambda: job.base((name, platform, base.digest), pull))
    job.images.append(image)
    return image


async def _pull(job: SolverJob, vertex: Vertex, name: str, platform: str) -> Base:
    """Make sure that the layers are stored. The vertex is shown again if layers must be downloaded."""
    credentials = await job.build.session.credentials(registry_of(name))
    async with AsyncExitStack() as stack:
        items = await stack.enter_async_context(job.core.backend.base(name, platform, pull=False, credentials=credentials))
        shown: Shown | None = None
        found: Base | None = None
        async for item in items:
            if isinstance(item, Base):
                found = item
                continue
            if shown is None:
                shown = await stack.enter_async_context(job.build.progress.vertex(vertex.digest, vertex.name, ()))
            done = item.what == "done"
            shown.status(item.layer, name=item.what, current=item.current, total=item.total, done=done)
    if found is None:
        raise BuildFailed(f"cannot use image {name}: the daemon did not answer")
    return found


class _RootFS(msgspec.Struct):
    diff_ids: tuple[str, ...] = ()


class _Config(msgspec.Struct):
    rootfs: _RootFS = msgspec.field(default_factory=_RootFS)


def diff_ids(config: bytes) -> tuple[str, ...]:
    """The diffIDs of an image's configuration, lowest first."""
    try:
        return msgspec.json.decode(config, type=_Config).rootfs.diff_ids
    except msgspec.DecodeError as error:
        raise BuildFailed(f"cannot read the configuration of an image: {error}") from None
