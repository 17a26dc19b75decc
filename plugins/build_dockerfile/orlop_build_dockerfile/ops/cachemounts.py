"""Cache mounts: directories that stay after the end of a build. They have an id, and the sharing mode shared, private or
locked.

They are records of the cache, of type exec.cachemount. Mounted directories have a lease, so that prune keeps them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import trio

from orlop_build_dockerfile.cache.records import Lease, Record
from orlop_build_dockerfile.dockerfile.goformat import quote
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.solver.values import Value, join_key
from orlop_sdk.files import copy_tree

from . import paths

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["cache_mount"]


@contextlib.asynccontextmanager
async def cache_mount(job: SolverJob, mount: ops_pb2.Mount, source: Value | None, command: str) -> AsyncIterator[str]:
    """The directory of a cache mount, in use until the end of the block. A new directory is a copy of `source`, whose key is
    a part of the directory's name. `command` is the command of the step, for the description."""
    options = mount.cacheOpt
    base = await source.key() if source is not None else ""
    key = join_key("cachemount", options.ID or mount.dest, base, mount.selector if base else "")
    lease = Lease()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(lease.end)
        if options.sharing == ops_pb2.LOCKED:
            await stack.enter_async_context(_locked(job, key))
        record = await _find(job, key, mount, source, _description(mount, command), lease)
        job.core.records.use(record, lease)
        yield os.path.join(record.path, "tree")


@contextlib.asynccontextmanager
async def _locked(job: SolverJob, key: str) -> AsyncIterator[None]:
    locks = job.core.cache_mounts
    lock = locks.setdefault(key, trio.Lock())
    try:
        async with lock:
            yield
    finally:
        if not lock.locked() and locks.get(key) is lock:
            del locks[key]


async def _find(
    job: SolverJob, key: str, mount: ops_pb2.Mount, source: Value | None, description: str, lease: Lease
) -> Record:
    records, sharing = job.core.records, mount.cacheOpt.sharing
    number = 0
    while (record := records.find(f"{key}:{number}")) is not None:
        if sharing != ops_pb2.PRIVATE or not record.leases:
            return record
        number += 1
    name = f"{key}:{number}"
    if sharing == ops_pb2.PRIVATE:
        return await _make(job, name, mount, source, description, lease)
    made: Record = await job.core.steps.run(
        ("cachemount", name), lambda: _make(job, name, mount, source, description, lease)
    )
    return made


async def _make(
    job: SolverJob, name: str, mount: ops_pb2.Mount, source: Value | None, description: str, lease: Lease
) -> Record:
    path = os.path.join(job.core.directory, "cachemounts", secrets.token_hex(12))
    tree = os.path.join(path, "tree")
    await job.core.file_work(lambda: os.makedirs(tree, 0o755))
    os.chmod(os.path.dirname(path), 0o700)
    if source is not None:
        async with source.view() as root:
            await job.core.file_work(lambda: _fill(root, mount.selector, tree))
    return await job.core.records.add(name, {}, lease, kind="exec.cachemount", description=description, path=path)


def _fill(root: int, selector: str, tree: str) -> None:
    with (
        paths.opened(paths.open_directory(root, selector or "/")) as source,
        paths.opened(os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as target,
    ):
        copy_tree(source, target)


def _description(mount: ops_pb2.Mount, command: str) -> str:
    """The description in `docker buildx du`, the same as BuildKit's."""
    text = f"cached mount {mount.dest} from exec {command}"[:500]
    return f"{text} with id {quote(mount.cacheOpt.ID[:200])}" if mount.cacheOpt.ID else text
