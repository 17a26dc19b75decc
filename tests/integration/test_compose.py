"""`docker compose`: a project of two services is started, inspected, and removed."""

import json

import pytest
from tests.integration.engine import BUSYBOX, until

from orlop_sdk.testing.ports import free_port

pytestmark = pytest.mark.root

_PROJECT = {
    "services": {
        "store": {
            "image": BUSYBOX,
            "command": ["sh", "-c", "touch /data/ready; while :; do echo greetings | nc -l -p 5000; done"],
            "healthcheck": {"test": ["CMD", "test", "-e", "/data/ready"], "interval": "200ms", "retries": 20},
            "volumes": ["kept:/data"],
        },
        "reader": {
            "image": BUSYBOX,
            "command": ["sh", "-c", "while :; do nc -w 1 store 5000 </dev/null; sleep 0.2; done"],
            "depends_on": {"store": {"condition": "service_healthy"}},
            "environment": {"OF": "compose"},
            "deploy": {"resources": {"limits": {"memory": "64M", "pids": 50}}},
        },
    },
    "volumes": {"kept": {}},
}


def test_compose_project_starts_and_stops(engine, name, tmp_path):
    if engine.docker("compose", "version").code:
        pytest.skip("the compose plugin of the docker client is not installed")
    project = json.loads(json.dumps(_PROJECT))
    project["services"]["reader"]["ports"] = [f"127.0.0.1:{free_port()}:80"]
    file = tmp_path / "compose.yaml"
    file.write_text(json.dumps(project))  # JSON is valid YAML

    def compose(*words, seconds=60):
        return engine.docker("compose", "-p", name, "-f", str(file), *words, check=0, seconds=seconds).out

    compose("up", "-d")
    try:
        shown = [json.loads(line) for line in compose("ps", "--format", "json").splitlines()]
        assert {(item["Service"], item["State"], item["Health"]) for item in shown} == {
            ("store", "running", "healthy"),
            ("reader", "running", ""),
        }
        until(lambda: "greetings" in compose("logs", "--no-log-prefix", "reader"))
        assert "OF=compose" in compose("exec", "-T", "reader", "env")
        compose("cp", "store:/data/ready", str(tmp_path / "got"))
        assert (tmp_path / "got").exists()
        first = engine.inspect(f"{name}-reader-1")["Id"]
        compose("up", "-d")  # nothing has changed, so nothing is done
        assert engine.inspect(f"{name}-reader-1")["Id"] == first
        project["services"]["reader"]["environment"]["OF"] = "another"
        file.write_text(json.dumps(project))
        compose("up", "-d", "-t", "0")
        assert engine.inspect(f"{name}-reader-1")["Id"] != first
        assert "OF=another" in compose("exec", "-T", "reader", "env")
    finally:
        compose("down", "-v", "-t", "0")
    assert engine.docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={name}").out == ""
    assert not engine.docker("network", "ls", "-q", "--filter", f"name={name}_default").out
    assert not engine.docker("volume", "ls", "-q", "--filter", f"name={name}_kept").out
