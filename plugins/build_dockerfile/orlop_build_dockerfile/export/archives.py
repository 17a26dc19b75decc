"""The exporters "docker" and "oci": an image as an archive, or as an OCI layout in a directory of the client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from orlop_build_dockerfile.contracts import Archive, BuildFailed, Export, Result
from orlop_build_dockerfile.dockerfile.references import parse_reference
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.solver.values import join_key

from .compose import Composed, Composer, artifact, targets
from .config import timestamp
from .documents import root_descriptor
from .image import attested
from .options import read_options
from .pipes import pipe

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["export_archive"]

_CREATED = "org.opencontainers.image.created"
_STORE = "export"


async def export_archive(job: SolverJob, result: Result, export: Export) -> Mapping[str, str]:
    found = targets(job, result)
    options = read_options(export, result.metadata, job.build.options, frozenset(target.platform for target in found))
    docker = export.kind == "docker"
    if docker and "" not in result.refs:
        raise BuildFailed("docker exporter does not currently support exporting manifest lists")
    digest = "sha256:" + join_key("exporter", job.id, str(export.number), export.kind)
    predicates = await attested(job, found, options)
    async with (
        artifact(job) as name,
        job.build.progress.vertex(digest, f"exporting to {export.kind} image format", ()) as shown,
    ):
        index = "" not in result.refs or any(predicates.values())
        if docker and index:
            raise BuildFailed("docker exporter does not currently support exporting manifest lists")
        composed = await Composer(job, shown, result, options).compose(name, found, predicates, index=index)
        annotations = {
            _CREATED: timestamp(int(job.now() if options.epoch is None else options.epoch)),
            **composed.annotations,
        }
        answer = {
            "containerimage.digest": composed.root.digest,
            "containerimage.descriptor": root_descriptor(composed.root, annotations, composed.platform),
        }
        if composed.config:
            answer["containerimage.config.digest"] = composed.config
        names = [str(parse_reference(each).tagged()) for each in options.names]
        if names:
            answer["image.name"] = ",".join(names)
        if options.tar:
            what = "sending tarball"
            shown.status(what, name=what)
            manifest = (composed.config, composed.layers) if docker else None
            archive = Archive(composed.root, composed.blobs, names, annotations, manifest)
            await _send(job, export, name, archive, answer)
        else:
            what = "copying to client directory"
            shown.status(what, name=what)
            await _copy(job, name, composed)
        shown.status(what, name=what, done=True)
    return answer


async def _send(job: SolverJob, export: Export, name: str, archive: Archive, answer: Mapping[str, str]) -> None:
    async with pipe() as (reader, writer), nursery() as tasks, reader:

        async def save() -> None:
            try:
                await job.core.backend.save(name, archive, writer.fileno())
            finally:
                writer.close()

        tasks.start_soon(save)
        await job.build.session.send_archive(str(export.number), reader.chunks(), answer)


async def _copy(job: SolverJob, name: str, composed: Composed) -> None:
    """Copy the blobs to a content store of the client. The client writes `index.json`."""
    for blob in (*composed.blobs, composed.root):
        await send_blob(job, name, _STORE, blob.digest, blob.size)


async def send_blob(job: SolverJob, name: str, store: str, digest: str, size: int) -> None:
    """Send a blob of an artifact to a content store of the client, unless the store has it."""
    async with pipe() as (reader, writer), nursery() as tasks, reader:

        async def read() -> None:
            try:
                await job.core.backend.read(name, digest, writer.fileno())
            finally:
                writer.close()

        if await job.build.session.has_content(store, digest):
            return
        tasks.start_soon(read)
        await job.build.session.write_content(store, digest, size, reader.chunks())
