"""The solver on a fake daemon and a fake client: results, the cache, sharing, cancellation, errors."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from orlop_build_dockerfile.contracts import BuildFailed, Export, LocalDirectory, Result, Settings, Transferred, Vertex
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.solver import open_solver
from orlop_build_dockerfile.solver.service import LLBSolver
from orlop_build_dockerfile.testing import FakeBackend, FakeBuild, FakeSession, Llb
from orlop_sdk import DriverError, StorageContext
from orlop_sdk.testing import FakeStorage

BASE = "docker.io/library/base:latest"
CONFIG = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "b" * 64]}}


class Engine:
    def __init__(self, root: Path) -> None:
        (root / "storage").mkdir()
        (root / "build").mkdir()
        (root / "run").mkdir()
        (root / "context").mkdir()
        self.root = root
        self.backend = FakeBackend(FakeStorage(StorageContext(str(root / "storage"))))
        self.backend.images[BASE] = (CONFIG, {"etc/passwd": "root:x:0:0::/:/bin/sh\nme:x:7:8::/:/bin/sh\n"})
        self.session = FakeSession({"context": str(root / "context")}, shared_key="key")

    def write(self, path: str, text: str) -> None:
        full = self.root / "context" / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(text)

    @asynccontextmanager
    async def solver(self) -> AsyncIterator[LLBSolver]:
        async with open_solver(
            self.backend, Settings(root=str(self.root / "build"), runtime=str(self.root / "run"), version="1")
        ) as solver:
            yield solver


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


Test = Callable[[Engine], Awaitable[None]]


def trio_test(test: Test) -> Callable[[Engine], None]:
    def run(engine: Engine) -> None:
        trio.run(test, engine)

    run.__name__ = test.__name__
    return run


async def build(solver: LLBSolver, engine: Engine, definition: ops_pb2.Definition, path: str = "") -> FakeBuild:
    """Evaluate a graph; with `path`, the content of this file is in the build's `ref`."""
    made = FakeBuild(engine.session)
    async with solver.open(made) as job:
        ref = job.define(definition)
        await job.evaluate(ref)
        if path:
            made.ref = (await job.read_file(ref, path)).decode()
    return made


@trio_test
async def test_dockerfile_with_from_run_and_copy_makes_an_image(engine: Engine) -> None:
    engine.write("a.txt", "hello")
    llb = Llb()
    end = llb.copy(llb.run(llb.image(BASE), "write /made yes\necho done"), llb.local(), "/a.txt", "/x/")
    async with engine.solver() as solver:
        made = FakeBuild(engine.session)
        async with solver.open(made) as job:
            ref = job.define(llb.define(end))
            config = {
                "os": "linux",
                "architecture": "amd64",
                "history": [{"created_by": x} for x in ("base", "run", "copy")],
            }
            result = Result(refs={"": ref}, metadata={"containerimage.config": json.dumps(config).encode()})
            answer = await job.export(result, Export("moby", {"name": "x:1,x:2"}))
            assert await job.read_file(ref, "/x/a.txt") == b"hello"
            assert await job.read_file(ref, "/made") == b"yes"
        image = answer["containerimage.config.digest"]
        names = ["docker.io/library/x:1", "docker.io/library/x:2"]
        assert engine.backend.tags == dict.fromkeys(names, image) and answer["image.name"] == ",".join(names)
        document = json.loads(engine.backend.made[image][0])
        assert len(document["rootfs"]["diff_ids"]) == 3 and document["rootfs"]["diff_ids"][0] == "sha256:" + "b" * 64
        assert all(entry["created"].endswith("Z") for entry in document["history"]) and document["created"]
        assert engine.backend.made[image][1][0].startswith("image-")
        assert made.progress.log_of("write /made yes\necho done") == b"done\n"
        assert "exporting layers" in made.progress.vertices[-1].statuses


