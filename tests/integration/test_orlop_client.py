"""The `orlop` client with orlopd: basic commands, with docker's syntax."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.integration.engine import Engine, archive, until

from orlop_sdk.testing.ports import free_port

pytestmark = pytest.mark.root


def test_orlop_run_prints_output_and_returns_the_exit_code(engine: Engine) -> None:
    result = engine.orlop("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (result.code, result.out, result.err) == (3, "out\n", "err\n")
    assert engine.orlop("run", "--rm", "-i", "busybox", "cat", stdin="through").out == "through"


def test_failed_commands_have_the_exit_codes_of_docker(engine: Engine) -> None:
    result = engine.orlop("run", "--rm", "busybox", "no-such-command")
    assert result.code == 127
    assert "executable file not found in $PATH" in result.err
    assert engine.orlop("run", "--rm", "busybox", "/etc/passwd").code == 126
    assert engine.orlop("run", "--rm", "--memory", "1m", "busybox", "true").code == 125


def test_container_goes_through_all_lifecycle_commands(engine: Engine, name: str) -> None:
    container = engine.orlop("create", "--name", name, "-e", "A=1", "busybox", "sleep", "600", check=0).line
    assert re.fullmatch("[0-9a-f]{64}", container)
    assert engine.orlop("start", name, check=0).line == name
    assert engine.orlop("ps", "--filter", f"name={name}", "--format", "{{.ID}} {{.State}}", check=0).line == (
        f"{container[:12]} running"
    )
    assert engine.orlop("exec", "-e", "B=2", name, "sh", "-c", "echo $A$B", check=0).line == "12"
    assert engine.orlop("exec", name, "no-such").code == 127
    assert "sleep 600" in engine.orlop("top", name, check=0).out
    engine.orlop("pause", name, check=0)
    engine.orlop("unpause", name, check=0)
    engine.orlop("rename", name, f"{name}-new", check=0)
    engine.orlop("restart", "-t", "0", f"{name}-new", check=0)
    engine.orlop("stop", "-t", "0", f"{name}-new", check=0)
    assert engine.orlop("wait", f"{name}-new", check=0).line == "137"
    assert json.loads(engine.orlop("inspect", f"{name}-new", check=0).out)[0]["Id"] == container
    assert engine.orlop("rm", f"{name}-new", check=0).line == f"{name}-new"
    result = engine.orlop("inspect", f"{name}-new")
    assert result.code == 1
    assert f"{name}-new" in result.err


def test_orlop_logs_prints_and_follows_output(engine: Engine, name: str) -> None:
    engine.orlop("run", "-d", "--name", name, "busybox", "seq", "1", "5", check=0)
    engine.orlop("wait", name, check=0)
    assert engine.orlop("logs", name, check=0).out == "1\n2\n3\n4\n5\n"
    assert engine.orlop("logs", "-f", "--tail", "2", name, check=0).out == "4\n5\n"


def test_published_port_and_volume_work(engine: Engine, name: str) -> None:
    port = free_port()
    page = "echo page > /www/index.html; exec httpd -f -h /www"
    flags = ["-d", "--name", name, "-p", f"{port}:80", "-v", f"{name}:/www"]
    engine.orlop("run", *flags, "busybox", "sh", "-c", page, check=0)
    until(lambda: engine.run(["curl", "-sf", f"http://127.0.0.1:{port}/"]).line == "page", "the page")
    assert f"80/tcp -> 0.0.0.0:{port}" in engine.orlop("port", name, check=0).out
    assert name in engine.orlop("volume", "ls", "-q", check=0).out.split()
    engine.orlop("rm", "-f", name, check=0)
    assert engine.orlop("volume", "rm", name, check=0).line == name


def test_images_are_loaded_tagged_listed_and_removed(engine: Engine, name: str, tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(archive())
    assert "Loaded image: busybox:latest" in engine.orlop("load", "-i", str(tmp_path / "image.tar"), check=0).out
    engine.orlop("tag", "busybox", f"{name}:1", check=0)
    assert f"{name}" in engine.orlop("images", check=0).out
    engine.orlop("rmi", f"{name}:1", check=0)


def test_network_is_created_used_and_removed(engine: Engine, name: str) -> None:
    network = engine.orlop("network", "create", name, check=0).line
    assert re.fullmatch("[0-9a-f]{64}", network)
    out = engine.orlop("run", "--rm", "--network", name, "busybox", "ls", "/sys/class/net", check=0).out
    assert out.split() == ["eth0", "lo"]
    assert engine.orlop("network", "rm", name, check=0).line == name


def test_info_and_version_describe_the_daemon(engine: Engine) -> None:
    assert "overlay2" in engine.orlop("info", check=0).out
    assert "Server" in engine.orlop("version", check=0).out
    assert engine.orlop("version", "--format", "{{.Server.ApiVersion}}", check=0).line.startswith("1.")


def test_missing_daemon_is_reported_without_a_traceback(engine: Engine) -> None:
    result = engine.run([engine.command[0], "-m", "orlop_cli", "--host", f"unix://{engine.home}/none.sock", "ps"])
    assert result.code == 1
    assert "none.sock" in result.err
    assert "Traceback" not in result.err
