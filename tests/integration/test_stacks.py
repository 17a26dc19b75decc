"""Three configurations of drivers run one scenario: the default drivers; other drivers of Orlop; and drivers of another
author, which are built from the templates as wheels and installed in a virtual environment.

The second stack logs to a recording syslog service. journald would need systemd.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from tests.integration.engine import BUSYBOX, Engine, until
from tests.integration.environments import PluginEngine, environment

from orlop_driver_tools.new import KINDS, project
from orlop_sdk.testing import RecordingService

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

SERVER = ("sh", "-c", "echo page > /www/index.html; echo ready; exec httpd -f -p 80 -h /www")
BUILD = """
import os, sys
from hatchling.build import build_wheel
for project in sys.argv[2:]:
    os.chdir(project)
    build_wheel(sys.argv[1])
"""


class Stack(NamedTuple):
    """The driver of each kind, and what daemon.json has in addition."""

    storage: str
    log: str
    network: str
    runtime: str
    volume: str = "local"
    more: Mapping[str, Any] = MappingProxyType({})

    @property
    def config(self) -> dict[str, Any]:
        names = {"storage-driver": self.storage, "log-driver": self.log, "default-runtime": self.runtime}
        return {**names, "live-restore": True, "shutdown-timeout": 3, **self.more}


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    try:
        engine.start()
        engine.load()
        yield engine
    finally:
        left = engine.close()
    assert left == []


def page(engine: Engine) -> str:
    """What another container of the network gets from the server, which it finds by name."""
    done = engine.docker("run", "--rm", "--network", "front", BUSYBOX, "wget", "-q", "-T", "20", "-O-", "http://web/")
    return done.line if done.code == 0 else ""


def scenario(engine: Engine, stack: Stack) -> None:
    engine.ok("network", "create", "-d", stack.network, "front")
    engine.ok("volume", "create", "-d", stack.volume, "data")
    engine.ok("run", "-d", "--name", "web", "--network", "front", "-v", "data:/www", BUSYBOX, *SERVER)
    until(lambda: page(engine) == "page", "the answer of the server")
    assert used(engine) == stack[:5]

    engine.ok("exec", "web", "sh", "-c", "echo kept >/kept")
    assert set(engine.ok("diff", "web").split("\n")) == {"A /kept", "A /www"}
    engine.ok("commit", "web", "made:1")
    assert engine.ok("run", "--rm", "--network", "none", "made:1", "cat", "/kept") == "kept"
    engine.ok("cp", "web:/kept", f"{engine.home}/kept")
    engine.ok("cp", f"{engine.home}/kept", "web:/www/copied")

    pid = engine.inspect("web")["State"]["Pid"]
    engine.restart()
    assert engine.inspect("web")["State"]["Pid"] == pid
    assert page(engine) == "page"
    until(lambda: engine.ok("logs", "web") == "ready", "the log")
    engine.ok("restart", "-t", "0", "web")
    until(lambda: engine.ok("logs", "web") == "ready\nready", "the log after the restart")
    until(lambda: page(engine) == "page", "the answer of the server after the restart")
    assert engine.ok("exec", "web", "cat", "/kept", "/www/copied") == "kept\nkept"

    engine.ok("rm", "-f", "web")
    assert engine.ok("run", "--rm", "--network", "none", "-v", "data:/d", BUSYBOX, "cat", "/d/copied") == "kept"
    engine.ok("volume", "rm", "data")
    engine.ok("network", "rm", "front")
    engine.ok("rmi", "made:1")
    engine.until_sound()


def used(engine: Engine) -> tuple[str, ...]:
    shown = engine.inspect("web")
    host = shown["HostConfig"]
    network = engine.ok("network", "inspect", "-f", "{{.Driver}}", "front")
    return (shown["GraphDriver"]["Name"], host["LogConfig"]["Type"], network, host["Runtime"], shown["Mounts"][0]["Driver"])


def test_default_drivers_run_the_scenario() -> None:
    stack = Stack("overlay2", "json-file", "bridge", "runc")
    with running(Engine(stack.config)) as engine:
        scenario(engine, stack)


def test_other_drivers_of_orlop_run_the_scenario() -> None:
    with closing(RecordingService("udp")) as service:
        stack = Stack("erofs", "syslog", "macvlan", "crun", more={"log-opts": {"syslog-address": service.address}})
        with running(Engine(stack.config)) as engine:
            scenario(engine, stack)
        until(lambda: sum(b"ready" in record for record in service.records) == 2, "both lines at the service")


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment with a driver `acme` of each kind, installed from wheels."""
    for kind in KINDS:
        project(kind, "acme").write(tmp_path / kind)
    (tmp_path / "wheels").mkdir()
    projects = [str(tmp_path / kind) for kind in KINDS]
    subprocess.run([sys.executable, "-c", BUILD, str(tmp_path / "wheels"), *projects], check=True, capture_output=True)
    site = environment(tmp_path / "venv")
    wheels = [str(path) for path in (tmp_path / "wheels").glob("*.whl")]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(site), *wheels], check=True, capture_output=True)
    return tmp_path / "venv"


def test_drivers_of_another_author_run_the_scenario(venv: Path) -> None:
    more = {"runtimes": {"acme": {"runtimeType": "acme", "path": "runc"}}}
    stack = Stack("acme", "acme", "acme", "acme", "acme", more)
    with running(PluginEngine(stack.config, venv)) as engine:
        scenario(engine, stack)
