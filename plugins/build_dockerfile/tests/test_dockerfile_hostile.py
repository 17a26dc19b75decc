"""Dockerfiles that are made to be expensive: each is converted or refused in bounded time."""

from __future__ import annotations

import time

import pytest
from dockerfile_build import build, failing

TOO_LARGE = "the Dockerfile is too large after the expansion of its variables"


@pytest.mark.parametrize(
    ("dockerfile", "message"),
    [
        ("FROM busybox\nENV a=xxxxxxxxxx\n" + "ENV a=$a$a\n" * 60, TOO_LARGE),
        ("ARG a=xxxxxxxxxx\n" + "ARG a=$a$a\n" * 60 + "FROM busybox\n", TOO_LARGE),
        ("FROM busybox\nENV A=" + "x" * 100_000 + "\n" + "RUN x\n" * 5000, TOO_LARGE),
        ("FROM busybox\nENV A=" + "a" * 100_000 + "\nENV B=${A//a/" + "b" * 100_000 + "}\n", TOO_LARGE),
        ("FROM busybox\n" + "EXPOSE 1-65535/tcp 1-65535/udp\n" * 1000, TOO_LARGE),
        ("FROM busybox\nRUN " + "--mount=type=bind " * 100_000 + "x\n", TOO_LARGE),
        ("FROM busybox\nENV A=b\nCOPY <<E /x\n" + "$A" * 1_000_000 + "\nE\n", TOO_LARGE),
        ("FROM busybox\n" + "RUN x\n" * 60_000, "a Dockerfile cannot have more than 50000 instructions"),
        ("FROM busybox\n" + "# x" * (6 << 20), "Dockerfile exceeds maximum allowed size of 16777216 bytes"),
        ("FROM busybox\n" + "RUN <<E\n" * 10_000, "unterminated heredoc"),
    ],
)
def test_expensive_dockerfiles_are_refused_in_bounded_time(dockerfile: str, message: str) -> None:
    start = time.process_time()
    assert failing(dockerfile).message == message
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    "dockerfile",
    [
        "".join(f"FROM busybox AS s{number}\nRUN x\n" for number in range(10_000)),
        "FROM busybox AS s0\n" + "".join(f"FROM s{number} AS s{number + 1}\nRUN x\n" for number in range(3000)),
        "FROM busybox AS s0\n" + "".join(f"FROM busybox AS s{n + 1}\nCOPY --from=s{n} / /\n" for n in range(1000)),
        "FROM busybox\n" + "".join(f"ENV v{number}=x\n" for number in range(5000)),
        "FROM busybox\n" + "".join(f"ENV A=$undefined{number}\n" for number in range(2000)),
        "FROM busybox\nRUN x\\\n" + "y\\\n" * 200_000 + "z\n",
        "FROM busybox\nRUN <<E\n" + "x\n" * 500_000 + "E\n",
        "FROM busybox\n" + "# c\n" * 500_000 + "RUN x\n",
        "# syntax=" + " " * 1_000_000 + "docker/dockerfile:1" + " " * 1_000_000 + "\nFROM busybox\n",
        "FROM busybox\nENV A=" + "a" * 20_000 + " B=${A#" + "*a" * 2000 + "b}\n",
        "FROM busybox\nRUN " + "[" * 1_000_000 + "\n",
        "FROM busybox\nRUN " + "\\" * 1_000_000 + "\n",
    ],
    ids=range(12),
)
def test_large_dockerfiles_are_converted_in_bounded_time(dockerfile: str) -> None:
    start = time.process_time()
    assert build(dockerfile).results[0].definition.metadata
    assert time.process_time() - start < 20


def test_numbers_of_warnings_and_of_line_ranges_are_limited() -> None:
    converted = build("FROM busybox\n" + "".join(f"ENV A=$undefined{number}\n" for number in range(2000)))
    assert len(converted.warnings) == 500
    definition = build("FROM busybox\nRUN <<E\n" + "x\n" * 5000 + "E\n").results[0].definition
    ranges = [len(found.ranges) for each in definition.Source.locations.values() for found in each.locations]
    assert sorted(ranges) == [1, 1]


def test_error_about_a_long_unknown_instruction_contains_no_suggestion() -> None:
    assert "did you mean" not in failing("FROM busybox\n" + "RUN" * 50 + " x\n").message
