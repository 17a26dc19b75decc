"""The history of builds: its records, its readers, and its limits."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from orlop_build_dockerfile.contracts import Build, BuildFailed
from orlop_build_dockerfile.grpc import RpcError
from orlop_build_dockerfile.history import store as store_module
from orlop_build_dockerfile.history.store import COMPLETE, DELETED, STARTED, History
from orlop_build_dockerfile.pb import content_pb2
from orlop_build_dockerfile.pb import control_pb2 as pb

from .test_control import CONTROL, Client, FakeSolver, control_test

CONTENT = "/containerd.services.content.v1.Content/"


class OneStep(FakeSolver):
    """A solver. Each build has a step that prints and a cached step; the build may fail."""

    def __init__(self, fail: str = "", output: bytes = b"hello\n") -> None:
        super().__init__()
        self._fail, self._output = fail, output

    async def work(self, build: Build) -> None:
        async with build.progress.vertex("sha256:1", "a step", ()) as vertex:
            vertex.log(self._output)
            vertex.warn("be careful")
        async with build.progress.vertex("sha256:2", "an old step", ("sha256:1",)) as vertex:
            vertex.cached = True
            if self._fail:
                raise BuildFailed(self._fail, code=3, details=[("github.com/moby/buildkit/errdefs.Source+json", b"{}")])


async def history(client: Client, **request: object) -> list[pb.BuildHistoryEvent]:
    async with client.connection.call(CONTROL + "ListenBuildHistory") as call:
        await call.send(pb.BuildHistoryRequest(EarlyExit=True, **request).SerializeToString())
        call.finish_sending()
        return [pb.BuildHistoryEvent.FromString(raw) for raw in await all_of(call)]


async def all_of(call: object) -> list[bytes]:
    found = []
    while (raw := await call.receive()) is not None:  # type: ignore[attr-defined]
        found.append(raw)
    return found


async def content(client: Client, descriptor: pb.Descriptor) -> bytes:
    info = await client.ask(CONTENT + "Info", content_pb2.InfoRequest(digest=descriptor.digest), content_pb2.InfoResponse)
    assert info.info.size == descriptor.size
    async with client.connection.call(CONTENT + "Read") as call:
        await call.send(content_pb2.ReadContentRequest(digest=descriptor.digest).SerializeToString())
        call.finish_sending()
        return b"".join(content_pb2.ReadContentResponse.FromString(raw).data for raw in await all_of(call))


async def update(client: Client, **request: object) -> None:
    await client.ask(CONTROL + "UpdateBuildHistory", pb.UpdateBuildHistoryRequest(**request), pb.UpdateBuildHistoryResponse)


def solve(tmp_path: Path, solver: FakeSolver, then: Callable[[Client], Awaitable[None]], **request: object) -> None:
    async def test(client: Client) -> None:
        asked = {"Frontend": "dockerfile.v0", "FrontendAttrs": {"target": "x"}, "Ref": "r1", **request}
        try:
            await client.solve(**asked)
        except RpcError:
            pass
        await then(client)

    control_test(test, tmp_path, solver=solver)


def test_history_record_of_a_build_contains_its_steps_and_logs(tmp_path: Path) -> None:
    async def then(client: Client) -> None:
        [event] = await history(client)
        record = event.record
        assert event.type == COMPLETE
        assert (record.Ref, record.Frontend, dict(record.FrontendAttrs)) == ("r1", "dockerfile.v0", {"target": "x"})
        assert [each.Type for each in record.Exporters] == ["moby"]
        assert record.ExporterResponse["containerimage.digest"] == "sha256:1"
        assert (record.numTotalSteps, record.numCompletedSteps, record.numCachedSteps, record.numWarnings) == (2, 2, 1, 1)
        assert not record.error.code
        [attachment] = record.Result.Attestations
        assert attachment.annotations["in-toto.io/predicate-type"] == "https://slsa.dev/provenance/v0.2"
        assert await content(client, attachment) == b'{"of": ""}'
        assert record.CreatedAt.ToNanoseconds() <= record.CompletedAt.ToNanoseconds()
        logs = await content(client, record.logs)
        found = []
        while logs:
            (size,) = struct.unpack_from("<I", logs)
            found.append(pb.StatusResponse.FromString(logs[4 : 4 + size]))
            logs = logs[4 + size :]
        assert b"".join(log.msg for report in found for log in report.logs) == b"hello\n"
        spans = [json.loads(line) for line in (await content(client, record.trace)).splitlines()]
        assert [span["Name"] for span in spans] == ["build", "a step", "an old step"]
        assert {span["Parent"]["SpanID"] for span in spans[1:]} == {spans[0]["SpanContext"]["SpanID"]}

    solve(tmp_path, OneStep(), then, Exporters=[pb.Exporter(Type="moby")])


def test_status_of_an_ended_build_is_read_from_its_record(tmp_path: Path) -> None:
    async def then(client: Client) -> None:
        client.builds._builds.clear()
        reports = await client.status("r1")
        assert b"".join(log.msg for report in reports for log in report.logs) == b"hello\n"

    solve(tmp_path, OneStep(), then)


def test_history_record_of_a_failed_build_contains_the_details_of_the_error(tmp_path: Path) -> None:
    async def then(client: Client) -> None:
        [event] = await history(client)
        assert (event.record.error.code, event.record.error.message) == (3, "it broke")
        assert event.record.error.details
        spans = [json.loads(line) for line in (await content(client, event.record.trace)).splitlines()]
        assert spans[2]["Status"] == {"Code": "Error", "Description": "it broke"}

    solve(tmp_path, OneStep(fail="it broke"), then)


def test_internal_builds_are_not_recorded(tmp_path: Path) -> None:
    async def then(client: Client) -> None:
        assert await history(client) == []

    solve(tmp_path, OneStep(), then, Internal=True)


def test_build_output_beyond_the_limit_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlop_build_dockerfile.history.recorder._MOST_LOG", 1000)

    async def then(client: Client) -> None:
        [event] = await history(client)
        assert event.record.logs.size < 2500
        assert event.record.numTotalSteps == 2

    solve(tmp_path, OneStep(output=b"x" * 100_000), then)


def test_clients_that_listen_to_the_history_are_told_of_the_begin_and_end_of_builds(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        events: list[tuple[int, str]] = []

        async def listen() -> None:
            async with client.connection.call(CONTROL + "ListenBuildHistory") as call:
                await call.send(pb.BuildHistoryRequest(Ref="r2").SerializeToString())
                call.finish_sending()
                started.set()
                while (raw := await call.receive()) is not None:
                    event = pb.BuildHistoryEvent.FromString(raw)
                    events.append((event.type, event.record.Ref))
                    if event.type == DELETED:
                        deleted.set()

        started, deleted = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await started.wait()
            await history(client)  # this call begins after the build
            for ref in ("r1", "r2"):
                await client.solve(Ref=ref, Frontend="dockerfile.v0")
            await update(client, Ref="r2", Pinned=True)
            assert [event.record.pinned for event in await history(client, Ref="r2")] == [True]
            await update(client, Ref="r2", Delete=True)
            await deleted.wait()
            nursery.cancel_scope.cancel()
        assert events == [(STARTED, "r2"), (COMPLETE, "r2"), (COMPLETE, "r2"), (DELETED, "r2")]
        assert [event.record.Ref for event in await history(client)] == ["r1"]

    control_test(test, tmp_path, solver=OneStep())


@pytest.mark.parametrize("request_", [{"Ref": "none", "Delete": True}, {"Ref": "none", "Pinned": True}])
def test_update_of_a_missing_history_record_is_refused(tmp_path: Path, request_: dict[str, object]) -> None:
    async def test(client: Client) -> None:
        with pytest.raises(RpcError, match="no such record") as raised:
            await update(client, **request_)
        assert raised.value.code == 5

    control_test(test, tmp_path)


@pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "sha256:../../worker-id", "md5:x", ""])
def test_content_that_belongs_to_no_history_record_is_not_found(tmp_path: Path, digest: str) -> None:
    async def test(client: Client) -> None:
        for method, kind in (("Info", content_pb2.InfoRequest), ("Read", content_pb2.ReadContentRequest)):
            with pytest.raises(RpcError, match="not found"):
                await client.connection.unary(CONTENT + method, kind(digest=digest).SerializeToString())

    control_test(test, tmp_path)


# --- the store


async def complete(store: History, ref: str, age: float = 0, size: int = 10) -> pb.BuildHistoryRecord:
    record = pb.BuildHistoryRecord(Ref=ref)
    record.logs.CopyFrom(await store.add_blob(ref.encode().ljust(size, b"."), "text"))
    record.CompletedAt.FromNanoseconds(int((time.time() - age) * 1e9))
    await store.complete(record)
    return record


def files(tmp_path: Path) -> tuple[int, int]:
    return len(list((tmp_path / "records").iterdir())), len(list((tmp_path / "blobs").iterdir()))


def test_oldest_history_records_beyond_the_configured_number_are_deleted(tmp_path: Path) -> None:
    async def main() -> None:
        store = History(str(tmp_path), max_age=100, max_entries=2)
        await store.open()
        for number in range(4):
            await complete(store, f"old{number}", age=200 - number)
        assert sorted(store.records) == ["old2", "old3"]
        for number in range(4):
            await complete(store, f"new{number}")
        assert sorted(store.records) == ["new0", "new1", "new2", "new3"]
        assert files(tmp_path) == (4, 4)

    trio.run(main)


def test_pinned_records_stay(tmp_path: Path) -> None:
    async def main() -> None:
        store = History(str(tmp_path), max_age=100, max_entries=0)
        await store.open()
        await complete(store, "first")
        await store.pin("first", True)
        await complete(store, "second", age=500)
        again = History(str(tmp_path), max_age=0, max_entries=0)
        await again.open()
        assert list(again.records) == ["first"]

    trio.run(main)


@pytest.mark.parametrize(("name", "value"), [("_MOST_RECORDS", 3), ("_MOST_BYTES", 35)])
def test_total_size_of_the_build_history_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    monkeypatch.setattr(f"orlop_build_dockerfile.history.store.{name}", value)

    async def main() -> None:
        store = History(str(tmp_path), max_age=1000, max_entries=50)
        await store.open()
        for number in range(6):
            await complete(store, str(number), age=10 - number)
        assert sorted(store.records) == ["3", "4", "5"]
        assert files(tmp_path) == (3, 3)

    trio.run(main)


def test_total_size_of_large_history_records_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes of a build may have megabytes. Pinned records count, too, also after a restart of the daemon."""
    monkeypatch.setattr(store_module, "_MOST_MEMORY", 10_000)

    async def large(store: History, ref: str) -> None:
        record = pb.BuildHistoryRecord(Ref=ref, FrontendAttrs={"build-arg:A": "x" * 4000})
        record.CompletedAt.GetCurrentTime()
        store.start(record)
        await store.complete(record)

    async def main() -> None:
        store = History(str(tmp_path), max_age=1000, max_entries=50)
        await store.open()
        for ref in ("a", "b", "c", "d"):
            await large(store, ref)
            await trio.sleep(0.001)  # so that the records differ in age
        assert set(store.records) == {"c", "d"}
        await store.pin("c", True)
        await store.pin("d", True)
        await large(store, "e")
        assert set(store.records) == {"c", "d", "e"}
        store = History(str(tmp_path), max_age=1000, max_entries=50)
        await store.open()
        with pytest.raises(BuildFailed, match="cannot keep more"):
            await store.pin("e", True)
        await store.pin("c", False)
        await store.pin("e", True)
        await large(store, "f")
        assert set(store.records) == {"d", "e", "f"}

    trio.run(main)


def test_files_that_belong_to_no_history_record_are_removed_at_the_next_start(tmp_path: Path) -> None:
    async def main() -> None:
        store = History(str(tmp_path), max_age=1000, max_entries=50)
        await store.open()
        record = await complete(store, "r")
        (tmp_path / "new-1").write_bytes(b"half")
        (tmp_path / "blobs" / ("a" * 64)).write_bytes(b"stray")
        (tmp_path / "records" / "damaged").write_bytes(b"\xff\xff")
        again = History(str(tmp_path), max_age=1000, max_entries=50)
        await again.open()
        assert again.records == {"r": record}
        assert files(tmp_path) == (1, 1) and not (tmp_path / "new-1").exists()
        await again.delete("r")
        assert files(tmp_path) == (0, 0)

    trio.run(main)


def test_client_that_listens_to_the_history_and_does_not_read_is_disconnected(tmp_path: Path) -> None:
    async def main() -> None:
        store = History(str(tmp_path), max_age=1000, max_entries=50)
        with store.listening() as events:
            for number in range(1500):
                store.start(pb.BuildHistoryRecord(Ref=str(number)))
            async with aclosing(events) as channel:
                assert len([event async for event in channel]) == 1000

    trio.run(main)
