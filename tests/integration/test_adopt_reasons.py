"""Objects of a Docker root that are not adopted, and the reasons: with a real dockerd that is part of a swarm and has a
plugin."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.adopting import adopting, running, system
from tests.integration.docker_root import Dockerd, snapshot
from tests.integration.engine import BUSYBOX, archive, until

from orlop_sdk.testing.ports import free_port

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to take a root from"),
]

PLUGIN = {
    "description": "none",
    "entrypoint": ["/x"],
    "interface": {"types": ["docker.volumedriver/1.0"], "socket": "x.sock"},
    "network": {"type": "none"},
    "linux": {},
    "mounts": [],
    "env": [],
    "args": {},
}


@pytest.fixture
def docker() -> Iterator[Dockerd]:
    home = Path(tempfile.mkdtemp(prefix="otr-", dir="/tmp"))
    made = Dockerd(home, containerd=False)
    try:
        made.start()
        yield made
    finally:
        made.close()
        subprocess.run(["ip", "link", "del", "docker_gwbridge"], capture_output=True, check=False)  # of the swarm
        shutil.rmtree(home, ignore_errors=True)


def test_swarm_and_plugin_objects_are_not_adopted_and_are_reported(docker: Dockerd) -> None:
    docker.ok("load", "-q", stdin=archive())
    docker.ok("create", "--name", "mine", BUSYBOX, "true")
    docker.ok("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", f"127.0.0.1:{free_port()}")
    docker.ok("secret", "create", "secret", "-", stdin=b"secret")
    docker.ok("service", "create", "-q", "--detach", "--name", "served", BUSYBOX, "sleep", "1000")
    until(lambda: "served.1." in docker.ok("ps", "-a", "--format", "{{.Names}}"), "the task of the service", 60)
    (docker.home / "plugin/rootfs").mkdir(parents=True)
    (docker.home / "plugin/config.json").write_text(json.dumps(PLUGIN))
    docker.ok("plugin", "create", "example/plugin", str(docker.home / "plugin"))
    docker.note_bridges()
    docker.stop()
    untouched = snapshot(docker.root)
    with adopting() as engine:
        shown = system(engine, "adopt", str(docker.root), "--dry-run", "--format", "json")
        found = {f"{each['kind']} {each['name']}": each for each in json.loads(shown.out)["objects"]}
        assert snapshot(docker.root) == untouched and not engine.data_root.exists(), "a look changes nothing"
        assert {name: each["text"] for name, each in found.items() if not each["adopted"]} == {
            "network docker_gwbridge": "it is a network of a swarm",  # tasks and other networks end with dockerd
            "swarm ": "this node is part of a swarm: its services, secrets and configs are not adopted",
            "plugin example/plugin:latest": "managed plugins are not supported",
            "build cache ": "the cache of `docker build` is not adopted",
        }
        table = system(engine, "adopt", str(docker.root), "--dry-run").out
        assert "managed plugins are not supported" in table and "mine" in table
        system(engine, "adopt", str(docker.root))
        engine.start()
        assert engine.ok("ps", "-a", "--format", "{{.Names}}") == "mine" and running(engine) == []
