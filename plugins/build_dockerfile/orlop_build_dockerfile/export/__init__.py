"""Exports the result of a build in the form that the client requests.

image.py       images in the daemon, or at a registry
archives.py    an image as a file of the client ("docker", "oci")
compose.py     makes the documents of images
documents.py   the form of these documents
options.py     the attributes of exporters
config.py      the configuration of an image, with its layers and history
files.py       files sent to the client, as a directory or a tar
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from orlop_build_dockerfile.contracts import BuildFailed, Export, Result

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["KINDS", "run_export"]

KINDS = ("moby", "image", "docker", "oci", "local", "tar")


async def run_export(job: SolverJob, result: Result, export: Export) -> Mapping[str, str]:
    if export.kind in ("moby", "image"):
        from .image import export_image

        return await export_image(job, result, export)
    if export.kind in ("docker", "oci"):
        from .archives import export_archive

        return await export_archive(job, result, export)
    if export.kind in ("local", "tar"):
        from .files import export_files

        return await export_files(job, result, export)
    raise BuildFailed(f"exporter {export.kind!r} could not be found", code=5)
