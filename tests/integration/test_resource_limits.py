"""A daemon with restricted limits: few descriptors, and no capability to raise the limit."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from tests.integration.engine import Engine

pytestmark = pytest.mark.root

FEW = ("setpriv", "--bounding-set", "-sys_resource", "prlimit", "--nofile=1024:1024")


def test_daemon_runs_with_a_low_hard_limit_that_it_cannot_raise(fresh: Callable[..., Engine]) -> None:
    """Code that lowers a limit in a child must not fail if the limit is already lower."""
    engine = fresh(prefix=FEW)  # loads an image, so a layer was unpacked
    name = engine.ok("run", "-d", "-v", "/etc", "busybox", "sleep", "600")  # the volume was filled from the image
    engine.ok("exec", name, "touch", "/etc/here")
    engine.ok("cp", f"{name}:/etc/passwd", "-")
    engine.ok("rm", "-f", name)
    name = engine.ok("create", "busybox")
    engine.ok("cp", f"{name}:/etc/passwd", "-")
    engine.docker("export", name, check=0)
    engine.ok("commit", name, "committed")


def test_daemon_killed_during_an_export_leaves_no_mount_point(fresh: Callable[..., Engine]) -> None:
    engine = fresh()
    name = engine.ok("create", "busybox")
    engine.docker("export", name, check=0)
    before = sorted(engine.exec_root.iterdir())
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(engine.socket)
        client.sendall(f"GET /containers/{name}/export HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        assert client.recv(64)  # the client stops reading, so the worker blocks
        engine.kill()
    assert sorted(engine.exec_root.iterdir()) == before
    engine.start()
    assert sorted(path.name for path in engine.exec_root.glob("files*")) == ["files"]
