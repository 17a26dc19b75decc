"""Unit tests of the content store, archives, progress and shared work, on a temporary directory."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orlop_engine.images import archive_file, documents
from orlop_engine.images import content as content_module
from orlop_engine.images.archive_file import Archive
from orlop_engine.images.archive_receive import receive
from orlop_engine.images.content import ContentStore, DigestMismatch
from orlop_engine.images.progress import Progress, Record, Report, amount, message, state
from orlop_engine.images.shared import SharedWork
from orlop_engine.testing import decompress_here
from orlop_sdk import DriverError, InvalidParameter, NotFound
from orlop_sdk.testing.durability import no_descriptors_left, recorded

DATA = b"abc" * 1000
DIGEST = documents.digest(DATA)


def store(path: Path) -> ContentStore:
    content = ContentStore(str(path / "content"))
    content.prepare()
    return content


def test_blob_is_written_read_and_removed(tmp_path: Path) -> None:
    content = store(tmp_path)

    async def main() -> None:
        assert await content.put(DATA) == DIGEST
        assert await content.put(DATA) == DIGEST

    trio.run(main)
    assert content.has(DIGEST) and content.size(DIGEST) == 3000 and content.digests() == [DIGEST]
    assert content.read(DIGEST, 4000) == DATA
    layout = json.loads((tmp_path / "content" / "oci-layout").read_text())
    assert layout == {"imageLayoutVersion": "1.0.0"}
    assert not content.partials() and os.listdir(content.partial) == []
    content.remove(DIGEST)
    content.remove(DIGEST)
    assert not content.has(DIGEST) and content.size(DIGEST) == 0
    with pytest.raises(NotFound):
        content.open(DIGEST)


def test_damaged_blob_is_detected(tmp_path: Path) -> None:
    content = store(tmp_path)
    trio.run(content.put, DATA)
    Path(content.path(DIGEST)).write_bytes(b"x" * 3000)
    with pytest.raises(DriverError, match="its content is damaged"):
        content.read(DIGEST, 4000)


def test_interrupted_ingest_is_continued(tmp_path: Path) -> None:
    content = store(tmp_path)

    async def main() -> None:
        first = await content.ingest(DIGEST)
        await first.write(DATA[:1000])
        first.keep()
        assert content.partials() == [DIGEST]
        content.prepare()  # as when the daemon starts
        second = await content.ingest(DIGEST)
        assert (second.offset, second.resumed) == (1000, True)
        await second.write(DATA[1000:])
        assert await second.commit() == DIGEST
        second.abandon()

    trio.run(main)
    assert content.read(DIGEST, 4000) == DATA and not content.partials()


def test_blob_with_wrong_bytes_is_not_published(tmp_path: Path) -> None:
    content = store(tmp_path)

    async def main() -> None:
        ingest = await content.ingest(DIGEST)
        await ingest.write(b"x" * 10)
        with pytest.raises(DigestMismatch) as caught:
            await ingest.commit()
        assert not caught.value.resumed
        await ingest.restart()
        await ingest.write(DATA)
        assert await ingest.commit() == DIGEST
        nothing = await content.ingest("sha256:" + "0" * 64)
        nothing.keep()

    trio.run(main)
    assert content.digests() == [DIGEST] and not content.partials()


def test_daemon_start_keeps_partial_blobs_and_removes_other_temporary_files(tmp_path: Path) -> None:
    content = store(tmp_path)
    for name in ("tmp-1", "a" * 64):
        (tmp_path / "content" / "ingest" / name).write_bytes(b"12345")
    content.prepare()
    assert content.partials() == ["sha256:" + "a" * 64]
    assert content.remove_partials(content.partials()) == 5


def test_blob_is_synced_before_it_is_renamed(tmp_path: Path) -> None:
    content = store(tmp_path)
    with no_descriptors_left(), recorded() as steps:
        trio.run(content.put, DATA)
    (_, partial), *rest = steps
    assert os.path.dirname(partial) == content.partial
    assert rest == [("rename", content.path(DIGEST)), ("sync", content.blobs)]


def test_damaged_blob_does_not_come_back_after_a_power_failure(tmp_path: Path) -> None:
    content = store(tmp_path)
    trio.run(content.put, DATA)
    with no_descriptors_left(), recorded() as steps:
        content.quarantine(DIGEST)
        content.quarantine(DIGEST)  # the blob does not exist any more
    quarantined = os.path.join(content.root, "quarantine", DIGEST.removeprefix("sha256:"))
    assert steps == [("rename", quarantined), ("sync", content.blobs)]


@pytest.mark.parametrize("end", ["abandon", "keep", "commit"])
def test_ended_ingest_can_be_ended_again_and_keeps_no_descriptor_open(tmp_path: Path, end: str) -> None:
    content = store(tmp_path)

    async def main() -> None:
        ingest = await content.ingest(DIGEST)
        await ingest.write(DATA)
        if end == "commit":
            await ingest.commit()
        else:
            getattr(ingest, end)()
        ingest.abandon()
        ingest.keep()

    with no_descriptors_left():
        trio.run(main)
    assert (content.has(DIGEST), content.partials()) == (end == "commit", [DIGEST] if end == "keep" else [])


def test_failed_ingest_leaves_no_file_and_no_open_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = store(tmp_path)

    def full(path: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(content_module, "_sync_directory", full)
    monkeypatch.setattr(content_module.Ingest, "_store_bytes", lambda self, data: full(""))
    with no_descriptors_left(), pytest.raises(OSError, match="No space left"):
        trio.run(content.put, DATA)
    assert os.listdir(content.partial) == []


def test_written_bytes_are_stored_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = store(tmp_path)
    monkeypatch.setattr(content_module, "_BATCH", 100)
    written: list[int] = []
    keep = content_module.Ingest._store_bytes
    monkeypatch.setattr(
        content_module.Ingest, "_store_bytes", lambda self, data: (written.append(len(data)), keep(self, data))
    )

    async def main() -> None:
        ingest = await content.ingest(None)
        for piece in (b"a" * 60, b"b" * 40, b"c" * 99):
            await ingest.write(piece)
        assert written == [100]
        await ingest.commit()

    trio.run(main)
    assert written == [100, 99]


def test_restarted_ingest_discards_earlier_bytes(tmp_path: Path) -> None:
    content = store(tmp_path)

    async def main() -> None:
        first = await content.ingest(DIGEST)
        await first.write(b"wrong" * 1000)
        first.keep()
        again = await content.ingest(DIGEST)
        assert again.resumed
        await again.restart()
        await again.write(DATA)
        await again.commit()

    trio.run(main)
    assert content.read(DIGEST, 3000) == DATA
    with pytest.raises(DriverError, match="damaged"):
        content.read(DIGEST, 2999)


def test_unknown_files_in_the_content_store_are_not_listed(tmp_path: Path) -> None:
    content = store(tmp_path)
    for directory in (content.blobs, content.partial):
        (Path(directory) / "README").touch()
    assert (content.digests(), content.partials()) == ([], [])


def test_digest_mismatch_is_reported_in_dockers_words(tmp_path: Path) -> None:
    assert str(DigestMismatch(DIGEST, "sha256:0", resumed=False)) == (
        f"filesystem layer verification failed for digest {DIGEST}"
    )


# --- archives ---------------------------------------------------------------------------------------------------------


def tar(*members: tuple[str, bytes, bytes | str]) -> bytes:
    """(name, type, content or link target)"""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, value in members:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            if isinstance(value, str):
                entry.linkname = value
            else:
                entry.size = len(value)
            archive.addfile(entry, io.BytesIO(value) if isinstance(value, bytes) else None)
    return out.getvalue()


async def bytewise(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]
        await trio.lowlevel.checkpoint()


def opened(path: Path, data: bytes) -> Archive:
    content = store(path)

    async def main() -> Archive:
        return await receive(content, None, bytewise(data), decompress_here)

    archive = trio.run(main)
    assert os.listdir(content.partial) == [], "the spool has no name"
    return archive


REG, SYM, HARD, DIR = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
SAMPLE = tar(
    ("a/file", REG, b"content"),
    ("./dotted", REG, b"d"),
    ("b", SYM, "a"),
    ("c", SYM, "b/file"),
    ("d/up", SYM, "../../../../a/file"),
    ("hard", HARD, "a/file"),
    ("loop1", SYM, "loop2"),
    ("loop2", SYM, "loop1"),
    ("outside", SYM, "/etc/passwd"),
    ("dir", DIR, b""),
)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_archive_members_are_found_through_links(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    archive = opened(tmp_path, compress(SAMPLE))
    try:
        for name in ("a/file", "/a/file", "./a//file", "b/file", "c", "d/up", "hard", "../a/file"):
            assert archive.read(name, 100) == b"content", name
        assert archive.read("dotted", 100) == b"d"
        for name in ("loop1", "outside", "dir", "nope", "", "/"):
            assert archive.find(name) is None, name
        with pytest.raises(InvalidParameter, match="it has no file"):
            archive.need("outside")
        with pytest.raises(InvalidParameter, match="larger than 3 bytes"):
            archive.read("a/file", 3)
        assert archive.need("c").digest == documents.digest(b"content")
    finally:
        archive.close()


def test_file_of_a_large_archive_member_becomes_the_blob_by_a_rename(tmp_path: Path) -> None:
    content, large = store(tmp_path), bytes(70_000) + os.urandom(200_000) + bytes(70_000)

    async def main() -> None:
        data = tar(("l", REG, b"x" * 100_000), ("l", REG, large), ("m", SYM, "l"), ("unused", REG, large[::-1]))
        archive = await receive(content, None, bytewise(data, 9999), decompress_here)
        assert len(os.listdir(content.partial)) == 2, "one that was replaced is removed"
        member = archive.need("m")
        assert (member.size, member.digest) == (len(large), documents.digest(large))
        for _ in range(2):
            await trio.to_thread.run_sync(archive.publish, member)
        archive.close()

    with no_descriptors_left(), recorded() as steps:
        trio.run(main)
    digest = documents.digest(large)
    (_, partial), *rest = steps
    assert os.path.dirname(partial) == content.partial
    assert rest == [("rename", content.path(digest)), ("sync", content.blobs)], "durable before it has its name, and once"
    assert content.digests() == [digest] and content.read(digest, 1 << 20) == large
    assert os.listdir(content.partial) == []


def test_archive_member_limit_also_applies_to_members_with_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_file, "_MAX_MEMBERS", 10)
    members = [("same", DIR, b"")] * 10
    opened(tmp_path, tar(*members)).close()
    with pytest.raises(InvalidParameter, match="more than 10 members"):
        opened(tmp_path, tar(*members, ("same", DIR, b"")))


@pytest.mark.parametrize("data", [b"no tar at all" * 100, SAMPLE[:700], gzip.compress(SAMPLE)[:-20], b"\x1f\x8bjunk"])
def test_invalid_archives_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidParameter):
        opened(tmp_path, data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.integers(0, len(SAMPLE) - 1), st.binary(min_size=1, max_size=40))
def test_damaged_archive_is_either_read_or_refused(tmp_path: Path, at: int, noise: bytes) -> None:
    try:
        archive = opened(tmp_path, SAMPLE[:at] + noise + SAMPLE[at + len(noise) :])
    except InvalidParameter:
        return
    archive.find("c")
    archive.close()


# --- progress and shared work -----------------------------------------------------------------------------------------


def records(run: Callable[[Report], Awaitable[None]]) -> list[bytes]:
    async def main() -> list[bytes]:
        async with trio.open_nursery() as nursery:
            progress = Progress(nursery, run)
            await progress.started()
            return [line for piece in [piece async for piece in progress] for line in piece.split(b"\r\n") if line]

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_progress_records_are_encoded_like_dockers() -> None:
    async def run(report: Report) -> None:
        report(message("Pulling from a", "x"))
        report(state("i", "Waiting"))
        await trio.sleep(1)
        report(amount("i", "Downloading", 5, 10))
        await trio.sleep(1)
        report(Record(stream="Loaded\n"))
        raise DriverError("no")

    assert records(run) == [
        b'{"status":"Pulling from a","id":"x"}',
        b'{"status":"Waiting","progressDetail":{},"id":"i"}',
        b'{"status":"Downloading","progressDetail":{"current":5,"total":10},"id":"i"}',
        b'{"stream":"Loaded\\n"}',
        b'{"errorDetail":{"message":"no"},"error":"no"}',
    ]


def test_progress_records_of_bytes_are_throttled_but_state_changes_are_not() -> None:
    async def run(report: Report) -> None:
        for number in range(1, 1001):
            report(amount("i", "Downloading", number, 1000))
            report(amount("j", "Downloading", number, 1000))
            await trio.sleep(0.001)
        report(state("i", "Download complete"))

    found = [json.loads(line) for line in records(run)]
    assert found[-1]["status"] == "Download complete"
    assert 15 <= len(found) <= 30
    counts = [record["progressDetail"]["current"] for record in found if record["id"] == "j"]
    assert counts == sorted(counts)


def test_error_before_the_first_progress_record_is_raised() -> None:
    async def run(report: Report) -> None:
        raise NotFound("no such")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            progress = Progress(nursery, run)
            with pytest.raises(NotFound, match="no such"):
                await progress.started()
            with pytest.raises(NotFound, match="no such"):
                await progress.finished()

    trio.run(main)


def test_operation_is_cancelled_when_its_progress_stream_is_closed() -> None:
    ended = []

    async def run(report: Report) -> None:
        report(message("x"))
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            progress = Progress(nursery, run)
            async for _ in progress:
                break
            await progress.aclose()

    trio.run(main)
    assert ended == [True]


def shared(test: Callable[[SharedWork[int]], Awaitable[None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await test(SharedWork(nursery))

    trio.run(main)


def quiet(_: Record) -> None: ...


def test_concurrent_requests_for_the_same_work_run_the_work_once() -> None:
    async def check(work: SharedWork[int]) -> None:
        runs: list[int] = []
        results: list[int] = []
        heard: list[Record] = []
        gate = trio.Event()

        async def job(report: Report) -> int:
            runs.append(1)
            report(message("begun"))
            await gate.wait()
            return 7

        async def ask() -> None:
            results.append(await work.run("k", job, heard.append))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        assert (runs, results, len(heard)) == ([1], [7] * 4, 4)

    shared(check)


def test_shared_work_is_cancelled_when_its_last_waiter_leaves() -> None:
    async def check(work: SharedWork[int]) -> None:
        states: list[str] = []

        async def job(report: Report) -> int:
            states.append("begun")
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                states.append("ended")
            return 0

        async def second(report: Report) -> int:
            states.append("anew")
            return 1

        with trio.CancelScope() as one, trio.CancelScope():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work.run, "k", job, quiet)
                await trio.testing.wait_all_tasks_blocked()
                one.cancel()
        assert states == ["begun", "ended"], "the last asker leaves when the work has ended, to collect what it stored"
        assert await work.run("k", second, quiet) == 1
        assert states == ["begun", "ended", "anew"], "never two at once"

    shared(check)


def test_failure_of_shared_work_is_raised_only_in_the_task_that_began_the_work() -> None:
    async def check(work: SharedWork[int]) -> None:
        gate = trio.Event()
        results: list[object] = []

        async def bad(report: Report) -> int:
            await gate.wait()
            raise DriverError("mine")

        async def good(report: Report) -> int:
            return 5

        async def ask(job: Callable[[Report], Awaitable[int]]) -> None:
            try:
                results.append(await work.run("k", job, quiet))
            except DriverError as error:
                results.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, bad)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, good)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        assert sorted(map(str, results)) == ["5", "mine"]

    shared(check)