@trio_test
async def test_repeated_build_is_cached_even_after_a_restart(engine: Engine) -> None:
    engine.write("a.txt", "hello")

    def graph() -> ops_pb2.Definition:
        llb = Llb()
        return llb.define(
            llb.run(llb.copy(llb.run(llb.image(BASE), "write /made yes"), llb.local(), "/a.txt", "/"), "echo x")
        )

    async with engine.solver() as solver:
        first = await build(solver, engine, graph())
        assert not any(cached for name, cached in first.progress.cached().items() if "write" in name or "copy" in name)
        os.utime(engine.root / "context" / "a.txt", (1, 1))
        again = await build(solver, engine, graph())
        assert again.progress.cached()["write /made yes"] and again.progress.cached()["copy /a.txt /"]
    async with engine.solver() as solver:
        pulls = len(engine.backend.pulled)
        third = await build(solver, engine, graph(), "/a.txt")
        assert third.progress.cached()["echo x"] and third.ref == "hello"
        assert len(engine.backend.pulled) == pulls
        engine.write("a.txt", "other")
        fourth = await build(solver, engine, graph(), "/a.txt")
        cached = fourth.progress.cached()
        assert cached["write /made yes"] and not cached["copy /a.txt /"] and not cached["echo x"] and fourth.ref == "other"
    assert len(engine.backend.log.scripts) == 3


@trio_test
async def test_copy_of_equal_content_is_cached(engine: Engine) -> None:
    def graph(script: str) -> ops_pb2.Definition:
        llb = Llb()
        return llb.define(llb.copy(llb.image(BASE), llb.run(llb.image(BASE), script), "/out", "/"))

    async with engine.solver() as solver:
        await build(solver, engine, graph("write /out same"))
        second = await build(solver, engine, graph("write /other x\nwrite /out same"))
        assert second.progress.cached()["copy /out /"]
        third = await build(solver, engine, graph("write /out different"), "/out")
        assert not third.progress.cached()["copy /out /"] and third.ref == "different"


@trio_test
async def test_large_copy_runs_in_a_helper_process(engine: Engine) -> None:
    for number in range(1200):
        engine.write(f"d/{number}", str(number))
    llb = Llb()
    graph = llb.define(llb.copy(llb.image(BASE), llb.local(), "/d", "/x"))
    async with engine.solver() as solver:
        for number in (1000, 1199):
            assert (await build(solver, engine, graph, f"/x/{number}")).ref == str(number)
    assert engine.backend.helpers == 1  # the second build is cached


@trio_test
async def test_step_that_ignores_the_cache_runs_again_with_all_later_steps(engine: Engine) -> None:
    def graph(ignore: bool) -> ops_pb2.Definition:
        llb = Llb()
        return llb.define(llb.run(llb.run(llb.image(BASE), "append /log x", ignore_cache=ignore), "echo after"))

    async with engine.solver() as solver:
        await build(solver, engine, graph(False))
        again = await build(solver, engine, graph(True))
        assert not again.progress.cached()["append /log x"] and not again.progress.cached()["echo after"]
        last = await build(solver, engine, graph(False))
        assert last.progress.cached()["append /log x"] and last.progress.cached()["echo after"]
    assert engine.backend.log.scripts.count("append /log x") == 2


@trio_test
async def test_concurrent_builds_share_a_step(engine: Engine) -> None:
    llb = Llb()
    graph = llb.define(llb.run(llb.image(BASE), "echo shared\nwait go"))
    builds: list[FakeBuild] = []

    async with engine.solver() as solver, trio.open_nursery() as nursery:

        async def one() -> None:
            builds.append(await build(solver, engine, graph))

        nursery.start_soon(one)
        await engine.backend.log.reached("go").wait()
        nursery.start_soon(one)
        await _until(
            lambda: len(solver.core.broadcasts) == 1 and len(next(iter(solver.core.broadcasts.values()))._shown) == 2
        )
        engine.backend.log.event("go").set()
    assert engine.backend.log.scripts == ["echo shared\nwait go"]
    assert all(made.progress.log_of("echo shared\nwait go") == b"shared\n" for made in builds) and len(builds) == 2


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.lowlevel.checkpoint()


