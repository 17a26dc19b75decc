"""Any input from the client, the Dockerfile and images gives a graph or a `DockerfileError`, never another exception."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dockerfile_build import BUSYBOX, DockerfileError, Outside, Request, build, failing, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TEXTS = [path.read_text() for path in sorted((Path(__file__).parent / "dockerfiles").glob("*.txt"))]
LINES = sorted({line for text in TEXTS for line in text.splitlines() if line[:1].isupper() and len(line) < 200})
OPTIONS = [
    "target",
    "platform",
    "no-cache",
    "build-arg:A",
    "build-arg:HTTP_PROXY",
    "build-arg:SOURCE_DATE_EPOCH",
    "build-arg:BUILDKIT_SYNTAX",
    "build-arg:BUILDKIT_DOCKERFILE_CHECK",
    "label:l",
    "context",
    "context:busybox",
    "contextsubdir",
    "filename",
    "shm-size",
    "ulimit",
    "add-hosts",
    "force-network-mode",
    "multi-platform",
    "requestid",
    "cgroup-parent",
]
VALUES = [
    "",
    "1",
    "true",
    "a",
    "linux/arm64",
    "a=1",
    "frontend.lint",
    "docker-image://busybox",
    "https://h/r.git#m:d",
    "a:b",
    "x\x00",
    "é",
]
RARELY_SLOW = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


def _converted_or_refused(dockerfile: bytes, options: dict[str, str]) -> None:
    outside = Outside({"Dockerfile": dockerfile, "context": dockerfile}, {})
    try:
        run(Request(options=options), outside)
    except DockerfileError as error:
        assert isinstance(error.message, str)
        assert all(isinstance(value, bytes) for _, value in error.details)


@RARELY_SLOW
@given(
    st.lists(st.sampled_from(LINES), max_size=8),
    st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from(["", "$", "{", "'", '"', "\\", " ", "\n", "<<", "=", "\xe9", ","])),
        max_size=3,
    ),
    st.dictionaries(st.sampled_from(OPTIONS), st.sampled_from(VALUES), max_size=3),
)
def test_mutated_dockerfiles_are_converted_or_refused(
    lines: list[str], changes: list[tuple[int, str]], options: dict[str, str]
) -> None:
    text = "\n".join(["FROM busybox AS a", *lines]) + "\n"
    for at, change in changes:
        text = text[:at] + change + text[at + 1 :]
    _converted_or_refused(text.encode("latin-1", "replace"), options)


@RARELY_SLOW
@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_converted_or_refused(data: bytes) -> None:
    _converted_or_refused(b"FROM busybox\nRUN x" + data, {})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = [
    "Env",
    "Cmd",
    "WorkingDir",
    "User",
    "Labels",
    "OnBuild",
    "Shell",
    "ExposedPorts",
    "Volumes",
    "Entrypoint",
    "Healthcheck",
]
USES = """FROM bad
ENV a=b
LABEL c=d
EXPOSE 1
VOLUME /v
WORKDIR w
RUN x
CMD y
ONBUILD RUN z
FROM bad
COPY --from=0 / /
"""


@RARELY_SLOW
@given(
    st.dictionaries(st.sampled_from(MEMBERS), _JSON, max_size=3),
    st.dictionaries(
        st.sampled_from(["os", "architecture", "config", "rootfs", "history", "variant", "os.features"]), _JSON, max_size=2
    ),
)
def test_base_images_with_malformed_configurations_are_converted_or_refused(
    members: dict[str, Any], more: dict[str, Any]
) -> None:
    bad = {**BUSYBOX, "config": members, **more}
    try:
        converted = build(USES, images={"docker.io/library/bad:latest": bad})
    except DockerfileError as error:
        assert error.message
    else:
        assert json.loads(converted.results[0].config)


@pytest.mark.parametrize(
    ("dockerfile", "lines"),
    [(b"FROM busybox\nRUN \xff\n", [2]), (b"FROM busybox\nRUN <<E\n\xff\nE\n", [2, 3, 4]), (b"FROM \xff\n", [1])],
)
def test_error_about_invalid_utf8_contains_the_lines_of_the_instruction(dockerfile: bytes, lines: list[int]) -> None:
    outside = Outside({"Dockerfile": dockerfile})
    with pytest.raises(DockerfileError, match="not valid UTF-8") as caught:
        run(Request(), outside)
    assert [item.start.line for item in caught.value.ranges] == lines


def test_invalid_utf8_is_allowed_in_comments_and_heredoc_files() -> None:
    converted = build(b"# caf\xe9\nFROM busybox\nCOPY <<E /x\n\xff\xfe\nE\n")
    assert any(b"\xff\xfe\n" in data for data in getattr(converted.results[0].definition, "def"))


def test_malformed_named_contexts_are_refused() -> None:
    assert "invalid" in failing("FROM busybox\n", {"context:busybox": "docker-image://Not A Name"}).message
    assert "has no digest" in failing("FROM busybox\n", {"context:busybox": "oci-layout://x"}).message
