"""The additional file systems that a scanner reads: which stages select them, and the run of the scanner."""

from __future__ import annotations

import json

import pytest
from dockerfile_build import build
from test_export_images import engine
from test_solver import BASE, Engine, trio_test

from orlop_build_dockerfile.attest.sbom import scan
from orlop_build_dockerfile.contracts import Result
from orlop_build_dockerfile.dockerfile.interface import Scans
from orlop_build_dockerfile.dockerfile.llb import imported_outputs
from orlop_build_dockerfile.export.compose import targets
from orlop_build_dockerfile.testing import FakeBuild

__all__ = ["engine"]  # a fixture

STAGE, CONTEXT = "BUILDKIT_SBOM_SCAN_STAGE", "BUILDKIT_SBOM_SCAN_CONTEXT"


def scans(dockerfile: str, **args: str) -> Scans:
    return build(dockerfile, {f"build-arg:{name}": value for name, value in args.items()}).results[0].scans


@pytest.mark.parametrize("value", ["1", "t", "T", "true", "TRUE", "True", "b,one", "one"])
def test_build_argument_with_a_true_value_selects_a_stage_for_the_scanner(value: str) -> None:
    """With this value of the build argument, the scanner also reads the stage."""
    found = scans(f"FROM busybox AS One\nARG {STAGE}={value}\nRUN true\nFROM busybox\nCOPY --from=one /a /\n")
    assert list(found.outputs) == ["one"]
    (output,) = imported_outputs(found.graph, filter(None, found.outputs.values()))
    assert list(output.vertex.op.exec.meta.args) == ["/bin/sh", "-c", "true"]


@pytest.mark.parametrize("value", ["0", "f", "F", "false", "FALSE", "False", "", "two", " one", "yes"])
def test_build_argument_with_another_value_does_not_select_a_stage_for_the_scanner(value: str) -> None:
    """With this value of the build argument, the scanner does not read the stage."""
    text = f"ARG {STAGE}=true\nFROM busybox AS one\nARG {STAGE}={value}\nRUN true\nFROM busybox\nCOPY --from=one /a /\n"
    assert not scans(text).outputs


def test_stage_does_not_inherit_scan_arguments_from_its_base_stage() -> None:
    text = f"FROM busybox AS a\nARG {STAGE}=true {CONTEXT}=true\nFROM a AS b\nRUN true\nFROM b AS c\nCOPY x /\n"
    assert list(scans(text).outputs) == ["a"]


def test_images_and_named_contexts_are_not_scanned() -> None:
    text = (
        f"ARG {STAGE}=true\nFROM busybox AS named\nFROM busybox\nCOPY --from=named /a /\nCOPY --from=busybox:latest /b /\n"
    )
    found = build(text, {"context:named": "docker-image://busybox"}).results[0].scans
    assert not found.outputs


def test_graph_of_many_stages_contains_each_operation_once() -> None:
    chain = "".join(f"FROM s{number} AS s{number + 1}\nRUN {number}\n" for number in range(500))
    found = scans(f"ARG {STAGE}=true\nFROM busybox AS s0\n{chain}")
    assert len(found.outputs) == 500
    assert len(getattr(found.graph, "def")) == 500  # the graph does not contain the last stage, which is the target


@trio_test
async def test_scanner_reads_the_selected_stages_and_gets_its_attributes_as_environment_variables(engine: Engine) -> None:
    statement = json.dumps({"predicateType": "https://spdx.dev/Document", "predicate": {"found": "it"}})
    config = {"rootfs": {"diff_ids": []}, "config": {"Cmd": [f"write /run/out/x {statement}"], "Env": ["A=b"]}}
    engine.backend.images["docker.io/library/scanner:latest"] = (config, {})
    for name in (BASE, "docker.io/library/scanner:latest"):
        base = await engine.backend.resolve(name, "", pull=False, credentials=None)
        engine.backend.images[f"{name}@{base.digest}"] = engine.backend.images[name]
    made = FakeBuild(engine.session)
    engine.write("Dockerfile", f"FROM {BASE} AS one\nARG {STAGE}=true\nRUN write /one x\nFROM one\nRUN write /made yes\n")
    async with engine.solver() as solver, solver.open(made) as job:
        options = {"contextkey": "context", "dockerfilekey": "context"}
        result = await job.frontend("dockerfile.v0", options, {})
        (target,) = targets(job, Result(result.refs, result.metadata))
        (predicate,) = await scan(job, target, {"generator": "scanner", "LEVEL": "3"})
        assert await scan(job, target, {"generator": "scanner", "LEVEL": "3"})
    assert json.loads(predicate.content) == {"found": "it"}
    step = engine.backend.log.steps[-1]
    assert list(step.env) == [
        "A=b",
        "BUILDKIT_SCAN_DESTINATION=/run/out/",
        "BUILDKIT_SCAN_SOURCE=/run/src/core/sbom",
        "BUILDKIT_SCAN_LEVEL=3",
        "BUILDKIT_SCAN_SOURCE_EXTRAS=/run/src/extras",
    ]
    mounts = {mount.target: mount.readonly for mount in step.mounts if mount.snapshot}
    assert mounts == {"/run/src/core/sbom": True, "/run/src/extras/sbom-one": True, "/run/out/": False}


def test_scanner_runs_again_if_no_cache_is_set_for_a_scanned_stage() -> None:
    text = f"FROM busybox AS one\nARG {STAGE}=true\nRUN true\nFROM busybox\nCOPY --from=one /a /\n"
    found = [build(text, options).results[0].scans.ignore_cache for options in ({}, {"no-cache": ""}, {"no-cache": "one"})]
    assert found == [False, True, True]


def test_empty_stage_is_an_empty_file_system() -> None:
    assert scans(f"ARG {STAGE}=true\nFROM scratch AS one\nFROM busybox\nCOPY --from=one /a /\n").outputs == {"one": None}
