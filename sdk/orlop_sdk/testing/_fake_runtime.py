"""The program that `FakeRuntime` runs: it has runc's command line, but starts ordinary processes instead of containers.

It is executed by path in a new interpreter, so it imports only the standard library and starts quickly.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import shutil
import signal
import socket
import sys
import termios
import time
from typing import Any


def fail(log: str, text: str) -> None:
    if log:
        with open(log, "a") as file:
            file.write(json.dumps({"level": "error", "msg": text, "time": "2024-01-01T00:00:00Z"}) + "\n")
    print(text, file=sys.stderr)
    sys.exit(1)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


class State:
    def __init__(self, root: str, name: str) -> None:
        self.path = os.path.join(root, f"{name}.json")

    def read(self) -> dict[str, Any]:
        try:
            with open(self.path) as file:
                return dict(json.load(file))
        except FileNotFoundError:
            return {}

    def write(self, state: dict[str, Any]) -> None:
        with open(self.path, "w") as file:
            json.dump(state, file)


def terminal(console_socket: str) -> int:
    master, slave = pty.openpty()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(console_socket)
        socket.send_fds(sock, [b"/dev/ptmx"], [master])
    os.close(master)
    return slave


def _login(slave: int) -> None:
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(slave, fd)


def spawn(process: dict[str, Any], options: argparse.Namespace, verb: str) -> int:
    args, env = process["args"], dict(pair.split("=", 1) for pair in process.get("env", []))
    prefix = "runc run failed" if verb == "run" else "exec failed"
    if shutil.which(args[0], path=env.get("PATH", "/usr/bin:/bin")) is None:
        fail(
            options.log,
            f'{prefix}: unable to start container process: exec: "{args[0]}": executable file not found in $PATH',
        )
    slave = terminal(options.console_socket) if process.get("terminal") else -1
    pid = os.fork()
    if pid:
        with open(options.pid_file, "w") as file:
            file.write(str(pid))
        return pid
    os.setsid()
    os.chdir(process.get("cwd", "/"))
    if slave >= 0:
        _login(slave)
    os.closerange(3, 256)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execvpe(args[0], args, env)
    return 0


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("root", "log", "log-format"):
        parser.add_argument(f"--{name}", default="")
    commands = parser.add_subparsers(dest="command")
    for name in ("run", "exec", "delete", "kill", "pause", "resume", "update", "ps", "checkpoint", "restore"):
        command = commands.add_parser(name)
        for option in ("bundle", "pid-file", "console-socket", "process", "resources", "format", "image-path", "work-path"):
            command.add_argument(f"--{option}", default="")
        command.add_argument("--detach", action="store_true")
        command.add_argument("--force", action="store_true")
        command.add_argument("--leave-running", action="store_true")
        command.add_argument("id")
        command.add_argument("rest", nargs="*")
    options = parser.parse_args()
    store = State(options.root, options.id)
    state = store.read()
    if options.command in ("run", "restore"):
        if options.command == "restore" and not os.path.exists(os.path.join(options.image_path, "image")):
            fail(options.log, "runc restore failed: there is no image")
        if state:
            fail(options.log, f"runc run failed: container with given ID already exists: {options.id}")
        with open(os.path.join(options.bundle, "config.json")) as file:
            spec = json.load(file)
        store.write({"pids": [spawn(spec["process"], options, "run")]})
        return
    if not state:
        if options.command == "delete" and options.force:
            return
        fail(options.log, "container does not exist")
    pids = [pid for pid in state["pids"] if alive(pid)]
    if options.command == "checkpoint":
        with open(os.path.join(options.image_path, "image"), "w") as file:
            json.dump(pids, file)
        for pid in [] if options.leave_running else pids:
            os.kill(pid, signal.SIGKILL)
        return
    if options.command == "exec":
        if state["pids"][0] not in pids:
            fail(options.log, "exec failed: cannot exec in a stopped container")
        with open(options.process) as file:
            state["pids"].append(spawn(json.load(file), options, "exec"))
        store.write(state)
    elif options.command == "update":
        store.write({**state, "resources": json.load(sys.stdin)})
    elif options.command == "ps":
        print(json.dumps(pids))
    elif options.command == "kill":
        if state["pids"][0] not in pids:
            fail(options.log, "container not running")
        os.kill(state["pids"][0], int(options.rest[0]))
    elif options.command in ("pause", "resume"):
        for pid in pids:
            os.kill(pid, signal.SIGSTOP if options.command == "pause" else signal.SIGCONT)
    elif options.command == "delete":
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        while any(alive(pid) for pid in pids):
            time.sleep(0.001)
        os.unlink(store.path)


if __name__ == "__main__":
    main()
