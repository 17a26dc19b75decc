"""States of containers after commands of clients, as `ps`, `inspect` and `logs` show them; restart policies."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.integration.engine import Engine, alive, patience, until

pytestmark = pytest.mark.root

SLEEP = ("busybox", "sleep", "600")
TRAPS = ("busybox", "sh", "-c", "trap 'echo got TERM; exit 7' TERM; echo ready; while :; do sleep 0.05; done")


def ready(engine: Engine, name: str, text: str = "ready") -> None:
    until(lambda: text in engine.docker("logs", name).out, f"{text} in the log of {name}")


def test_created_container_can_be_started_and_waited_for(engine: Engine, name: str) -> None:
    container = engine.ok("create", "--name", name, "busybox", "sh", "-c", "exit 3")
    found = engine.inspect(name)["State"]
    assert (found["Status"], found["Running"], found["Pid"], found["StartedAt"]) == (
        "created",
        False,
        0,
        "0001-01-01T00:00:00Z",
    )
    assert engine.ok("start", name) == name
    assert engine.ok("wait", name) == "3"
    found = engine.inspect(container[:12])["State"]
    assert (found["Status"], found["ExitCode"], found["Pid"]) == ("exited", 3, 0)
    assert found["FinishedAt"] > found["StartedAt"] > "2020"


def test_start_of_a_running_container_succeeds(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, *SLEEP)
    assert engine.ok("start", name) == name
    assert engine.api("POST", f"/containers/{name}/start")[0] == 304


def test_start_attached_prints_output_and_returns_the_exit_code(engine: Engine, name: str) -> None:
    engine.ok("create", "--name", name, "busybox", "sh", "-c", "echo again; exit 4")
    for _ in range(2):
        result = engine.docker("start", "-a", name)
        assert (result.code, result.out) == (4, "again\n")


def test_docker_stop_sends_sigterm_and_waits_for_the_exit(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, *TRAPS)
    ready(engine, name)
    assert engine.ok("stop", name) == name
    assert engine.inspect(name)["State"]["ExitCode"] == 7
    assert engine.ok("logs", name) == "ready\ngot TERM"
    assert engine.api("POST", f"/containers/{name}/stop")[0] == 304


def test_stop_kills_after_the_timeout(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, *SLEEP)  # PID 1 without a handler ignores SIGTERM
    began = time.monotonic()
    engine.ok("stop", "-t", "1", name)
    assert 1 <= time.monotonic() - began < 3
    assert engine.inspect(name)["State"]["ExitCode"] == 137


def test_stop_sends_the_containers_stop_signal(engine: Engine, name: str) -> None:
    script = "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done"
    engine.ok("run", "-d", "--name", name, "--stop-signal", "SIGUSR1", "busybox", "sh", "-c", script)
    ready(engine, name)
    engine.ok("stop", name)
    assert engine.inspect(name)["State"]["ExitCode"] == 9


def test_killed_container_has_exit_code_137(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, *SLEEP)
    assert engine.ok("kill", name) == name
    assert engine.ok("wait", name) == "137"
    result = engine.docker("kill", name)
    assert result.code == 1
    container = engine.inspect(name)["Id"]
    assert result.err == (
        f"Error response from daemon: cannot kill container: {name}: container {container} is not running\n"
    )


def test_kill_sends_the_given_signal(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, *TRAPS)
    ready(engine, name)
    engine.ok("kill", "-s", "TERM", name)
    assert engine.ok("wait", name) == "7"
    result = engine.docker("kill", "-s", "NOSUCH", name)
    assert result.err == f"Error response from daemon: cannot kill container: {name}: invalid signal: NOSUCH\n"


def test_restart_starts_a_new_process(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, *SLEEP)
    before = engine.inspect(name)["State"]
    assert engine.ok("restart", "-t", "0", name) == name
    after = engine.inspect(name)["State"]
    assert after["Running"]
    assert after["Pid"] != before["Pid"]
    assert not alive(before["Pid"])
    engine.ok("stop", "-t", "0", name)
    engine.ok("restart", name)  # starts a stopped container
    assert engine.state(name) == "running"


def test_wait_prints_the_exit_codes_of_several_containers(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", f"{name}a", *SLEEP)
    engine.ok("run", "-d", "--name", f"{name}b", "busybox", "sh", "-c", "exit 5")
    waiting = engine.background("wait", f"{name}a", f"{name}b")
    engine.ok("kill", f"{name}a")
    assert waiting.communicate(timeout=patience(10))[0] == b"137\n5\n"


def test_rename_fails_if_another_container_has_the_new_name(engine: Engine, name: str) -> None:
    engine.ok("create", "--name", name, "busybox")
    engine.ok("create", "--name", f"{name}-other", "busybox")
    assert engine.ok("rename", name, f"{name}-new") == ""
    assert engine.inspect(f"{name}-new")["Name"] == f"/{name}-new"
    assert engine.docker("inspect", name).code == 1
    result = engine.docker("rename", f"{name}-new", f"{name}-other")
    assert result.code == 1
    assert f'The container name "/{name}-other" is already in use by container' in result.err


def test_rm_removes_a_running_container_only_with_the_flag_f(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, *SLEEP)
    result = engine.docker("rm", name)
    assert result.code == 1
    assert result.err == (
        f'Error response from daemon: cannot remove container "/{name}": container is running: '
        "stop the container before removing or force remove\n"
    )
    pid = engine.inspect(name)["State"]["Pid"]
    assert engine.ok("rm", "-f", name) == name
    assert not alive(pid)
    result = engine.docker("rm", name)
    assert (result.code, result.err) == (1, f"Error response from daemon: No such container: {name}\n")
    assert engine.docker("rm", "-f", name).code == 0  # the client ignores the error


def test_rm_of_a_restarting_container_is_refused(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, "--restart", "always", "busybox", "false")
    until(lambda: engine.inspect(name)["RestartCount"] >= 3, "pauses that are long enough")

    def refused() -> str:
        result = engine.docker("rm", name)
        assert result.code == 1
        return result.err if "restarting" in result.err else ""

    # On a slow machine it may run again before the request arrives
    said = until(refused, "it is met between two runs")
    assert f'cannot remove container "/{name}": container is restarting: stop the container' in said
    engine.ok("rm", "-f", name)
    assert engine.docker("inspect", name).code == 1


def test_concurrent_operations_leave_no_container_or_process(engine: Engine, name: str) -> None:
    """Each concurrent operation succeeds or is refused, and at the end the container is removed."""
    engine.ok("run", "-d", "--name", name, *SLEEP)
    pid = engine.inspect(name)["State"]["Pid"]
    commands = (
        ["stop", "-t", "0"],
        ["kill"],
        ["restart", "-t", "0"],
        ["start"],
        ["pause"],
        ["unpause"],
        ["stop", "-t", "0"],
    )
    running = [engine.background(*command, name) for command in commands]
    for process in running:
        _, error = process.communicate(timeout=patience(20))
        assert process.returncode == 0 or b"is not running" in error or b"paused" in error or b"is running" in error, error
    engine.ok("rm", "-f", name)
    assert not alive(pid)


def test_rm_with_the_flag_v_removes_only_anonymous_volumes(engine: Engine, name: str) -> None:
    engine.ok("create", "--name", name, "-v", "/anonymous", "-v", f"{name}:/named", "busybox")
    (anonymous,) = [mount["Name"] for mount in engine.inspect(name)["Mounts"] if mount["Name"] != name]
    engine.ok("rm", "-v", name)
    assert engine.docker("volume", "inspect", anonymous).code == 1
    engine.ok("volume", "rm", name)


def test_prune_removes_only_stopped_containers_that_match_the_filter(engine: Engine, name: str) -> None:
    keep = engine.ok("run", "-d", "--name", name, *SLEEP)
    gone = engine.ok("create", "--label", f"prune={name}", "busybox")
    other = engine.ok("create", "busybox")
    result = engine.ok("container", "prune", "-f", "--filter", f"label=prune={name}")
    assert result.splitlines()[:2] == ["Deleted Containers:", gone]
    assert result.splitlines()[-1].startswith("Total reclaimed space: ")
    left = engine.ok("ps", "-aq", "--no-trunc").split()
    assert keep in left
    assert other in left


def test_pause_freezes_a_container_until_unpause(engine: Engine, name: str) -> None:
    container = engine.ok("run", "-d", "--name", name, *SLEEP)
    assert engine.ok("pause", name) == name
    assert engine.state(name) == "paused"
    assert "(Paused)" in engine.ok("ps", "--filter", f"name={name}", "--format", "{{.Status}}")
    result = engine.docker("exec", name, "true")
    assert result.code == 1
    assert f"Container {container} is paused, unpause the container before exec" in result.err
    result = engine.docker("pause", name)
    assert result.err == f"Error response from daemon: Container {container} is already paused\n" or (
        result.err == f"Error response from daemon: container {container} is already paused\n"
    )
    engine.ok("unpause", name)
    assert engine.ok("exec", name, "echo", "back") == "back"
    engine.ok("pause", name)
    engine.ok("stop", "-t", "0", name)
    assert engine.state(name) == "exited"


def test_top_lists_processes(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, *SLEEP)
    lines = engine.ok("top", name).splitlines()
    assert lines[0].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert lines[1].endswith("sleep 600")
    lines = engine.ok("top", name, "-o", "pid,comm").splitlines()
    assert lines[1].split() == [str(engine.inspect(name)["State"]["Pid"]), "sleep"]


def test_ps_lists_and_filters_containers(engine: Engine, name: str) -> None:
    running = engine.ok("run", "-d", "--name", f"{name}-up", "-l", "role=a", "-l", "tier=x", *SLEEP)
    engine.docker("run", "--name", f"{name}-over", "-l", "role=a", "busybox", "sh", "-c", "exit 2", check=2)
    engine.ok("create", "--name", f"{name}-new", "-l", "role=b", "busybox")

    def names(*filters: str, all: bool = True) -> list[str]:
        flags = [word for text in filters for word in ("--filter", text)]
        return engine.ok("ps", *(["-a"] if all else []), *flags, "--format", "{{.Names}}").split()

    assert names(all=False) == [f"{name}-up"]
    assert names() == [f"{name}-new", f"{name}-over", f"{name}-up"]  # newest first
    assert names("label=role=a") == [f"{name}-over", f"{name}-up"]
    assert names("label=role=a", "label=tier") == [f"{name}-up"]
    assert names("status=exited") == [f"{name}-over"]
    assert names("status=created", "status=running") == [f"{name}-new", f"{name}-up"]
    assert names("exited=2") == [f"{name}-over"]
    assert names(f"name={name}-n") == [f"{name}-new"]
    assert names(f"id={running[:12]}") == [f"{name}-up"]
    assert names(f"before={name}-over") == [f"{name}-up"]
    assert names(f"since={name}-over") == [f"{name}-new"]
    assert names("ancestor=busybox", "status=running") == [f"{name}-up"]
    assert names("ancestor=other") == []
    assert names("network=bridge") == [f"{name}-new", f"{name}-over", f"{name}-up"]
    line = engine.ok(
        "ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Image}} {{.Command}} {{.State}} {{.Ports}}", "-n", "3"
    )
    assert f'{running} busybox "sleep 600" running' in line
    status = engine.ok("ps", "-a", "--filter", f"name={name}-over", "--format", "{{.Status}}")
    assert re.fullmatch(r"Exited \(2\) (Less than a second|\d+ seconds?) ago", status)
    assert engine.docker("ps", "--filter", "nonsense=1").err == "Error response from daemon: invalid filter 'nonsense'\n"


def test_inspect_describes_a_running_container(engine: Engine, name: str) -> None:
    container = engine.ok("run", "-d", "--name", name, "-p", "127.0.0.1::80", "-e", "A=b", "-v", "/v", *SLEEP)
    (found,) = json.loads(engine.ok("inspect", name))
    image = json.loads(engine.ok("image", "inspect", "busybox"))[0]["Id"]
    assert found["Id"] == container
    assert found["Name"] == f"/{name}"
    assert (found["Path"], found["Args"], found["Image"], found["Driver"]) == ("sleep", ["600"], image, "overlay2")
    assert found["Config"]["Env"][0] == "A=b"
    assert (found["Config"]["Image"], found["Config"]["Cmd"]) == ("busybox", ["sleep", "600"])
    assert found["HostConfig"]["NetworkMode"] in ("bridge", "default")
    assert found["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {}}
    assert found["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert found["Mounts"][0]["Type"] == "volume"
    assert found["Mounts"][0]["Destination"] == "/v"
    assert Path(found["LogPath"]).name == f"{container}-json.log"
    assert Path(found["HostsPath"]).read_text().splitlines()[-1].split()[1] == container[:12]
    assert Path(found["GraphDriver"]["Data"]["UpperDir"]).is_dir()
    network = found["NetworkSettings"]["Networks"]["bridge"]
    assert network["IPAddress"] == found["NetworkSettings"]["IPAddress"]
    assert set(engine.inspect(container)["NetworkSettings"]) == {"Networks", "Ports", "SandboxID", "SandboxKey"}
    assert network["Gateway"]
    (binding,) = found["NetworkSettings"]["Ports"]["80/tcp"]
    assert binding["HostIp"] == "127.0.0.1"
    assert engine.ok("port", name) == f"80/tcp -> 127.0.0.1:{binding['HostPort']}"
    assert engine.ok("inspect", "-f", "{{.State.Status}} {{.Config.Hostname}}", name) == f"running {container[:12]}"


# --- restart policies ---------------------------------------------------------------------------------------------------


def test_restarts_by_the_policy_on_failure_are_delayed_and_limited(engine: Engine, name: str) -> None:
    script = "cut -d' ' -f1 /proc/uptime; exit 1"
    engine.ok("run", "-d", "--name", name, "--restart", "on-failure:3", "busybox", "sh", "-c", script)
    until(lambda: engine.state(name) == "exited" and engine.inspect(name)["RestartCount"] == 3, "three tries")
    began = [float(line) for line in engine.ok("logs", name).split()]
    pauses = [after - before for before, after in itertools.pairwise(began)]
    assert len(pauses) == 3
    assert all(pause >= least for pause, least in zip(pauses, (0.1, 0.2, 0.4), strict=True))
    slack = patience(1) - 1  # seconds; 0, unless the machine is slow and starts take longer than the delay between restarts
    assert pauses[0] <= pauses[2] + slack
    assert max(pauses) < patience(2)


def test_container_with_restart_always_restarts_until_docker_stop(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, "--restart", "always", "busybox", "true")
    until(lambda: engine.inspect(name)["RestartCount"] >= 2, "two restarts")
    until(lambda: engine.state(name) == "restarting", "restarting")
    assert engine.inspect(name)["State"]["Running"] is True
    status = ("ps", "--filter", f"name={name}", "--format", "{{.Status}}")
    until(lambda: re.match(r"Restarting \(0\) ", engine.ok(*status)), "ps finds it between two runs")
    engine.ok("stop", name)
    assert engine.state(name) == "exited"
    count = engine.inspect(name)["RestartCount"]
    assert engine.inspect(name)["RestartCount"] == count


def test_container_with_restart_always_restarts_after_its_process_is_killed(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, "--restart", "always", *SLEEP)
    pid = engine.inspect(name)["State"]["Pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: engine.inspect(name)["State"]["Pid"] not in (0, pid), "a new process")
    assert engine.state(name) == "running"
    assert engine.inspect(name)["RestartCount"] == 1


def test_docker_kill_prevents_a_restart_by_the_policy_unless_stopped(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, "--restart", "unless-stopped", *SLEEP)
    engine.ok("kill", name)
    assert engine.ok("wait", name) == "137"
    assert engine.state(name) == "exited"


# --- logs ---------------------------------------------------------------------------------------------------------------


def test_logs_contain_standard_output_and_standard_error(engine: Engine, name: str) -> None:
    engine.ok("run", "--name", name, "busybox", "sh", "-c", "echo out; echo err >&2; printf unfinished")
    result = engine.docker("logs", name)
    assert (result.out, result.err) == ("out\nunfinished", "err\n")


def test_options_tail_since_and_until_select_log_lines(engine: Engine, name: str) -> None:
    engine.ok("run", "--name", name, "busybox", "sh", "-c", "echo 1; sleep 0.05; echo 2; sleep 0.05; echo 3")
    assert engine.ok("logs", "--tail", "2", name) == "2\n3"
    assert engine.ok("logs", "--tail", "0", name) == ""
    assert engine.ok("logs", "--tail", "all", name) == "1\n2\n3"
    stamped = [line.split() for line in engine.ok("logs", "-t", name).splitlines()]
    assert [text for _, text in stamped] == ["1", "2", "3"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", stamp) for stamp, _ in stamped)
    assert engine.ok("logs", "--since", stamped[1][0], name) == "2\n3"
    assert engine.ok("logs", "--until", stamped[1][0], name).splitlines()[0] == "1"
    assert "3" not in engine.ok("logs", "--until", stamped[1][0], name)


def test_docker_logs_follow_returns_when_the_container_exits(engine: Engine, name: str) -> None:
    script = "i=0; trap 'echo last; exit 0' TERM; while :; do i=$((i+1)); echo $i; sleep 0.02; done"
    engine.ok("run", "-d", "--name", name, "busybox", "sh", "-c", script)
    following = engine.background("logs", "-f", name)
    assert following.stdout is not None
    assert [int(following.stdout.readline()) for _ in range(5)] == [1, 2, 3, 4, 5]
    engine.ok("stop", name)
    rest = following.stdout.read()  # communicate() would lose buffered output
    assert rest.endswith(b"last\n")
    assert following.wait(patience(10)) == 0
    assert [int(line) for line in rest.splitlines()[:-1]] == list(range(6, 5 + len(rest.splitlines())))


def test_logs_are_rotated_by_size_and_number_of_files(engine: Engine, name: str) -> None:
    options = ["--log-opt", "max-size=20k", "--log-opt", "max-file=3"]
    engine.ok("run", "--name", name, *options, "busybox", "seq", "1", "2000")
    path = Path(engine.inspect(name)["LogPath"])
    files = sorted(file.name for file in path.parent.glob("*-json.log*"))
    assert files == [path.name, f"{path.name}.1", f"{path.name}.2"]
    assert all(file.stat().st_size <= 21_000 for file in path.parent.glob("*-json.log*"))
    lines = [int(line) for line in engine.ok("logs", name).split()]
    assert lines == list(range(lines[0], 2001))
    assert len(lines) > 200
    assert json.loads(path.read_text().splitlines()[-1])["log"] == "2000\n"


def test_output_can_be_read_with_log_driver_local_but_not_with_none(engine: Engine, name: str) -> None:
    engine.ok("run", "--name", f"{name}l", "--log-driver", "local", "busybox", "echo", "local")
    assert engine.ok("logs", f"{name}l") == "local"
    engine.ok("run", "--name", f"{name}n", "--log-driver", "none", "busybox", "echo", "none")
    result = engine.docker("logs", f"{name}n")
    assert result.code == 1
    assert result.err == "Error response from daemon: configured logging driver does not support reading\n"


def test_docker_logs_prints_long_lines_unbroken(engine: Engine, name: str) -> None:
    engine.ok("run", "--name", name, "busybox", "sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo end")
    assert engine.ok("logs", name) == "x" * 100_000 + "\nend"


# --- many containers ----------------------------------------------------------------------------------------------------


def test_twelve_concurrent_docker_run_commands_get_their_own_output_and_exit_codes(engine: Engine, name: str) -> None:
    running = [
        subprocess.Popen(
            ["docker", "run", "--rm", "busybox", "sh", "-c", f"echo {n}; exit {n}"], env=engine.env, stdout=subprocess.PIPE
        )
        for n in range(12)
    ]
    for n, process in enumerate(running):
        assert process.communicate(timeout=patience(30))[0] == f"{n}\n".encode()
        assert process.returncode == n
    until(lambda: engine.docker("ps", "-aq").out == "", "all are removed")


def test_stopped_monitor_does_not_block_other_containers(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, *SLEEP)
    pid, monitor = engine.inspect(name)["State"]["Pid"], engine.monitor(name)
    os.kill(monitor, signal.SIGSTOP)
    try:
        assert name in engine.ok("ps", "--format", "{{.Names}}").split()
        assert engine.inspect(name)["State"]["Running"]
        assert engine.ok("run", "--rm", "busybox", "echo", "next") == "next"
        # A container whose monitor does not answer can be removed
        assert engine.docker("rm", "-f", name, check=0, seconds=40).line == name
        until(lambda: not alive(pid) and not alive(monitor), "both are gone")
    finally:
        if alive(monitor):
            os.kill(monitor, signal.SIGCONT)
