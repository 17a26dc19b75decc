"""The steps of a graph in provenance: their order, their JSON, and the layers of images that the build has used."""

from __future__ import annotations

import json
from typing import Any

from test_export_images import CONFIG, engine, stored
from test_solver import BASE, Engine, trio_test

from orlop_build_dockerfile.attest.gojson import go_json
from orlop_build_dockerfile.contracts import Export, Result
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.testing import FakeBuild, Llb

__all__ = ["engine"]  # a fixture

METADATA = "https://mobyproject.org/buildkit@v1#metadata"
OTHER = "docker.io/library/other:latest"


def test_provenance_contains_operations_in_the_json_form_of_go() -> None:
    user = ops_pb2.UserOpt(byName=ops_pb2.NamedUserOpt(name="me", input=0))
    owner = ops_pb2.ChownOpt(user=user, group=ops_pb2.UserOpt(byID=0))
    file = ops_pb2.FileActionMkFile(path="/f", mode=420, data=b"\xff", timestamp=-1, owner=owner)
    action = ops_pb2.FileAction(input=-1, secondaryInput=-1, output=0, mkfile=file)
    op = ops_pb2.Op(file=ops_pb2.FileOp(actions=[action]), platform=ops_pb2.Platform(OS="linux"))
    written = {
        "path": "/f",
        "mode": 420,
        "data": "/w==",
        "timestamp": -1,
        "owner": {"user": {"User": {"byName": {"name": "me", "input": 0}}}, "group": {"User": {}}},
    }
    indexes = {"input": -1, "secondaryInput": -1, "output": 0}
    assert go_json(op) == {
        "Op": {"file": {"actions": [{**indexes, "Action": {"mkfile": written}}]}},
        "platform": {"OS": "linux"},
    }
    build = ops_pb2.BuildOp(builder=-1, inputs={"b": ops_pb2.BuildInput(input=0)}, attrs={"k": "v"})
    assert go_json(build) == {"builder": -1, "inputs": {"b": {"input": 0}}, "attrs": {"k": "v"}}
    mount = ops_pb2.Mount(dest="/", mountType=ops_pb2.TMPFS)
    assert go_json(mount) == {"input": 0, "dest": "/", "output": 0, "mountType": 4}


async def provenance(engine: Engine, mode: str) -> tuple[Any, Any]:
    """The manifest of a pushed image, and its provenance."""
    llb, made = Llb(), FakeBuild(engine.session)
    made.options = {"attest:provenance": f"mode={mode}"}
    apart = llb.run(llb.image(BASE), "write /out apart")
    end = llb.copy(llb.run(llb.image(BASE), "write /made yes"), apart, "/out", "/")
    async with engine.solver() as solver, solver.open(made) as job:
        ref = job.define(llb.define(llb.copy(end, llb.image(OTHER), "/given", "/")))
        attributes = {"name": "example.com/a:1", "push": "true"}
        answer = await job.export(Result({"": ref}, {"containerimage.config": CONFIG}), Export("image", attributes))
    index = stored(engine, answer["containerimage.digest"])
    image, about = (stored(engine, each["digest"]) for each in index["manifests"])
    return image, stored(engine, about["layers"][0]["digest"])["predicate"]


@trio_test
async def test_provenance_contains_the_layers_of_each_step(engine: Engine) -> None:
    engine.backend.images[OTHER] = ({"rootfs": {"diff_ids": ["sha256:" + "c" * 64]}}, {"given": "x"})
    image, said = await provenance(engine, "max")
    steps = [next(iter(each["op"]["Op"] or {"end": 0})) for each in said["buildConfig"]["llbDefinition"]]
    # Depth first, the first input before the second
    assert steps == ["source", "exec", "exec", "file", "source", "file", "end"]
    found = said["metadata"][METADATA]["layers"]
    parts = image["layers"]
    assert [list(each) for each in parts] == [["mediaType", "digest", "size"]] * 4
    assert {name: chains for name, chains in found.items() if name != "step4:0"} == {
        "step0:0": [parts[:1]],
        "step1:0": [parts[:2]],
        "step3:0": [parts[:3]],
        "step5:0": [parts],
    }
    (((other,),),) = [found["step4:0"]]
    assert other not in parts
    assert "layers" not in json.dumps((await provenance(engine, "min"))[1]["metadata"])