@trio_test
async def test_shared_step_is_cancelled_when_the_last_build_that_needs_the_step_is_cancelled(engine: Engine) -> None:
    llb = Llb()
    graph = llb.define(llb.run(llb.image(BASE), "wait go"))
    first, second = trio.CancelScope(), trio.CancelScope()
    async with engine.solver() as solver, trio.open_nursery() as nursery:

        async def one(scope: trio.CancelScope) -> None:
            with scope:
                await build(solver, engine, graph)

        nursery.start_soon(one, first)
        await engine.backend.log.reached("go").wait()
        nursery.start_soon(one, second)
        await _until(
            lambda: len(solver.core.broadcasts) == 1 and len(next(iter(solver.core.broadcasts.values()))._shown) == 2
        )
        first.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not engine.backend.log.cancelled
        second.cancel()
        await _until(lambda: engine.backend.log.cancelled == ["wait go"])
        await _until(lambda: not any(key.startswith("build-active-") for key in engine.backend.parents))
        assert not solver.core.broadcasts and not solver.core.records.all


@trio_test
async def test_independent_steps_run_concurrently(engine: Engine) -> None:
    llb = Llb()
    base = llb.image(BASE)
    stages = [llb.run(base, f"wait {name}") for name in "abcd"]
    end = base
    for number, stage in enumerate(stages):
        end = llb.copy(end, stage, "/etc/passwd", f"/{number}")
    async with engine.solver() as solver, trio.open_nursery() as nursery:
        nursery.start_soon(build, solver, engine, llb.define(end))
        for name in "abcd":
            with trio.fail_after(10):
                await engine.backend.log.reached(name).wait()
        for name in "abcd":
            engine.backend.log.event(name).set()


@trio_test
async def test_error_of_a_failed_step_contains_its_vertex_dockerfile_lines_and_exit_code(engine: Engine) -> None:
    llb = Llb()
    output = llb.run(llb.image(BASE), "echo no\nfail 7")
    definition = llb.define(output)
    definition.Source.infos.add(filename="Dockerfile", data=b"FROM x\nRUN no\n", language="Dockerfile")
    location = definition.Source.locations[output[0]].locations.add(sourceIndex=0)
    location.ranges.add(start=ops_pb2.Position(line=2), end=ops_pb2.Position(line=2))
    async with engine.solver() as solver:
        with pytest.raises(BuildFailed, match="did not complete successfully: exit code: 7") as caught:
            await build(solver, engine, definition)
        details = {name.rpartition(".")[2]: json.loads(value) for name, value in caught.value.details}
        assert details["ExitMessage+json"] == {"Code": 7} and details["Vertex+json"] == {"digest": output[0]}
        assert details["Source+json"]["ranges"][0]["start"]["line"] == 2
        assert not solver.core.records.all and not any(key.startswith("build-") for key in engine.backend.parents)


@trio_test
async def test_failed_vertex_cancels_the_other_vertices_of_the_same_build(engine: Engine) -> None:
    llb = Llb()
    base = llb.image(BASE)
    good, bad = llb.run(base, "wait never"), llb.run(base, "wait go\nfail 1")
    end = llb.copy(llb.copy(base, good, "/etc/passwd", "/a"), bad, "/etc/passwd", "/b")
    async with engine.solver() as solver, trio.open_nursery() as nursery:

        async def fails() -> None:
            with pytest.raises(BuildFailed, match="exit code: 1"):
                await build(solver, engine, llb.define(end))

        nursery.start_soon(fails)
        await engine.backend.log.reached("never").wait()
        await engine.backend.log.reached("go").wait()
        engine.backend.log.event("go").set()
        await _until(lambda: engine.backend.log.cancelled == ["wait never"])


