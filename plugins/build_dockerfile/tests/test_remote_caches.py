"""Remote caches, on a fake daemon: which steps are found in the cache, which are run, and which layers are fetched."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from test_solver import BASE, Engine, engine, trio_test

from orlop_build_dockerfile.contracts import Blob, BuildFailed, CacheTarget, LayerBlob, Result
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.remote import config
from orlop_build_dockerfile.solver.service import LLBSolver
from orlop_build_dockerfile.testing import FakeBuild, Llb

__all__ = ["engine"]  # a fixture

NAME = "example.com/cache:1"
TO = CacheTarget("registry", {"ref": NAME, "mode": "max"})
MINIMAL = CacheTarget("registry", {"ref": NAME})
FROM = CacheTarget("registry", {"ref": NAME})


def graph(text: str = "one") -> tuple[Llb, ops_pb2.Definition]:
    """A graph of two stages: a file of the first stage and a file of the client are copied to the second stage."""
    llb = Llb()
    stage = llb.run(llb.image(BASE), f"write /built {text}")
    end = llb.copy(llb.run(llb.image(BASE), "write /made two"), stage, "/built", "/")
    return llb, llb.define(llb.copy(end, llb.local(), "/a.txt", "/"))


async def build(
    solver: LLBSolver,
    engine: Engine,
    definition: ops_pb2.Definition,
    *,
    exports: Sequence[CacheTarget] = (),
    imports: Sequence[CacheTarget] = (),
) -> FakeBuild:
    made = FakeBuild(engine.session)
    made.cache_exports, made.cache_imports = exports, imports
    async with solver.open(made) as job:
        ref = job.define(definition)
        await job.evaluate(ref)
        assert await job.read_file(ref, "/made") == b"two"
        for target in exports:
            await job.export_cache(Result({"": ref}), target)
    return made


async def forget(solver: LLBSolver) -> None:
    removed = [record async for record in solver.prune((), all=True, keep_seconds=0, keep_bytes=0)]
    assert removed


@trio_test
async def test_steps_in_a_cache_are_not_run(engine: Engine) -> None:
    engine.write("a.txt", "hello")
    _, definition = graph()
    async with engine.solver() as solver:
        await build(solver, engine, definition, exports=[TO])
        assert len(engine.backend.log.scripts) == 2
        await forget(solver)
        found = await build(solver, engine, definition, imports=[FROM])
        assert len(engine.backend.log.scripts) == 2
        cached = found.progress.cached()
        assert cached["write /made two"] and cached["copy /a.txt /"]
        # Layers that only the other stage has are not fetched
        assert len(engine.backend.fetched) == 1 + 3  # the configuration, and three layers above the base
        # The next build finds all steps in the local cache
        before = len(engine.backend.fetched)
        await build(solver, engine, definition, imports=[FROM])
        assert len(engine.backend.fetched) == before + 1


@trio_test
async def test_unchanged_steps_before_a_changed_step_are_found_in_the_cache(engine: Engine) -> None:
    engine.write("a.txt", "hello")
    _, definition = graph()
    async with engine.solver() as solver:
        await build(solver, engine, definition, exports=[TO])
        await forget(solver)
        engine.write("a.txt", "changed")
        await build(solver, engine, definition, imports=[FROM])
        assert len(engine.backend.log.scripts) == 2


@trio_test
async def test_cache_exported_with_mode_min_contains_only_the_last_stage(engine: Engine) -> None:
    engine.write("a.txt", "hello")
    _, definition = graph()
    async with engine.solver() as solver:
        await build(solver, engine, definition, exports=[MINIMAL])
        await forget(solver)
        await build(solver, engine, definition, imports=[FROM])
        assert len(engine.backend.log.scripts) == 2, "the other stage is not needed"
        _, changed = graph("other")
        await forget(solver)
        await build(solver, engine, changed, imports=[FROM])
        assert engine.backend.log.scripts[2:] == ["write /built other"]


@trio_test
async def test_steps_that_depend_on_an_uncached_step_are_run(engine: Engine) -> None:
    """The uncached step may have a new result, so cached results made from its previous result must not be used."""
    engine.write("a.txt", "hello")
    llb = Llb()
    first = llb.run(llb.image(BASE), "write /made two")
    definition = llb.define(llb.run(first, "write /above yes"))
    fresh = Llb()
    again = fresh.run(fresh.image(BASE), "write /made two", ignore_cache=True)
    async with engine.solver() as solver:
        await build(solver, engine, definition, exports=[TO])
        await forget(solver)
        await build(solver, engine, fresh.define(fresh.run(again, "write /above yes")), imports=[FROM])
        assert len(engine.backend.log.scripts) == 4


@trio_test
async def test_missing_cache_is_reported_and_ignored(engine: Engine) -> None:
    engine.write("a.txt", "hello")
    _, definition = graph()
    async with engine.solver() as solver:
        found = await build(solver, engine, definition, imports=[FROM, CacheTarget("gha", {})])
        errors = [vertex.error for vertex in found.progress.vertices if vertex.name.startswith("importing cache")]
        assert len(errors) == 2 and all(errors)
        with pytest.raises(BuildFailed, match="unknown cache exporter"):
            await build(solver, engine, definition, exports=[CacheTarget("gha", {})])


def layer(number: int) -> LayerBlob:
    return LayerBlob(f"sha256:{number:064x}", number, "gzip", f"sha256:{number + 1000:064x}")


def test_encoded_cache_can_be_decoded() -> None:
    results = [
        config.Result("sha256:top", "2026-01-01T00:00:00Z", [layer(1), layer(2)]),
        config.Result("sha256:low", "2026-01-01T00:00:00Z", [layer(1)]),
        config.Result("sha256:other", "2026-01-01T00:00:00Z", [layer(3)]),
    ]
    data, layers = config.encode(results)
    assert {each.digest for each in layers} == {layer(number).digest for number in (1, 2, 3)}
    for as_image in (False, True):
        manifest, root, blobs = config.cache_manifest(data, layers, {}, oci=True, as_image=as_image)
        document = config.parse_document(manifest)
        about = config.configuration(document)
        assert about is not None and about.digest == blobs[0].digest
        found = config.read(document, data).results
        assert {key: [one.blob.digest for one in chain] for key, chain in found.items()} == {
            result.key: [one.digest for one in result.layers] for result in results
        }
        assert found["sha256:top"][1].diff_id == layer(2).diff_id
        assert root.size == len(manifest)


def test_inline_cache_contains_the_layers_of_the_image() -> None:
    image = [layer(1), layer(2)]
    digests = [each.digest for each in image]
    other = config.Result("sha256:other", "", [layer(3)])
    assert config.inline([other], digests) == b""
    records = config.inline([other, config.Result("sha256:low", "", image[:1])], digests)
    raw = json.dumps(
        {
            "rootfs": {"diff_ids": [each.diff_id for each in image]},
            "moby.buildkit.cache.v0": __import__("base64").b64encode(records).decode(),
        }
    ).encode()
    entries = [{"mediaType": "x", "digest": each.digest, "size": 1} for each in image]
    document = config.parse_document(json.dumps({"config": {"digest": "c", "size": 1}, "layers": entries}).encode())
    assert config.configuration(document) is None
    found = config.read_inline(document, raw).results
    assert [each.blob for each in found["sha256:low"]] == [Blob("x", digests[0], 1)]


@pytest.mark.parametrize(
    "value",
    [
        {"layers": [{"blob": "b", "parent": 0}], "records": [{"digest": "d", "layers": [{"layer": 0}]}]},
        {"layers": [{"blob": "b", "parent": 7}], "records": [{"digest": "d", "layers": [{"layer": 0}]}]},
        {"layers": [], "records": [{"digest": "d", "layers": [{"layer": -5}], "chains": [{"layers": [9]}]}]},
        {"records": [{"digest": "d"}]},
    ],
)
def test_cache_whose_records_have_dangling_references_is_treated_as_empty(value: object) -> None:
    entry = {"digest": "b", "size": 1, "annotations": {"containerd.io/uncompressed": "sha256:" + "0" * 64}}
    document = config.parse_document(json.dumps({"manifests": [entry]}).encode())
    assert not config.read(document, json.dumps(value).encode()).results


@pytest.mark.parametrize("data", [b"", b"[", b'{"layers": 1}', b'{"records": [1]}', b"[" * 100_000])
def test_cache_that_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(BuildFailed):
        config.read(config.Document(), data)
