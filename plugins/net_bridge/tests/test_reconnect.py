"""Endpoints that are connected again at boot: which failures count."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from orlop_net_bridge._audit import Wanted
from orlop_net_bridge.driver import BridgeDriver
from orlop_sdk import DriverError


def test_the_failure_of_a_container_that_has_ended_is_none(tmp_path: Path) -> None:
    """Its network namespace is gone, and with it what could be connected."""
    (tmp_path / "living").touch()

    def fail(endpoint: Any, *args: Any, **named: Any) -> None:
        raise DriverError(f"cannot connect container {endpoint.id}: No such file or directory")

    bridge = SimpleNamespace(name="b0", icc=True, internal=False, mtu=1500)
    state = SimpleNamespace(host_link="veth0", mac="")
    endpoints = [
        (
            SimpleNamespace(
                id=name, container_id=name, netns=str(tmp_path / name), network=SimpleNamespace(id="n", name="n")
            ),
            state,
        )
        for name in ("ended", "living")
    ]
    driver = SimpleNamespace(_open_links=lambda: SimpleNamespace(listed=list), _reconnect=fail)
    wanted = Wanted(cast("Any", {"n": bridge}), cast("Any", endpoints))
    failures = BridgeDriver._reconnect_all(cast("Any", driver), wanted)
    assert [str(failure) for failure in failures] == ["cannot connect container living: No such file or directory"]
