"""Attach and terminals: `run -it`, detach keys, resize, several clients, half-closed input."""

from __future__ import annotations

import signal
import subprocess

import pytest
from tests.integration.engine import Engine, patience, until

pytestmark = pytest.mark.root

ECHO = ("busybox", "sh", "-c", "while read line; do echo got $line; done; echo over")


def test_run_it_passes_terminal_size_and_returns_the_exit_code(engine: Engine, name: str) -> None:
    terminal = engine.terminal("run", "-it", "--name", name, "busybox", "sh", rows=33, columns=101)
    terminal.expect("/ # ")
    terminal.type("stty size; tty; echo $TERM\n")
    terminal.expect("33 101\r\n/dev/pts/0\r\nxterm\r\n")
    terminal.resize(50, 120)
    terminal.type("while [ \"$(stty size)\" != '50 120' ]; do :; done; echo re''sized\n")
    terminal.expect("resized\r\n")
    terminal.type("exit 9\n")
    assert terminal.wait() == 9
    assert engine.inspect(name)["State"]["ExitCode"] == 9


def test_ctrl_c_interrupts_the_command_on_a_terminal(engine: Engine) -> None:
    terminal = engine.terminal(
        "run", "-it", "--rm", "busybox", "sh", "-c", "trap 'exit 44' INT; echo rea''dy; while :; do sleep 0.05; done"
    )
    terminal.expect("ready")
    terminal.type(b"\x03")
    assert terminal.wait() == 44


def test_shell_keeps_its_state_after_a_detach(engine: Engine, name: str) -> None:
    terminal = engine.terminal("run", "-it", "--name", name, "busybox", "sh")
    terminal.expect("/ # ")
    terminal.type("A=kept\n")
    terminal.expect("/ # ")
    terminal.type(b"\x10\x11")
    assert terminal.wait() == 0
    assert engine.state(name) == "running"
    again = engine.terminal("attach", name)
    again.type("echo $A\n")
    again.expect("kept\r\n")
    again.type("exit 3\n")
    assert again.wait() == 3


def test_detach_keys_end_an_attach_and_leave_the_container_running(engine: Engine, name: str) -> None:
    engine.ok("run", "-dit", "--name", name, "busybox", "cat")
    terminal = engine.terminal("attach", "--detach-keys", "ctrl-a,b", name)
    terminal.type(b"x\x01y\n")  # an incomplete detach sequence is passed on
    terminal.expect("x^Ay\r\n")
    terminal.type(b"\x01b")
    terminal.wait()
    assert b"read escape sequence" in terminal.output
    assert engine.state(name) == "running"
    result = engine.docker("attach", "--detach-keys", "ctrl-", name, stdin="")
    assert result.code == 1


def test_attach_prints_output_and_returns_the_exit_code(engine: Engine, name: str) -> None:
    engine.ok("run", "-di", "--name", name, *ECHO)
    client = engine.background("attach", name, stdin=subprocess.PIPE)
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(b"one\n")
    client.stdin.flush()
    assert client.stdout.readline() == b"got one\n"
    engine.ok("kill", name)
    client.communicate(timeout=patience(10))
    assert client.returncode == 137


def test_start_attach_passes_the_end_of_input_to_the_container(engine: Engine, name: str) -> None:
    engine.ok("create", "-i", "--name", name, *ECHO)
    result = engine.docker("start", "-ai", name, stdin="one\ntwo\n")
    assert (result.code, result.out) == (0, "got one\ngot two\nover\n")


def test_all_attached_clients_get_the_same_output(engine: Engine, name: str) -> None:
    engine.ok("run", "-di", "--name", name, *ECHO)
    clients = [engine.background("attach", "--no-stdin", name) for _ in range(3)]
    writer = engine.background("attach", name, stdin=subprocess.PIPE)
    assert writer.stdin is not None
    until(lambda: engine.events(container=name).count("attach") == 4, "all are attached")
    writer.stdin.write(b"together\n")
    writer.stdin.flush()
    for client in [*clients, writer]:
        assert client.stdout is not None
        assert client.stdout.readline() == b"got together\n"
    engine.ok("kill", name)
    for client in [*clients, writer]:
        client.communicate(timeout=patience(10))
        assert client.returncode == 137


def test_attach_to_a_container_that_does_not_run_is_refused(engine: Engine, name: str) -> None:
    engine.ok("create", "--name", name, "busybox", "true")
    assert engine.docker("attach", name).err.startswith("You cannot attach to a stopped container")
    engine.ok("start", name)
    engine.ok("wait", name)
    assert engine.docker("attach", name).code == 1
    engine.ok("run", "-d", "--name", f"{name}p", "busybox", "sleep", "600")
    engine.ok("pause", f"{name}p")
    assert engine.docker("attach", f"{name}p").err.startswith("You cannot attach to a paused container")
    engine.ok("unpause", f"{name}p")


def test_attached_client_that_does_not_read_does_not_block_the_container(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, "busybox", "sh", "-c", "sleep 0.2; seq 1 200000; echo end; sleep 600")
    deaf = engine.background("attach", "--no-stdin", name)
    until(lambda: engine.ok("logs", "--tail", "1", name) == "end", "the container wrote all")
    assert engine.docker("logs", name).out.splitlines() == [*map(str, range(1, 200_001)), "end"]
    deaf.kill()
    deaf.communicate()


def test_signal_sent_to_an_attached_client_is_forwarded_to_the_container(engine: Engine, name: str) -> None:
    script = "trap 'echo got it; exit 12' USR1; echo ready; while :; do sleep 0.05; done"
    client = engine.background("run", "--name", name, "busybox", "sh", "-c", script)
    assert client.stdout is not None
    assert client.stdout.readline() == b"ready\n"
    client.send_signal(signal.SIGUSR1)
    assert client.communicate(timeout=patience(10))[0] == b"got it\n"
    assert client.returncode == 12
