"""Sources: images, directories of the client, files by HTTP, git repositories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from orlop_build_dockerfile.contracts import Base, BuildFailed, Download
from orlop_build_dockerfile.contracts import Vertex as Shown
from orlop_build_dockerfile.solver.definition import Vertex
from orlop_build_dockerfile.solver.values import Image, Value

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["source"]


async def source(job: SolverJob, vertex: Vertex, inputs: list[Value]) -> Mapping[int, Value]:
    scheme, mark, rest = vertex.op.source.identifier.partition("://")
    if not mark:
        raise BuildFailed(f"invalid source {vertex.op.source.identifier!r}", code=3)
    if scheme == "docker-image":
        return {0: await _image(job, vertex, rest)}
    if scheme == "local":
        from .local import local

        return {0: await local(job, vertex, rest)}
    raise BuildFailed(f"sources of the kind {scheme} are not supported", code=12)


_MODES = {"default": "default", "local": "default", "pull": "pull", "forcepull": "pull"}


def _platform(vertex: Vertex) -> str:
    platform = vertex.op.platform
    return "/".join(part for part in (platform.OS, platform.Architecture, platform.Variant) if part)


async def _image(job: SolverJob, vertex: Vertex, name: str) -> Value:
    mode = _MODES.get(vertex.op.source.attrs.get("image.resolvemode", "default"), "default")
    platform = _platform(vertex)
    progress = job.build.progress
    async with progress.vertex(vertex.digest, vertex.name, ()) as shown:
        shown.status(f"resolve {name}", name="resolving")
        base = await job.resolve(name, platform, mode)
        shown.status(f"resolve {name}", name="resolving", done=True)
        shown.cached = True

    async def pull() -> Base:
        async with progress.vertex(vertex.digest, vertex.name, ()) as shown:
            return await _pull(job, shown, name, platform)

    image = Image(job.core, base, platform, lambda: job.base(name, platform, base.digest, pull))
    job.images.append(image)
    return image


async def _pull(job: SolverJob, shown: Shown, name: str, platform: str) -> Base:
    credentials = await job.build.session.credentials(name.split("/", 1)[0])
    found: Base | None = None
    downloads = False
    async with job.core.backend.base(name, platform, pull=False, credentials=credentials) as items:
        async for item in items:
            if isinstance(item, Download):
                downloads = True
                done = item.what == "done"
                shown.status(item.layer, name=item.what, current=item.current, total=item.total, done=done)
            else:
                found = item
    if found is None:
        raise BuildFailed(f"cannot use image {name}: the daemon did not answer")
    shown.cached = not downloads
    return found