@trio_test
async def test_prune_keeps_records_in_use_and_parents(engine: Engine) -> None:
    llb = Llb()
    lower = llb.run(llb.image(BASE), "write /a 12345")
    upper = llb.run(lower, "write /b 123")
    other = llb.run(llb.image(BASE), "write /c 1")
    async with engine.solver() as solver:
        await build(solver, engine, llb.define(upper))
        await build(solver, engine, llb.define(other))
        usage = await solver.usage(())
        assert len(usage) == 3 and {record.kind for record in usage} == {"regular"}
        async with solver.open(FakeBuild(engine.session)) as job:
            await job.evaluate(job.define(llb.define(lower)))
            removed = [record.id async for record in _prune(solver)]
            assert len(removed) == 2 and len(solver.core.records.all) == 1
        removed += [record.id async for record in _prune(solver)]
        assert len(removed) == 3 and not solver.core.records.all
        assert not any(key.startswith("build-") for key in engine.backend.parents)
    async with engine.solver() as solver:
        assert not await solver.usage(())


def _prune(solver: LLBSolver, *filters: str, keep: int = 0):  # type: ignore[no-untyped-def]
    return solver.prune(filters, all=True, keep_seconds=0, keep_bytes=keep)


@trio_test
async def test_prune_respects_filters_and_keep_storage(engine: Engine) -> None:
    engine.write("a.txt", "x" * 100)
    llb = Llb()
    one = llb.copy(llb.image(BASE), llb.local(), "/a.txt", "/one")
    two = llb.run(llb.image(BASE), "write /two " + "y" * 50)
    async with engine.solver() as solver:
        await build(solver, engine, llb.define(one))
        await build(solver, engine, llb.define(two))
        assert [record.kind async for record in _prune(solver, "type==source.local")] == ["source.local"]
        assert not [record async for record in _prune(solver, "id==nothing")]
        assert not [record async for record in _prune(solver, keep=150)]
        removed = [record async for record in _prune(solver, keep=60)]
        assert [record.size for record in removed] == [100]
        assert not await solver.usage(["what==x"])
        for damaged in ("id~==x", "id===x", "type==a,", "=x", "id~=(", 'id=="x'):
            with pytest.raises(BuildFailed, match="failed to parse diskusage filters"):
                await solver.usage([damaged])


@trio_test
async def test_snapshots_without_records_are_removed_at_start(engine: Engine) -> None:
    llb = Llb()
    async with engine.solver() as solver:
        await build(solver, engine, llb.define(llb.run(llb.image(BASE), "write /a 1")))
        kept = set(await engine.backend.snapshots())
    below = await engine.backend.commit(await engine.backend.prepare(""))
    await engine.backend.commit(await engine.backend.prepare(below))
    async with engine.solver():
        assert set(await engine.backend.snapshots()) == kept
    for key in kept:
        await engine.backend.remove(key)
    async with engine.solver() as solver:
        assert not solver.core.records.all
        second = await build(solver, engine, llb.define(llb.run(llb.image(BASE), "write /a 1")))
        assert not second.progress.cached()["write /a 1"]


@trio_test
async def test_damaged_cache_file_is_replaced(engine: Engine) -> None:
    (engine.root / "build" / "cache.db").write_bytes(b"no database" * 1000)
    llb = Llb()
    async with engine.solver() as solver:
        await build(solver, engine, llb.define(llb.run(llb.image(BASE), "write /a 1")))
        assert len(solver.core.records.all) == 1


