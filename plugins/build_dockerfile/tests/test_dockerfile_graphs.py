"""Dockerfiles, and the graphs that are made from them."""

from __future__ import annotations

from dockerfile_build import build, config, failing, graph, names


def test_graph_of_a_stage_that_copies_from_another_stage_contains_both_stages() -> None:
    converted = build(
        """
FROM busybox AS base
WORKDIR /app
COPY --chown=1:staff a b ./
RUN --mount=type=cache,target=/c --mount=type=secret,id=s make
FROM scratch
COPY --from=base /app /app
"""
    )
    base = "docker-image://docker.io/library/busybox:latest@sha256:"
    lines = graph(converted).splitlines()
    assert lines[0].startswith(f"0 () source {base}")
    assert lines[1:] == [
        "1 (0.0) file [0,-1->0] mkdir /app",
        '2 () source local://context local.followpaths=["a","b"] local.sharedkeyhint=context',
        "3 (1.0 2.0) file [0,1->-1] copy /a /app/; [2,1->0] copy /b /app/",
        "4 (3.0) exec ['/bin/sh', '-c', 'make'] bind:0->/=0 cache:-1->/c secret:-1->/run/secrets/s",
        "5 (4.0) file [-1,0->0] copy /app /app",
    ]
    assert names(converted)[1:] == [
        "[base 2/4] WORKDIR /app",
        "[internal] load build context",
        "[base 3/4] COPY --chown=1:staff a b ./",
        "[base 4/4] RUN --mount=type=cache,target=/c --mount=type=secret,id=s make",
        "[stage-1 1/1] COPY --from=base /app /app",
    ]


def test_unused_stage_is_omitted() -> None:
    converted = build("FROM busybox AS a\nRUN a\nFROM busybox AS b\nRUN b\nFROM a\nRUN c\n")
    assert names(converted)[1:] == ["[a 2/2] RUN a", "[stage-2 1/1] RUN c"]


def test_error_about_an_unknown_instruction_contains_its_line() -> None:
    error = failing("FROM busybox\n\nRUM true\n")
    assert error.message == "dockerfile parse error on line 3: unknown instruction: RUM (did you mean RUN?)"
    assert [item.start.line for item in error.ranges] == [3]


def test_instructions_change_the_history_and_the_configuration_of_the_image() -> None:
    value = config(build('FROM busybox\nENV A=b\nCMD ["x", "y"]\nEXPOSE 80\n'))
    assert value["config"]["Env"] == ["PATH=/bin", "A=b"]
    assert [entry["created_by"] for entry in value["history"]] == [
        "base",
        "ENV A=b",
        'CMD ["x" "y"]',
        "EXPOSE map[80/tcp:{}]",
    ]
    assert all(entry["empty_layer"] for entry in value["history"][1:])
