"""Sizes, durations, times, ports, tables, references: parsed and printed as in Docker."""

from __future__ import annotations

from typing import Any

import pytest

from orlop_cli._click import normalise
from orlop_cli._errors import CliError
from orlop_cli.commands.run import run
from orlop_cli.tables import table
from orlop_cli.values import ports, references, times, units


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (1_234_567, "1.23MB"), (2_026_471, "2.03MB"), (999_900, "1000kB")],
)
def test_human_size_uses_decimal_units(size: int, text: str) -> None:
    assert units.human_size(size) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (507904, "496KiB"), (13_107_200, "12.5MiB"), (25_276_514_304, "23.54GiB")]
)
def test_bytes_size_uses_binary_units(size: int, text: str) -> None:
    assert units.bytes_size(size) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [("512m", 512 << 20), ("1.5g", 3 << 29), ("64k", 65536), ("100", 100), ("10MiB", 10 << 20), ("1GB", 1 << 30)],
)
def test_sizes_are_parsed_in_binary_units(text: str, size: int) -> None:
    assert units.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1..5g", "1 2"])
def test_invalid_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        units.parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h30m", 5400), ("1.5s", 1.5), ("-2m", -120), ("0", 0), ("300ms", 0.3), ("1h1m1s1ms", 3661.001)]
)
def test_durations_are_parsed(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == int(seconds * 1000) * 10**6


@pytest.mark.parametrize("text", ["", "1", "1d", "h", "1h 2m", "x1s"])
def test_invalid_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (5399, "About an hour"),
        (5400, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_durations_are_printed_like_docker(seconds: float, text: str) -> None:
    assert units.human_duration(seconds) == text


def test_cpus_are_converted_exactly() -> None:
    assert units.parse_cpus("0.1") == 100_000_000
    with pytest.raises(ValueError, match="too precise"):
        units.parse_cpus("0.0000000001")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000", "1700000000"),
        ("1700000000.5", "1700000000.5"),
        ("2023-11-14T22:13:20Z", "1700000000.000000000"),
        ("2023-11-14T22:13:20.000000001Z", "1700000000.000000001"),
        ("2023-11-14T23:13:20+01:00", "1700000000.000000000"),
        ("10m", "1699999400.000000000"),
        ("", None),
    ],
)
def test_times_in_queries_are_converted_to_unix_timestamps(text: str, expected: str | None) -> None:
    assert times.query_time(text, now=1_700_000_000) == expected


def test_invalid_query_times_are_refused() -> None:
    with pytest.raises(CliError, match="yesterday"):
        times.query_time("yesterday")


def port(private: int, public: int = 0, ip: str = "", kind: str = "tcp") -> dict[str, Any]:
    return {"PrivatePort": private, "Type": kind, **({"PublicPort": public, "IP": ip} if public else {})}


@pytest.mark.parametrize(
    ("published", "text"),
    [
        ([], ""),
        ([port(80)], "80/tcp"),
        ([port(80, 8080, "0.0.0.0"), port(80, 8080, "::")], "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"),
        ([port(9001), port(9000), port(9002)], "9000-9002/tcp"),
        ([port(80, 80, "0.0.0.0"), port(81, 81, "0.0.0.0")], "0.0.0.0:80-81->80-81/tcp"),
        ([port(80), port(82), port(53, kind="udp")], "80/tcp, 53/udp, 82/tcp"),
        ([port(80, 8080, "0.0.0.0"), port(90)], "90/tcp, 0.0.0.0:8080->80/tcp"),
    ],
)
def test_published_ports_are_displayed_like_docker(published: list[dict[str, Any]], text: str) -> None:
    shown = ports.displayable(published)
    assert sorted(shown.split(", ")) == sorted(text.split(", "))
    assert ("->" not in shown) or shown.index("->") >= (text.index("->") if "->" in text else 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", {"80/tcp": [{"HostIp": "", "HostPort": ""}]}),
        ("8080:80", {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}),
        ("127.0.0.1:8080:80/udp", {"80/udp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}),
        ("127.0.0.1::80", {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}),
        ("[::1]:8080:80", {"80/tcp": [{"HostIp": "::1", "HostPort": "8080"}]}),
        ("80-81:90-91", {"90/tcp": [{"HostIp": "", "HostPort": "80"}], "91/tcp": [{"HostIp": "", "HostPort": "81"}]}),
        ("8000-8010:80", {"80/tcp": [{"HostIp": "", "HostPort": "8000-8010"}]}),
        ("published=8080,target=80,protocol=udp", {"80/udp": [{"HostIp": "", "HostPort": "8080"}]}),
    ],
)
def test_values_of_the_publish_flag_are_parsed(text: str, expected: dict[str, Any]) -> None:
    assert ports.parse_publish(text) == expected


@pytest.mark.parametrize(
    "text", ["foo", "8080:", "1:2:3:4", "80/xyz", "70000", "1-2:3-5", "300.1.1.1:1:2", "published=1", "[::1:80"]
)
def test_invalid_publish_flags_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)inval|no port"):
        ports.parse_publish(text)


def test_columns_are_as_wide_as_their_cells() -> None:
    assert table.layout([["ID", "NAME"], ["a-longer-one", "x"]]) == "ID             NAME\na-longer-one   x\n"
    assert table.layout([["A", "B", "C"], ["x"], ["aaaaaaaaaaaaaa", "b", "c"]]).splitlines()[0] == "A         B         C"


@pytest.mark.parametrize(
    ("text", "canonical", "name"),
    [
        ("alpine", "docker.io/library/alpine:latest", "alpine"),
        ("a/b:1", "docker.io/a/b:1", "a/b"),
        ("localhost/x", "localhost/x:latest", "localhost/x"),
        ("reg.io:5000/a/b:t", "reg.io:5000/a/b:t", "reg.io:5000/a/b"),
        ("docker.io/library/x", "docker.io/library/x:latest", "x"),
        ("x@sha256:" + "a" * 64, "docker.io/library/x@sha256:" + "a" * 64, "x"),
    ],
)
def test_image_references_are_normalized(text: str, canonical: str, name: str) -> None:
    reference = references.parse(text).with_default_tag()
    assert (reference.canonical, reference.name) == (canonical, name)


@pytest.mark.parametrize("text", ["Foo", "a:b:c", "", "-x", "a//b", "x:", "x@sha256:12", "a b"])
def test_invalid_image_references_are_refused(text: str) -> None:
    with pytest.raises(CliError, match="invalid reference format"):
        references.parse(text)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--rm=true", "busybox"], ["--rm", "busybox"]),
        (["--rm=false", "-d=1", "x"], ["--no-rm", "-d", "x"]),
        (["--sig-proxy=false", "x"], ["--no-sig-proxy", "x"]),
        (["-m=512m", "x"], ["-m", "512m", "x"]),
        (["-e", "--rm=false", "x", "--rm=false"], ["-e", "--rm=false", "x", "--rm=false"]),
        (["-itm", "1g", "x", "-d=true"], ["-itm", "1g", "x", "-d=true"]),
        (["--name", "n", "x", "--init=true"], ["--name", "n", "x", "--init=true"]),
        (["--name=n", "--", "x"], ["--name=n", "--", "x"]),
    ],
)
def test_boolean_flags_are_normalized_like_pflag(given: list[str], expected: list[str]) -> None:
    assert normalise(run.click(), given, interspersed=False) == expected