@trio_test
async def test_cache_mounts_persist_and_secrets_do_not(engine: Engine) -> None:
    llb = Llb()
    engine.session.secrets["token"] = b"hidden"
    cache = ops_pb2.Mount(dest="/cache", output=-1, mountType=ops_pb2.CACHE, cacheOpt=ops_pb2.CacheOpt(ID="c"))
    secret = ops_pb2.Mount(
        dest="/run/secret", output=-1, mountType=ops_pb2.SECRET, secretOpt=ops_pb2.SecretOpt(ID="token", mode=0o400)
    )
    async with engine.solver() as solver:
        first = llb.run(llb.image(BASE), "append /cache/log x", mounts=[(None, cache)])
        second = llb.run(
            first, "append /cache/log y\nread /cache/log\nread /run/secret", mounts=[(None, cache), (None, secret)]
        )
        made = await build(solver, engine, llb.define(second))
        assert made.progress.log_of("append /cache/log y\nread /cache/log\nread /run/secret") == b"xyhidden"
        (record,) = await solver.usage(["type==exec.cachemount"])
        assert record.size == 2 and record.mutable
        assert os.listdir(solver.core.runtime) == []
        async with solver.open(FakeBuild(engine.session)) as job:
            ref = job.define(llb.define(second))
            names = [entry.path for entry in await job.read_directory(ref, "/")]
            assert "cache" not in names and "run" not in names  # mount points and their parent directories


@trio_test
async def test_missing_required_secret_fails_the_step(engine: Engine) -> None:
    llb = Llb()
    secret = ops_pb2.Mount(dest="/s", output=-1, mountType=ops_pb2.SECRET, secretOpt=ops_pb2.SecretOpt(ID="none"))
    async with engine.solver() as solver:
        with pytest.raises(BuildFailed, match="secret none: not found"):
            await build(solver, engine, llb.define(llb.run(llb.image(BASE), "echo x", mounts=[(None, secret)])))


@trio_test
async def test_insecure_step_needs_its_entitlement(engine: Engine) -> None:
    op = ops_pb2.ExecOp(meta=ops_pb2.Meta(args=["x", "echo x"]), security=ops_pb2.INSECURE)
    op.mounts.add(input=0, dest="/", output=0)
    llb = Llb()
    output = llb.add(ops_pb2.Op(exec=op), [llb.image(BASE)]), 0
    async with engine.solver() as solver:
        with pytest.raises(BuildFailed, match=r"security\.insecure is not allowed"):
            await build(solver, engine, llb.define(output))
        allowed = FakeBuild(engine.session, entitlements=["security.insecure"])
        async with solver.open(allowed) as job:
            await job.evaluate(job.define(llb.define(output)))
        assert engine.backend.log.steps[0].privileged


@trio_test
async def test_local_directory_in_use_is_not_shared_with_another_build(engine: Engine) -> None:
    engine.write("a.txt", "one")
    llb = Llb()
    graph = llb.define(llb.copy(llb.image(BASE), llb.local(), "/a.txt", "/"))
    async with engine.solver() as solver:
        async with solver.open(FakeBuild(engine.session)) as job:
            await job.evaluate(job.define(graph))
            await build(solver, engine, graph)
            kinds = [record.kind for record in await solver.usage(())]
            assert kinds.count("source.local") == 2
        await build(solver, engine, graph)
        assert [record.kind for record in await solver.usage(())].count("source.local") == 2


@trio_test
async def test_file_digests_are_reused_until_the_session_reports_another_state_of_the_directory(engine: Engine) -> None:
    llb = Llb()
    graph = llb.define(llb.copy(llb.image(BASE), llb.local(), "/a.txt", "/"))
    engine.session.state = "first"
    engine.write("a.txt", "one")
    async with engine.solver() as solver:
        assert (await build(solver, engine, graph, "/a.txt")).ref == "one"
    engine.write("a.txt", "two")  # a session may state that nothing has changed; then files are not read
    async with engine.solver() as solver:
        assert (await build(solver, engine, graph, "/a.txt")).ref == "one"
        engine.session.state = "second"
        assert (await build(solver, engine, graph, "/a.txt")).ref == "two"
        engine.write("a.txt", "three")
        engine.session.state = ""
        assert (await build(solver, engine, graph, "/a.txt")).ref == "three"


