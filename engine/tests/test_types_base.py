"""The base classes of all Structs, and time formats."""

from __future__ import annotations

import msgspec
import pytest

from orlop_engine.types import ZERO_TIME, ConfigBase, WireBase, parse_rfc3339, rfc3339


class Wire(WireBase):
    host_config: int = 0
    id: str = msgspec.field(name="ID", default="")


class Config(ConfigBase, frozen=True):
    data_root: str = ""


def test_wire_types_use_pascal_case_and_ignore_unknown_members() -> None:
    assert msgspec.json.encode(Wire(host_config=1)) == b'{"HostConfig":1,"ID":""}'
    assert msgspec.json.decode(b'{"HostConfig":2,"New":1}', type=Wire).host_config == 2


def test_configuration_uses_kebab_case_and_refuses_unknown_keys() -> None:
    assert msgspec.json.decode(b'{"data-root":"/x"}', type=Config).data_root == "/x"
    with pytest.raises(msgspec.ValidationError, match="data-rot"):
        msgspec.json.decode(b'{"data-rot":"/x"}', type=Config)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, ZERO_TIME),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (1_700_000_000_000_000_000, "2023-11-14T22:13:20Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456789Z"),
        (1_700_000_000_120_000_000, "2023-11-14T22:13:20.12Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
    ],
)
def test_times_are_formatted_and_parsed(ns: int, text: str) -> None:
    assert rfc3339(ns) == text
    assert parse_rfc3339(text) == ns


def test_other_spellings_of_a_time_are_parsed() -> None:
    assert parse_rfc3339("2023-11-14T23:43:20.5+01:30") == 1_700_000_000_500_000_000
    assert parse_rfc3339("2023-11-14t22:13:20z") == 1_700_000_000_000_000_000
    assert parse_rfc3339("2023-11-14T22:13:20.1234567891Z") == 1_700_000_000_123_456_789
    assert parse_rfc3339("") == 0


@pytest.mark.parametrize(
    "text", ["now", "2023-11-14", "2023-11-14T22:13:20", "2023-13-14T22:13:20Z", "2023-11-14T25:13:20Z"]
)
def test_invalid_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an RFC 3339 time"):
        parse_rfc3339(text)
