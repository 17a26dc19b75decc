"""The exporters "local" and "tar": the files of results, sent to the client, with files of statements about them."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import trio

from orlop_build_dockerfile.attest.statements import SLSA, Predicate, statement
from orlop_build_dockerfile.contracts import BuildFailed, Export, Result
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.ops import paths
from orlop_build_dockerfile.solver.values import join_key

from .compose import Target, targets
from .image import attested
from .options import ImageOptions, read_epoch, read_flag
from .pipes import pipe
from .tarball import pack_directories

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["export_files"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


async def export_files(job: SolverJob, result: Result, export: Export) -> Mapping[str, str]:
    found = targets(job, result)
    said = await attested(job, found, ImageOptions())
    epoch = read_epoch(export.attributes, job.build.options)
    split = "" not in result.refs and read_flag(export.attributes, "platform-split", True)
    digest = "sha256:" + join_key("exporter", job.id, str(export.number), export.kind)
    name = "exporting to client directory" if export.kind == "local" else "exporting to client tarball"
    async with job.build.progress.vertex(digest, name, ()) as shown, AsyncExitStack() as stack:
        views: list[tuple[Target, int, str]] = []
        for target in found:
            files = _Statements(job, target, said.get(target.key, ()), export.attributes, split=split)
            below = re.sub(r"[^A-Za-z0-9_.-]", "_", target.key) if split else ""
            views.append((target, await stack.enter_async_context(files.view()), below))
        if not split:
            await trio.to_thread.run_sync(_check_names, [(target.key, root) for target, root, _ in views])
        if export.kind == "local":
            for target, root, below in views:
                label = f"copying files {target.key}".strip()
                shown.status(label, name=label)
                await job.build.session.send_directory(str(export.number), root, below=below, time=epoch)
                shown.status(label, name=label, done=True)
        else:
            shown.status("sending tarball", name="sending tarball")
            await _send_tar(job, [(root, below) for _, root, below in views], epoch, export)
            shown.status("sending tarball", name="sending tarball", done=True)
    return {}


async def _send_tar(job: SolverJob, roots: Sequence[tuple[int, str]], time: int | None, export: Export) -> None:
    async with pipe() as (reader, writer), nursery() as tasks, reader:

        async def pack() -> None:
            try:
                await trio.to_thread.run_sync(pack_directories, roots, writer.fileno(), time)
            finally:
                writer.close()

        tasks.start_soon(pack)
        await job.build.session.send_archive(str(export.number), reader.chunks(), {})


class _Statements:
    """The files of a result, and files with statements about them."""

    def __init__(
        self,
        job: SolverJob,
        target: Target,
        predicates: Sequence[Predicate],
        attributes: Mapping[str, str],
        *,
        split: bool,
    ) -> None:
        self._job, self._target, self._predicates, self._split = job, target, predicates, split
        self._prefix = attributes.get("attestation-prefix", "")

    @asynccontextmanager
    async def view(self) -> AsyncIterator[int]:
        value = await self._job.value(self._target.ref)
        if not self._predicates:
            async with value.view() as root:
                yield root
            return
        core = self._job.core
        async with core.active(await value.snapshot()) as active, core.views.write(active.key) as root:
            await core.file_work(lambda: self._write(root))
            yield root

    def _write(self, root: int) -> None:
        """Write the files. Call it on a thread."""
        subjects = list(_digests(root, ""))
        for predicate in self._predicates:
            name = self._prefix + ("provenance.json" if predicate.type == SLSA else "sbom.spdx.json")
            if not self._split and self._target.key:
                stem, dot, kind = name.rpartition(".")
                name = f"{stem}.{self._target.key.replace('/', '_')}{dot}{kind}"
            if "/" in name or name in os.listdir(root):
                raise BuildFailed(f"duplicate attestation path name {name}")
            data = msgspec.json.format(statement(predicate, subjects), indent=2)
            with open(
                name, "xb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o600, dir_fd=root)
            ) as file:
                file.write(data)


def _digests(directory: int, path: str) -> list[tuple[str, str]]:
    """The regular files below a directory, and their digests."""
    found: list[tuple[str, str]] = []
    for name in sorted(os.listdir(directory), key=os.fsencode):
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            with paths.opened(os.open(name, _DIRECTORY, dir_fd=directory)) as inner:
                found += _digests(inner, f"{path}{name}/")
        elif stat.S_ISREG(info.st_mode):
            with open(os.open(name, _READ, dir_fd=directory), "rb") as file:
                shown = (path + name).encode("utf-8", "replace").decode()
                found.append((shown, "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()))
    return found


def _check_names(roots: Sequence[tuple[str, int]]) -> None:
    """Raise `BuildFailed` if results for several platforms go to one directory and have files of the same name."""
    known: dict[str, str] = {}
    for platform, root in roots if len(roots) > 1 else ():
        for path, _ in _digests(root, ""):
            if path in known:
                message = f"cannot overwrite {path} from {known[path]} with {platform} when split option is disabled"
                raise BuildFailed(message)
            known[path] = platform
