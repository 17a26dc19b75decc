"""SIGHUP on a real daemon: changes that a reload applies, changes that it ignores, and changes that it refuses while
containers run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import BUSYBOX, Engine, until

pytestmark = pytest.mark.root

FIRST = {"shutdown-timeout": 3, "labels": ["ship=one"]}


def reload(engine: Engine, config: dict[str, Any] | str) -> str:
    """Change the file, send SIGHUP, and return the daemon's log lines about the reload."""
    if isinstance(config, str):
        engine.config_path.write_text(config)
    else:
        engine.configure(config)
    assert engine.process is not None
    before = len(engine.log())
    engine.process.send_signal(signal.SIGHUP)
    until(lambda: any(text in engine.log()[before:] for text in ("configuration reloaded", "stays in use")), "a reload")
    return engine.log()[before:]


def info(engine: Engine) -> dict[str, Any]:
    return dict(json.loads(engine.ok("info", "--format", "json")))


def created(engine: Engine, *argv: str) -> dict[str, Any]:
    ident = engine.ok("create", *argv, BUSYBOX, "true")
    found = engine.inspect(ident)["HostConfig"]
    engine.ok("rm", ident)
    return dict(found)


def wrapper(engine: Engine, name: str) -> tuple[str, Path]:
    """A runtime that creates a file when it is run."""
    program, mark = engine.home / name, engine.home / f"{name}.ran"
    program.write_text(f'#!/bin/sh\ntouch {mark}\nexec runc "$@"\n')
    program.chmod(0o755)
    return str(program), mark


def test_reload_applies_a_valid_configuration_and_an_invalid_configuration_changes_nothing(
    fresh: Callable[..., Engine],
) -> None:
    engine = fresh(FIRST)
    log = reload(
        engine,
        {
            **FIRST,
            "labels": ["ship=two"],
            "debug": True,
            "mtu": 1400,
            "live-restore": True,
            "log-driver": "local",
            "log-opts": {"max-size": "1m"},
            "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 512, "Hard": 1024}},
            "default-shm-size": "32M",
            "init": True,
            "registry-mirrors": ["https://mirror.example"],
            "insecure-registries": ["registry.example:5000"],
            "runtimes": {"other": {"path": "/usr/bin/false"}},
            "max-concurrent-downloads": 7,
        },
    )
    assert "changed, but needs a restart of the daemon: mtu" in log
    unchanged = log.rpartition("; unchanged: ")[2].splitlines()[0].split(", ")  # includes the test environment's keys
    assert {"data-root", "exec-root", "hosts", "shutdown-timeout"} <= {*unchanged}
    for key in ("debug", "default-ulimits", "init", "labels", "live-restore", "log-driver", "log-opts", "runtimes"):
        assert f"{key}," in log.split("applied: ")[1] or f"{key};" in log.split("applied: ")[1]
    found = info(engine)
    assert (found["Labels"], found["Debug"], found["LiveRestoreEnabled"]) == (["ship=two"], True, True)
    assert (found["LoggingDriver"], "other" in found["Runtimes"]) == ("local", True)
    assert found["RegistryConfig"]["Mirrors"] == ["https://mirror.example/"]
    assert found["RegistryConfig"]["IndexConfigs"]["registry.example:5000"]["Secure"] is False
    host = created(engine)
    assert host["LogConfig"] == {"Type": "local", "Config": {"max-size": "1m"}}
    assert host["Ulimits"] == [{"Name": "nofile", "Hard": 1024, "Soft": 512}]
    assert host["ShmSize"] == 32 << 20
    (event,) = engine.all_events(type="daemon")
    assert event["Actor"]["Attributes"]["labels"] == '["ship=two"]'
    assert event["Actor"]["Attributes"]["max-concurrent-downloads"] == "7"
    assert "other:/usr/bin/false" in event["Actor"]["Attributes"]["runtimes"].split()

    shown = {each["Key"]: each for each in json.loads(engine.orlop("config", "show", "--format", "json").out)["Values"]}
    assert (shown["mtu"]["Value"], shown["mtu"]["Origin"], shown["mtu"]["Plugin"]) == (1500, "default", "engine")
    assert shown["debug"] == {"Key": "debug", "Value": True, "Origin": f"{engine.config_path}:1"}
    assert shown["exec-root"]["Origin"] == "--exec-root"
    told = engine.orlop("config", "show", "--origin", check=0)
    assert "these keys need a restart of the daemon: mtu" in told.err
    assert any(line.split() == ["log-driver", '"local"', f"{engine.config_path}:1"] for line in told.out.splitlines())

    for broken, texts in (
        (
            '{"labels": ["ship=three"],\n "debug": "loud",\n "mut": 5}',
            ("debug: loud: expected true", 'mut (line 3; did you mean "mtu"?)'),
        ),
        ('{"labels": ["ship=three"]', ("invalid JSON: line 1",)),
        ('{"labels": ["ship=three"], "log-driver": "nosuch"}', ('plugin "nosuch" not found',)),
        ('{"labels": ["ship=three"], "log-opts": {"max-sise": "1"}}', ("unknown log opt 'max-sise'",)),
        ('{"labels": ["ship=three"], "seccomp-profile": "/nosuch"}', ("cannot use seccomp-profile /nosuch",)),
        ('{"labels": ["ship=three"], "init-path": "/nosuch"}', ("cannot use init-path: /nosuch is not an executable",)),
        ('{"labels": ["ship=three"], "storage-driver": "nosuch"}', ('cannot find storage driver "nosuch"',)),
        ('{"labels": ["ship=three"], "default-gateway": "203.0.113.1"}', ("cannot use 203.0.113.1 as default-gateway",)),
        ('{"labels": ["ship=three"], "tlsverify": false, "tlscert": "/no", "tlskey": "/no"}', ("cannot read tlscert /no",)),
    ):
        log = reload(engine, broken)
        assert all(text in log for text in texts), log
        assert "Traceback" not in log
    found = info(engine)
    assert (found["Labels"], found["Debug"], found["LoggingDriver"]) == (["ship=two"], True, "local")
    assert len(engine.all_events(type="daemon")) == 1

    log = reload(engine, FIRST)  # a removed key gets its default
    assert "needs a restart" not in log
    found = info(engine)
    assert (found["Labels"], found["Debug"], found["LoggingDriver"]) == (["ship=one"], False, "json-file")
    assert found["RegistryConfig"]["Mirrors"] in (None, [])
    host = created(engine)
    assert host["LogConfig"]["Type"] == "json-file"
    assert not host["Ulimits"]
    assert host["ShmSize"] == 64 << 20
    assert "applied: nothing" in reload(engine, FIRST)


