"""`docker exec`: streams, exit codes, user and directory, and messages when the command cannot be started."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import pytest
from tests.integration.engine import Engine, alive, patience, until

pytestmark = pytest.mark.root


@pytest.fixture
def box(engine: Engine, name: str) -> Iterator[str]:
    engine.ok("run", "-d", "--name", name, "-e", "FROM=container", "-w", "/tmp", "busybox", "sleep", "600")
    yield name


def test_exec_prints_output_and_returns_the_exit_code(engine: Engine, box: str) -> None:
    result = engine.docker("exec", box, "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (result.code, result.out, result.err) == (5, "out\n", "err\n")
    assert engine.docker("exec", box, "true").code == 0


def test_exec_passes_input_only_if_interactive(engine: Engine, box: str) -> None:
    assert engine.docker("exec", "-i", box, "cat", stdin="through\n").out == "through\n"
    assert engine.docker("exec", box, "cat", stdin="not\n").out == ""


def test_exec_passes_ten_megabytes_unchanged(engine: Engine, box: str) -> None:
    data = os.urandom(10 << 20)
    result = engine.docker("exec", "-i", box, "cat", stdin=data)
    assert result.code == 0
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()


def test_exec_has_the_settings_of_its_container_unless_flags_override_them(engine: Engine, box: str) -> None:
    assert engine.ok("exec", box, "sh", "-c", "echo $FROM; pwd; id -u") == "container\n/tmp\n0"
    flags = ["-u", "nobody", "-e", "FROM=exec", "-e", "B=2", "-w", "/etc"]
    assert engine.ok("exec", *flags, box, "sh", "-c", "echo $FROM $B; pwd; id -u") == "exec 2\n/etc\n65534"


def test_exec_has_the_containers_capabilities_unless_privileged(engine: Engine, box: str) -> None:
    script = ["awk", "/CapEff/ {print $2}", "/proc/self/status"]
    assert int(engine.ok("exec", box, *script), 16) == 0xA80425FB
    assert int(engine.ok("exec", "--privileged", box, *script), 16) > 0xA80425FB
    assert int(engine.ok("exec", "-u", "nobody", box, *script), 16) == 0


def test_exec_of_a_missing_command_exits_with_127_and_the_message_of_docker(engine: Engine, box: str) -> None:
    result = engine.docker("exec", box, "no-such-command")
    assert result.code == 127
    assert result.out.startswith("OCI runtime exec failed: exec failed: unable to start container process: ")
    assert result.out.endswith('exec: "no-such-command": executable file not found in $PATH\r\n')
    terminal = engine.terminal("exec", "-t", box, "no-such-command")
    assert terminal.wait() == 127
    assert b"executable file not found in $PATH\r" in terminal.output


def test_exec_of_a_directory_exits_with_126(engine: Engine, box: str) -> None:
    result = engine.docker("exec", box, "/etc")
    assert result.code == 126
    assert 'exec: "/etc": is a directory' in result.out


def test_exec_reports_a_missing_working_directory(engine: Engine, box: str) -> None:
    result = engine.docker("exec", "-w", "/no/where", box, "true")
    assert result.code in (126, 127)
    assert 'chdir to cwd ("/no/where") set in config.json failed: no such file or directory' in result.out


def test_exec_is_refused_for_unknown_users_and_stopped_containers(engine: Engine, box: str) -> None:
    result = engine.docker("exec", "-u", "captain", box, "true")
    assert (result.code, result.out) == (126, "unable to find user captain: no matching entries in passwd file\r\n")
    assert engine.docker("exec", "no-such", "true").err == "Error response from daemon: No such container: no-such\n"
    container = engine.inspect(box)["Id"]
    engine.ok("kill", box)
    result = engine.docker("exec", box, "true")
    assert (result.code, result.err) == (1, f"Error response from daemon: container {container} is not running\n")


def test_detached_exec_runs_in_the_background(engine: Engine, box: str) -> None:
    assert engine.ok("exec", "-d", box, "sh", "-c", "echo done > /tmp/f") == ""
    until(lambda: engine.docker("exec", box, "cat", "/tmp/f").out == "done\n", "the file")


def test_detached_exec_of_a_missing_command_fails(engine: Engine, box: str) -> None:
    result = engine.docker("exec", "-d", box, "no-such-command")
    assert result.code != 0
    assert "executable file not found in $PATH" in result.err


def test_exec_has_a_terminal_that_can_be_resized(engine: Engine, box: str) -> None:
    terminal = engine.terminal("exec", "-it", box, "sh", rows=31, columns=77)
    terminal.expect("/tmp # ")
    terminal.type("stty size\n")
    terminal.expect("31 77")
    terminal.resize(40, 100)
    terminal.type("while [ \"$(stty size)\" != '40 100' ]; do :; done; echo re''sized\n")
    terminal.expect("resized")
    terminal.type("exit 6\n")
    assert terminal.wait() == 6


def test_detach_keys_leave_the_exec_running(engine: Engine, box: str) -> None:
    terminal = engine.terminal("exec", "-it", "--detach-keys", "ctrl-x,x", box, "sh")
    terminal.expect("# ")
    terminal.type(b"\x18x")
    assert terminal.wait() in (0, 1)
    assert [word for word in engine.ok("exec", box, "ps", "-o", "args").split("\n") if word == "sh"]  # the exec still runs


def test_inspect_shows_state_and_exit_code_of_an_exec(engine: Engine, box: str) -> None:
    container = engine.inspect(box)["Id"]
    status, made = engine.api("POST", f"/containers/{box}/exec", {"Cmd": ["sh", "-c", "exit 3"], "AttachStdout": True})
    assert status == 201
    found = engine.api("GET", f"/exec/{made['Id']}/json")[1]
    assert (found["Running"], found["ExitCode"], found["ContainerID"]) == (False, None, container)
    assert found["ProcessConfig"]["entrypoint"] == "sh"
    assert engine.api("POST", f"/exec/{made['Id']}/start", {})[0] in (101, 200)
    found = engine.api("GET", f"/exec/{made['Id']}/json")[1]
    assert (found["Running"], found["ExitCode"], found["CanRemove"]) == (False, 3, False)
    status, answer = engine.api("POST", f"/exec/{made['Id']}/start", {})
    assert (status, answer) == (409, {"message": f"Error: Exec command {made['Id']} has already run"})


def test_execs_end_with_their_container(engine: Engine, box: str) -> None:
    running = engine.background("exec", box, "sleep", "600")
    until(lambda: engine.inspect(box)["ExecIDs"], "the exec")
    (exec_id,) = engine.inspect(box)["ExecIDs"]
    pid = until(lambda: engine.api("GET", f"/exec/{exec_id}/json")[1]["Pid"], "its pid")
    engine.ok("kill", box)
    running.communicate(timeout=patience(10))
    assert running.returncode == 137
    assert not alive(pid)


def test_exec_continues_after_its_client_disconnects(engine: Engine, box: str) -> None:
    running = engine.background("exec", box, "sh", "-c", "echo started; while :; do echo x; sleep 0.01; done")
    assert running.stdout is not None
    assert running.stdout.readline() == b"started\n"
    running.kill()
    running.communicate()
    assert len(engine.inspect(box)["ExecIDs"]) == 1
    assert engine.ok("exec", box, "echo", "well") == "well"
