"""The solver keeps data in memory between builds, so that a build without changes makes few calls and reads little."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

import pytest
import trio
from test_solver import BASE, Engine, build, engine, trio_test

from orlop_build_dockerfile.contracts import BuildFailed, Layer, Result
from orlop_build_dockerfile.export.compose import Composer, Target
from orlop_build_dockerfile.solver.remembered import Remembered
from orlop_build_dockerfile.testing import FakeBuild, Llb
from orlop_sdk import Mount

__all__ = ["engine"]  # a fixture


@trio_test
async def test_layers_of_cached_steps_are_packed_once(engine: Engine) -> None:
    packed = []
    pack = engine.backend.pack

    async def count(key: str) -> Layer:
        packed.append(key)
        return await pack(key)

    llb = Llb()
    definition = llb.define(llb.run(llb.image(BASE), "write /made yes"))
    engine.backend.pack = count  # type: ignore[method-assign]
    async with engine.solver() as solver:
        for _ in range(2):
            async with solver.open(FakeBuild(engine.session)) as job:
                composer = Composer(job, None, Result({}), None)  # type: ignore[arg-type]
                target = Target("", "linux/amd64", job.define(definition))
                layers = await composer._layers(target, await composer._chain(target))
                assert len(layers) == 2 and layers[1].diff_id.startswith("sha256:")
    assert len(packed) == 1


@trio_test
async def test_small_files_of_snapshots_are_read_once(engine: Engine) -> None:
    """A frontend reads the same Dockerfile in each build."""
    mounted = []
    mounts = engine.backend.mounts

    async def count(key: str, *, readonly: bool) -> Sequence[Mount]:
        mounted.append(key)
        return await mounts(key, readonly=readonly)

    large = "x" * 20_000
    llb = Llb()
    definition = llb.define(llb.run(llb.image(BASE), f"write /small text\nwrite /large {large}"))
    async with engine.solver() as solver, solver.open(FakeBuild(engine.session)) as job:
        ref = job.define(definition)
        await job.evaluate(ref)
        engine.backend.mounts = count  # type: ignore[method-assign]
        for _ in range(2):
            assert await job.read_file(ref, "small") == b"text"
            assert await job.read_file(ref, "/small", offset=1, length=2) == b"ex"
            with pytest.raises(BuildFailed, match="open none: no such file or directory") as caught:
                await job.read_file(ref, "none")
            assert caught.value.code == 5
        assert len(mounted) == 3, "each path once"
        for _ in range(2):
            assert await job.read_file(ref, "large", offset=19_998) == b"xx"
        assert len(mounted) == 5


def test_full_memory_table_drops_the_entry_that_was_not_used_for_longest() -> None:
    table = Remembered[str, int](2)
    table["a"], table["b"] = 1, 2
    assert table["a"] == 1
    table["c"] = 3
    assert "b" not in table and "a" in table and "c" in table


@trio_test
async def test_builds_do_not_wait_while_the_times_of_last_use_are_written_to_the_database(engine: Engine) -> None:
    llb = Llb()
    definition = llb.define(llb.run(llb.image(BASE), "write /made yes"))
    async with engine.solver() as solver:
        kept, proceed, flushed = solver.core.records, trio.Event(), trio.Event()
        flush = kept.flush

        async def slow() -> None:
            await proceed.wait()
            await flush()
            flushed.set()

        kept.flush = slow  # type: ignore[method-assign]
        with trio.fail_after(60):
            for _ in range(3):
                await build(solver, engine, definition)
            proceed.set()
            await flushed.wait()
        (record,) = kept.all.values()
        with closing(sqlite3.connect(engine.root / "build" / "cache.db")) as database:
            assert database.execute("SELECT uses, used FROM records").fetchall() == [(record.uses, record.used)]
        assert record.uses >= 3