def deleted(engine: Engine) -> None:
    """Wait until the runtime has deleted the container, because `run --rm` returns earlier."""
    until(lambda: not os.listdir(engine.home / "run" / "run"), "the runtime's delete")


def test_containers_use_the_new_runtime_after_a_reload_although_the_old_program_is_in_memory(
    fresh: Callable[..., Engine],
) -> None:
    engine = fresh(FIRST)
    first, first_ran = wrapper(engine, "first")
    second, second_ran = wrapper(engine, "second")
    engine.configure({**FIRST, "runtimes": {"own": {"path": first}}, "default-runtime": "own"})
    engine.restart()  # the new zygote loads the runtime's program into memory
    engine.ok("run", "--rm", BUSYBOX, "true")
    assert first_ran.exists()
    deleted(engine)
    first_ran.unlink()
    reload(engine, {**FIRST, "runtimes": {"own": {"path": second}}, "default-runtime": "own"})
    engine.ok("run", "--rm", BUSYBOX, "true")
    assert second_ran.exists()
    assert not first_ran.exists()
    deleted(engine)
    second_ran.unlink()
    reload(engine, FIRST)
    assert engine.ok("run", "--rm", BUSYBOX, "echo", "runc") == "runc"
    assert not second_ran.exists()


def test_exec_uses_the_settings_that_were_in_effect_when_the_container_started(fresh: Callable[..., Engine]) -> None:
    """A reload or a new daemon process does not change the settings of a running container's execs."""

    def quiet() -> str:
        return engine.ok("exec", "web", "grep", "NoNewPrivs", "/proc/self/status").split()[-1]

    live = {**FIRST, "live-restore": True}
    engine = fresh(live)
    engine.ok("run", "-d", "--name", "web", BUSYBOX, "sleep", "1000")
    reload(engine, {**live, "no-new-privileges": True})
    assert quiet() == "0"
    engine.restart()
    assert quiet() == "0"
    engine.ok("restart", "-t", "0", "web")
    assert quiet() == "1"
    reload(engine, live)
    assert quiet() == "1"


