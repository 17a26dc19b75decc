"""Contexts that are sent as the body of a request: each is unpacked from the connection, or stored."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from test_solver import Engine, engine, trio_test

from orlop_build_dockerfile.classic.session import RequestSession
from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.dockerfile import llb as frontend
from orlop_build_dockerfile.dockerfile import sources
from orlop_build_dockerfile.dockerfile.context import _copied
from orlop_build_dockerfile.ops.local import Directory
from orlop_build_dockerfile.ops.upload import Upload
from orlop_build_dockerfile.solver.job import SolverJob
from orlop_build_dockerfile.testing import FakeBuild

__all__ = ["engine"]  # a fixture

LARGE = os.urandom(3 << 20)


def archive(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1_700_000_000
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


@asynccontextmanager
async def uploading(body: bytes) -> AsyncIterator[tuple[FakeBuild, dict[str, Any]]]:
    """A build whose client sends the body. The second item contains "sent" when the whole body has been read."""
    ours, theirs = socket.socketpair()
    streams = [trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in (ours, theirs)]
    found: dict[str, Any] = {}

    async def send() -> None:
        await streams[0].send_all(body)
        await streams[0].send_eof()
        found["sent"] = True

    async with streams[0], streams[1], trio.open_nursery() as nursery:
        nursery.start_soon(send)
        session = RequestSession("s", streams[1], {})
        await session.check_archive()
        yield FakeBuild(session), found
        nursery.cancel_scope.cancel()


def context(*, unpacked: bool = True) -> Any:
    output = sources.http("http://buildkit-session/context", "context", "load")
    return frontend.definition(_copied(output, "/context", contents=False) if unpacked else output)


def unpack_directories(engine: Engine) -> list[str]:
    return [name for name in os.listdir(engine.root / "build") if name.startswith("unpack-")]


@trio_test
async def test_long_archive_is_unpacked_from_the_connection(engine: Engine) -> None:
    body = archive({"Dockerfile": b"FROM x", "d/big": LARGE})
    async with engine.solver() as solver, uploading(body) as (build, found), solver.open(build) as job:
        assert isinstance(job, SolverJob)
        packed = job.define(context(unpacked=False))
        assert await job.read_file(packed, "context", length=512) == body[:512]
        ref = job.define(context())
        assert await job.read_file(ref, "Dockerfile") == b"FROM x"
        assert await job.read_file(ref, "d/big") == LARGE and found["sent"]
        assert isinstance(await job.value(ref), Directory)
        assert await engine.backend.snapshots() == [], "nothing is copied into a snapshot"
        assert len(unpack_directories(engine)) == 1
        with pytest.raises(BuildFailed, match="has been unpacked, and is not kept"):
            await job.read_file(packed, "context")
    assert unpack_directories(engine) == []
    assert engine.backend.blobs == {}


@trio_test
async def test_unpacked_upload_becomes_a_snapshot_if_the_upload_is_the_result(engine: Engine) -> None:
    async with engine.solver() as solver, uploading(archive({"big": LARGE})) as (build, _), solver.open(build) as job:
        assert isinstance(job, SolverJob)
        snapshot = await job.snapshot(job.define(context()))
        async with job.core.views.read(snapshot) as root:
            assert os.listdir(root) == ["big"]


@pytest.mark.parametrize("body", [archive({"f": b"short"}), archive({"f": LARGE}, "w:gz")], ids=["short", "compressed"])
def test_short_and_compressed_archives_are_found_in_the_cache_by_their_content(engine: Engine, body: bytes) -> None:
    async def main() -> None:
        async with engine.solver() as solver:
            seen = []
            for _ in range(2):
                async with uploading(body) as (build, _), solver.open(build) as job:
                    ref = job.define(context())
                    assert len(await job.read_file(ref, "f")) in (5, len(LARGE))
                seen.append((await engine.backend.snapshots(), len(solver.core.records._keys)))
            assert seen[0] == seen[1], "neither snapshots nor keys are added"

    trio.run(main)


@trio_test
async def test_archive_that_is_not_unpacked_is_stored(engine: Engine) -> None:
    body = archive({"f": LARGE})
    async with engine.solver() as solver, uploading(body) as (build, _), solver.open(build) as job:
        assert await job.read_file(job.define(context(unpacked=False)), "context") == body
        assert await job.read_file(job.define(context()), "f") == LARGE, "now it is unpacked from the snapshot"


@trio_test
async def test_damaged_archive_is_refused_after_the_whole_request_was_read(engine: Engine) -> None:
    """A client may send its whole request before it reads the answer."""
    body = b"other name, so that the checksum is wrong" + archive({"big": LARGE})[41:]
    async with engine.solver() as solver, uploading(body + bytes(8 << 20)) as (build, found):
        async with solver.open(build) as job:
            with pytest.raises(BuildFailed, match="cannot unpack the archive"):
                await job.evaluate(job.define(context()))
        with trio.fail_after(30):
            while "sent" not in found:
                await trio.lowlevel.checkpoint()
    assert unpack_directories(engine) == []


@trio_test
async def test_upload_with_a_wrong_checksum_is_refused(engine: Engine) -> None:
    output = sources.http("http://buildkit-session/context", "context", "load")
    output.vertex.op.source.attrs["http.checksum"] = "sha256:" + "0" * 64
    async with engine.solver() as solver, uploading(archive({"f": LARGE})) as (build, _), solver.open(build) as job:
        with pytest.raises(BuildFailed, match="digest mismatch"):
            await job.evaluate(job.define(frontend.definition(output)))


@trio_test
async def test_two_readers_of_an_upload_share_its_content(engine: Engine) -> None:
    async with engine.solver() as solver, uploading(archive({"f": LARGE})) as (build, _), solver.open(build) as job:
        assert isinstance(job, SolverJob)
        found = []

        async def value(unpacked: bool) -> None:
            found.append(await job.value(job.define(context(unpacked=unpacked))))

        async with trio.open_nursery() as nursery:
            for unpacked in (False, True, True):
                nursery.start_soon(value, unpacked)
        assert {type(each) for each in found} == {Upload, Directory}


@pytest.mark.parametrize("size", [10, 3 << 20], ids=["short", "long"])
def test_upload_of_a_build_request_belongs_to_root_and_other_uploads_keep_their_owners(engine: Engine, size: int) -> None:
    """Files of a build request belong to root. Files that other clients upload have the owners in the archive."""
    body = archive({"f": bytes(size)})

    async def main() -> None:
        async with engine.solver() as solver:
            for owner in ((0, 0), None, (0, 0), None):
                async with uploading(body) as (build, _), solver.open(build) as job:
                    build.session.upload_owner = owner
                    await job.evaluate(job.define(context()))

    trio.run(main)
    expected = [(0, 0), None]
    assert engine.backend.unpacked_for == (expected if size == 10 else expected * 2), "both are in the cache"
