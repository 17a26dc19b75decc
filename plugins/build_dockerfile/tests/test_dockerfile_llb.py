"""Graphs as they are written, read again, and given back as inputs."""

from __future__ import annotations

import hashlib

import pytest
from dockerfile_build import build, failing, graph, names, operations

from orlop_build_dockerfile.dockerfile import llb
from orlop_build_dockerfile.pb import ops_pb2 as pb

DOCKERFILE = """FROM busybox AS a
RUN --mount=type=cache,target=/c \\
    first
COPY x /
FROM busybox
COPY --from=a /x /y
RUN second
"""


def test_inputs_precede_the_operations_that_use_them() -> None:
    definition = build(DOCKERFILE).results[0].definition
    seen: set[str] = set()
    for digest, op in operations(definition):
        assert {source.digest for source in op.inputs} <= seen
        assert definition.metadata[digest].description["llb.customname"]
        seen.add(digest)
    last = pb.Op()
    last.ParseFromString(getattr(definition, "def")[-1])
    assert [source.digest for source in last.inputs] == [operations(definition)[-1][0]]
    assert last.WhichOneof("op") is None


def test_equal_operations_occur_once_in_a_graph() -> None:
    definition = (
        build("FROM busybox AS a\nFROM busybox AS b\nFROM busybox\nCOPY --from=a / /\nCOPY --from=b / /\n")
        .results[0]
        .definition
    )
    digests = [digest for digest, _ in operations(definition)]
    assert len(digests) == len(set(digests)) == 3


def test_imported_graph_is_written_unchanged() -> None:
    definition = build(DOCKERFILE, {"no-cache": ""}).results[0].definition
    again = llb.definition(llb.imported(definition))
    assert getattr(again, "def") == getattr(definition, "def")
    for digest, _ in operations(definition):
        assert again.metadata[digest] == definition.metadata[digest]


def test_conversion_is_deterministic() -> None:
    one, other = (build(DOCKERFILE, {"build-arg:SOURCE_DATE_EPOCH": "5"}).results[0] for _ in range(2))
    assert one.definition.SerializeToString(deterministic=True) == other.definition.SerializeToString(deterministic=True)
    assert one.config == other.config


def test_source_locations_in_a_graph_refer_to_lines_of_the_dockerfile() -> None:
    definition = build(DOCKERFILE).results[0].definition
    (info,) = definition.Source.infos
    assert (info.filename, info.data, info.language) == ("Dockerfile", DOCKERFILE.encode(), "Dockerfile")
    lines = {}
    for digest, _ in operations(definition):
        name = definition.metadata[digest].description["llb.customname"]
        lines[name] = [[item.start.line for item in found.ranges] for found in definition.Source.locations[digest].locations]
    assert lines["[a 2/3] RUN --mount=type=cache,target=/c     first"] == [[2, 3]]
    assert lines["[stage-1 2/3] COPY --from=a /x /y"] == [[6]]
    assert lines["[internal] load build context"] == []


def test_option_no_cache_filter_marks_only_steps_of_the_named_stage() -> None:
    """The client sends `--no-cache-filter b` as the frontend option `no-cache=b`."""
    definition = build("FROM busybox AS a\nRUN x\nFROM a AS b\nRUN y\nCOPY z /\n", {"no-cache": "b"}).results[0].definition
    ignored = [definition.metadata[digest].ignore_cache for digest, _ in operations(definition)]
    assert dict(
        zip(names(build("FROM busybox AS a\nRUN x\nFROM a AS b\nRUN y\nCOPY z /\n")), ignored, strict=True)
    ) | {} == {
        name: name.startswith("[b") for name in names(build("FROM busybox AS a\nRUN x\nFROM a AS b\nRUN y\nCOPY z /\n"))
    }


def test_named_context_may_be_a_graph() -> None:
    inner = build(DOCKERFILE).results[0].definition
    converted = build("FROM base\nRUN third\n", {"context:base": "input:base"}, inputs={"base": inner})
    assert names(converted)[-2:] == ["[stage-1 3/3] RUN second", "[1/2] RUN third"]
    assert graph(converted).splitlines()[-1].startswith("6 (5.0) exec ['/bin/sh', '-c', 'third']")


def test_malformed_graph_is_refused() -> None:
    op = pb.Op(inputs=[pb.Input(digest="sha256:" + "0" * 64)])
    broken = pb.Definition()
    getattr(broken, "def").append(op.SerializeToString())
    error = failing("FROM base\n", {"context:base": "input:base"}, inputs={"base": broken})
    assert error.message.startswith("failed to parse frontend input: an input of a graph is missing")
    getattr(broken, "def")[0] = b"\xff\xff"
    assert "failed to parse frontend input" in failing("FROM b\n", {"context:b": "input:b"}, inputs={"b": broken}).message


def test_equal_inputs_of_an_operation_occur_once() -> None:
    dockerfile = "FROM busybox AS a\nFROM busybox\nCOPY --from=a --chown=u:g x y /\nCOPY <<A <<B /\nA\nB\n"
    definition = build(dockerfile).results[0].definition
    (_, copy), *_, (_, last) = operations(definition)[1:]
    first, second = copy.file.actions
    assert len(copy.inputs) == 1
    assert (first.input, first.secondaryInput, second.input, second.secondaryInput) == (0, 0, 1, 0)
    assert first.copy.owner.user.byName.input == 0
    assert [action.secondaryInput for action in last.file.actions] == [1, 2]


def test_copy_link_becomes_a_merge_operation_if_the_solver_supports_merge() -> None:
    converted = build("FROM busybox\nCOPY --link a /\n", capabilities=frozenset({"mergeop"}))
    assert graph(converted).splitlines()[2:] == ["2 (1.0) file [-1,0->0] copy /a /", "3 (0.0 2.0) merge 0 1"]
    assert names(converted)[2:] == ["[2/2] COPY --link a /", "[2/2] LINK COPY --link a /"]


@pytest.mark.parametrize(("text", "digest"), [("FROM busybox\n", True), ("FROM scratch\n", False)])
def test_result_of_a_stage_without_instructions_is_its_base_image(text: str, digest: bool) -> None:
    definition = build(text).results[0].definition
    assert bool(getattr(definition, "def")) == digest
    if digest:
        data = getattr(definition, "def")[0]
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" in definition.metadata