def refused(engine: Engine, config: dict[str, Any], *flags: str) -> str:
    """Start a daemon that must fail; returns its last message."""
    engine.configure(config)
    done = subprocess.run([*engine.command, *flags], capture_output=True, text=True, timeout=30, check=False, cwd="/")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_reload_and_start_refuse_to_change_settings_that_running_containers_use(fresh: Callable[..., Engine]) -> None:
    live = {**FIRST, "live-restore": True, "runtimes": {"own": {"path": "runc"}}}
    engine = fresh(live)
    engine.ok("run", "-d", "--name", "web", "--runtime", "own", BUSYBOX, "sleep", "1000")
    engine.ok("run", "-d", "--name", "db", BUSYBOX, "sleep", "1000")
    pids = [engine.inspect(name)["State"]["Pid"] for name in ("web", "db")]
    subnet = json.loads(engine.ok("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]["Subnet"]

    without = {key: value for key, value in live.items() if key != "runtimes"}
    log = reload(engine, {**without, "labels": ["ship=two"]})
    assert "1 running container (web) use runtime own, but runtimes does not contain this name" in log
    log = reload(engine, {**live, "bip": "10.99.99.1/24"})
    assert f"have addresses of {subnet} with gateway" in log
    assert "but bip is 10.99.99.1/24" in log
    assert "but bridge is none" in reload(engine, {**live, "bridge": "none"})
    log = reload(engine, {**live, "storage-driver": "vfs", "labels": ["ship=two"]})
    assert "2 running containers (" in log
    assert "use storage driver overlay2, but storage-driver is vfs" in log
    assert info(engine)["Labels"] == ["ship=one"]

    engine.stop()
    assert "use storage driver overlay2, but storage-driver is vfs" in refused(engine, {**live, "storage-driver": "vfs"})
    other = str(engine.home / "other")
    text = refused(engine, live, "--exec-root", other)
    assert "2 running containers" in text
    assert f"were started under another exec-root, but exec-root is {other}" in text
    text = refused(engine, {"live-restore": False}, "--data-root", other)
    assert f"2 running containers of data-root {engine.data_root} use exec-root {engine.exec_root}" in text
    engine.configure(live)
    assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
    engine.start()
    assert [engine.inspect(name)["State"]["Pid"] for name in ("web", "db")] == pids
    assert json.loads(engine.ok("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]["Subnet"] == subnet


def test_containers_use_the_default_gateway_of_daemon_json(fresh: Callable[..., Engine]) -> None:
    """The key `default-gateway` sets the containers' default route, and `min-api-version` the oldest version of the API."""
    config = {**FIRST, "bip": "10.98.97.1/24", "default-gateway": "10.98.97.9", "min-api-version": "1.40"}
    engine = fresh(config)
    found = json.loads(engine.ok("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]
    assert found["AuxiliaryAddresses"] == {"DefaultGatewayIPv4": "10.98.97.9"}
    route = engine.ok("run", "--rm", BUSYBOX, "ip", "route")
    assert "default via 10.98.97.9" in route
    assert engine.ok("run", "--rm", BUSYBOX, "hostname", "-i") != "10.98.97.9"
    assert engine.api("GET", "/v1.39/info")[1]["message"].startswith(
        "client version 1.39 is too old. Minimum supported API version is 1.40, "
    )
    assert engine.api("GET", "/version")[1]["MinAPIVersion"] == "1.40"
    engine.stop()
    text = refused(engine, {**config, "default-gateway": "10.1.1.1"})
    assert "cannot use 10.1.1.1 as default-gateway: it is not in 10.98.97.0/24" in text
    engine.configure(config)


def test_daemon_logs_at_start_which_configuration_keys_have_an_effect() -> None:
    engine = Engine({"mtu": 1400, "containerd": "/run/c.sock"})
    try:
        engine.start()
        line = next(line for line in engine.log().splitlines() if "keys in effect:" in line)
        effective, _, ignored = line.partition("keys in effect: ")[2].partition("; keys without effect: ")
        assert {"mtu", "data-root", "exec-root", "hosts"} <= set(effective.split(", "))
        assert ignored == "containerd"
        assert f"configuration from {engine.config_path}" in engine.log()
    finally:
        assert engine.close() == []


def test_daemon_reads_dockers_daemon_json_if_orlops_file_does_not_exist() -> None:
    """Runs in a mount namespace with its own /etc."""
    program = (
        "mount -t tmpfs none /mnt && mkdir /mnt/up /mnt/work && "
        "mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/up,workdir=/mnt/work /etc && "
        "mkdir -p /etc/docker && rm -rf /etc/orlop && "
        "echo '{\"mtu\": 1400}' > /etc/docker/daemon.json && "
        'python="$1" && "$python" -m orlop_kernel --show-config | grep ^mtu && '
        "mkdir /etc/orlop && echo '{\"mtu\": 1300}' > /etc/orlop/daemon.json && "
        '"$python" -m orlop_kernel --show-config | grep ^mtu'
    )
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", program, "sh", sys.executable]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    dockers, ours = (line.split(maxsplit=2) for line in done.stdout.splitlines())
    assert dockers == ["mtu", "1400", "/etc/docker/daemon.json:1 (no /etc/orlop/daemon.json)"]
    assert ours == ["mtu", "1300", "/etc/orlop/daemon.json:1"]
