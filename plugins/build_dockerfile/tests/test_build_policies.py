"""`builder.gc` of daemon.json."""

from __future__ import annotations

import msgspec
import pytest

from orlop_build_dockerfile.contracts import Policy
from orlop_build_dockerfile.daemon.policies import PolicyError, history_limits, policies
from orlop_build_dockerfile.keys import BuildKeys, Collection

GB = 1 << 30


def given(text: str) -> Collection:
    return msgspec.json.decode(text, type=BuildKeys).builder.gc


def test_gc_policies_are_read_from_daemon_json() -> None:
    """This configuration is an example in Docker's documentation."""
    found = policies(
        given(
            '{"builder": {"gc": {"enabled": true, "defaultKeepStorage": "10GB", "policy": ['
            '{"keepStorage": "10GB", "filter": ["unused-for=2200h"]},'
            '{"keepStorage": "50GB", "filter": ["unused-for=3300h", "type==source.local"]},'
            '{"all": true}]}}}'
        ),
        "/",
    )
    assert found == (
        Policy(keep_duration=2200 * 3600, reserved=10 * GB),
        Policy(("type==source.local",), keep_duration=3300 * 3600, reserved=50 * GB),
        Policy(everything=True, reserved=10 * GB),
    )


def test_default_gc_policies_keep_the_configured_space_or_a_tenth_of_the_disk() -> None:
    """Without a configured space, the reserve is a tenth of the disk."""
    found = policies(Collection(), "/nowhere/yet")
    assert [rule.everything for rule in found] == [False, False, False, True]
    assert found[0].maximum == 512 << 20 and found[0].keep_duration == 48 * 3600
    assert len({rule.reserved for rule in found[1:]}) == 1 and found[1].reserved > 0
    assert all(
        rule.reserved == GB for rule in policies(given('{"builder": {"gc": {"defaultReservedSpace": "1GB"}}}'), "/")[1:]
    )


@pytest.mark.parametrize(
    "text",
    ['{"defaultKeepStorage": "much"}', '{"policy": [{"filter": ["unused-for=48"]}]}', '{"policy": [{"minFreeSpace": "x"}]}'],
)
def test_invalid_sizes_and_durations_are_refused(text: str) -> None:
    with pytest.raises(PolicyError, match=r"builder\.gc"):
        policies(given(f'{{"builder": {{"gc": {text}}}}}'), "/")


def test_limits_of_the_build_history_are_read_from_daemon_json() -> None:
    keys = msgspec.json.decode(b'{"builder": {"history": {"maxAge": "1h30m", "maxEntries": 7}}}', type=BuildKeys)
    assert history_limits(keys.builder.history) == (5400, 7)
    assert history_limits(BuildKeys().builder.history) == (48 * 3600, 50)


@pytest.mark.parametrize("text", ['{"maxAge": "long"}', '{"maxEntries": -1}'])
def test_invalid_limits_of_the_build_history_are_refused(text: str) -> None:
    keys = msgspec.json.decode(f'{{"builder": {{"history": {text}}}}}'.encode(), type=BuildKeys)
    with pytest.raises(PolicyError, match=r"builder\.history"):
        history_limits(keys.builder.history)
