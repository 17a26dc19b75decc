"""`"default-runtime": "auto"`: new containers get crun if it is installed; existing containers keep their runtime."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.integration.engine import Engine

pytestmark = pytest.mark.root

RUNTIME = "{{.HostConfig.Runtime}}"


def test_containers_keep_the_runtime_that_the_setting_auto_has_chosen(fresh: Callable[..., Engine]) -> None:
    engine = fresh({"default-runtime": "auto"})
    assert engine.ok("info", "--format", "{{.DefaultRuntime}}") == "crun"
    engine.ok("run", "-d", "--name", "fast", "busybox", "sleep", "600")
    assert engine.ok("inspect", "--format", RUNTIME, "fast") == "crun"
    absent = engine.docker("run", "--rm", "busybox", "nosuch")
    assert absent.code == 127 and 'exec: "nosuch": executable file not found in $PATH' in absent.err, absent

    engine.stop()
    engine.configure({"default-runtime": "runc"})
    engine.start()
    engine.ok("run", "-d", "--name", "usual", "busybox", "sleep", "600")
    assert engine.ok("inspect", "--format", RUNTIME, "usual") == "runc"
    engine.ok("start", "fast")
    assert engine.ok("exec", "fast", "echo", "well") == "well"
    engine.ok("rm", "-f", "fast", "usual")
