"""The exporters "local" and "tar": the files of a result, sent to the client."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

import trio

from orlop_build_dockerfile.contracts import Export, Result
from orlop_build_dockerfile.solver.values import join_key

from .tarball import pack_directory

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["export_files"]

_CHUNK = 1 << 20


async def export_files(job: SolverJob, result: Result, export: Export) -> Mapping[str, str]:
    digest = "sha256:" + join_key("exporter", job.id, str(export.number), export.kind)
    name = "exporting to client directory" if export.kind == "local" else "exporting to client tarball"
    for ref in result.refs.values():
        await job.evaluate(ref)
    async with job.build.progress.vertex(digest, name, ()) as shown:
        what = "copying files" if export.kind == "local" else "sending tarball"
        split = len(result.refs) > 1 or export.attributes.get("platform-split") == "true"
        for platform, ref in result.refs.items():
            label = f"{what} {platform}".strip()
            shown.status(label, name=label)
            async with (await job.value(ref)).view() as root:
                prefix = re.sub(r"[^A-Za-z0-9_.-]", "_", platform) if split and platform else ""
                if export.kind == "local":
                    await job.build.session.send_directory(str(export.number), root)
                else:
                    await _send_tar(job, root, prefix, export)
            shown.status(label, name=label, done=True)
    return {}


async def _send_tar(job: SolverJob, root: int, prefix: str, export: Export) -> None:
    read, write = os.pipe2(os.O_CLOEXEC)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, pack_directory, root, write, prefix)
        async with trio.lowlevel.FdStream(read) as reader:
            await job.build.session.send_archive(str(export.number), _chunks(reader), {})


async def _chunks(reader: trio.lowlevel.FdStream) -> AsyncIterator[bytes]:
    while data := await reader.receive_some(_CHUNK):
        yield bytes(data)