@trio_test
async def test_files_that_several_steps_copy_from_a_context_are_hashed_concurrently(engine: Engine) -> None:
    """Each selection writes the table of digests, through a temporary file of the same name."""
    names = [f"{number}.txt" for number in range(20)]
    for name in names:
        engine.write(name, name * 1000)
    llb = Llb()
    context = llb.local()
    ends = [llb.copy(llb.image(BASE), context, f"/{name}", "/") for name in names]
    async with engine.solver() as solver:
        made = FakeBuild(engine.session)
        async with solver.open(made) as job:
            refs = [job.define(llb.define(end)) for end in ends]
            async with trio.open_nursery() as nursery:
                for ref in refs:
                    nursery.start_soon(job.evaluate, ref)


class _SlowSession(FakeSession):
    """A session whose transfer continues for a while after its build was cancelled, like a thread that works on files."""

    def __init__(self, directories: dict[str, str]) -> None:
        super().__init__(directories, shared_key="key")
        self.begun, self.ended = trio.Event(), False

    async def receive(self, wanted: LocalDirectory, target: str, progress: Vertex) -> Transferred:
        self.begun.set()
        with trio.CancelScope(shield=True):
            await trio.sleep(0.1)
        self.ended = True
        return await super().receive(wanted, target, progress)


@trio_test
async def test_directory_of_a_cancelled_build_is_free_once_its_transfer_has_ended(engine: Engine) -> None:
    engine.write("a.txt", "one")
    llb = Llb()
    graph = llb.define(llb.copy(llb.image(BASE), llb.local(), "/a.txt", "/"))
    session = _SlowSession(dict(engine.session.directories))
    async with engine.solver() as solver:
        async with trio.open_nursery() as nursery, solver.open(FakeBuild(session)) as job:
            nursery.start_soon(job.evaluate, job.define(graph))
            await session.begun.wait()
            nursery.cancel_scope.cancel()
        assert session.ended, "the build has waited"
        assert not any(record.in_use for record in await solver.usage(()))
        await build(solver, engine, graph)
        assert [record.kind for record in await solver.usage(())].count("source.local") == 1


@trio_test
async def test_calls_after_the_end_of_a_build_keep_no_snapshot_in_use(engine: Engine) -> None:
    """A frontend can make such calls, because it has a connection of its own."""
    engine.write("a.txt", "one")
    llb = Llb()
    local = llb.define(llb.local())
    async with engine.solver() as solver:
        async with solver.open(FakeBuild(engine.session)) as job:
            known = job.define(local)
            value = await job.value(known)
        with pytest.raises(BuildFailed, match="context canceled"):
            await job.evaluate(job.define(llb.define(llb.copy(llb.image(BASE), llb.local(), "/a.txt", "/"))))
        await value.snapshot()
        await trio.testing.wait_all_tasks_blocked()
        assert not any(record.in_use for record in await solver.usage(()))


@trio_test
async def test_builder_goes_on_if_the_use_of_records_cannot_be_written(engine: Engine) -> None:
    """The times of the last use are written a moment after a build, when no client waits for them."""
    llb = Llb()
    definition = llb.define(llb.run(llb.image(BASE), "write /a 1"))
    async with engine.solver() as solver:
        await build(solver, engine, definition)
        kept = solver.core.records
        await kept.flush()
        assert kept._file is not None

        def refuse(_: object) -> None:
            raise DriverError("cannot change the build cache: no space left on device")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("orlop_build_dockerfile.cache.records._FLUSHING", 3600)  # for the task that the build starts
            again = await build(solver, engine, definition)
            assert again.progress.cached()["write /a 1"]
            patch.setattr("orlop_build_dockerfile.cache.records._FLUSHING", 0)
            patch.setattr(kept._file, "write", refuse)
            await kept._flush_later()
            assert kept._touched
        await kept.flush()
        assert not kept._touched
