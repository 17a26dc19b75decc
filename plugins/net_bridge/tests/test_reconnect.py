"""Endpoints that are connected again at the start of the daemon."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from orlop_net_bridge._audit import Wanted
from orlop_net_bridge.driver import _reachable


def test_endpoints_of_ended_containers_are_not_connected_again_at_start(tmp_path: Path) -> None:
    """Their network namespaces no longer exist, and an attempt would log an error for each container."""
    (tmp_path / "living").touch()
    endpoints = [(SimpleNamespace(netns=str(tmp_path / name)), name) for name in ("ended", "living")]
    left = _reachable(Wanted({}, cast("Any", endpoints))).endpoints
    assert [name for _, name in left] == ["living"]
