"""A real `orlopd` for tests: with its own roots, socket and bridge, the usual clients, and a check for leaks.

`Engine` owns a directory under /tmp (short, as a socket's path is limited to 107 bytes) and every process that it starts.
`close` ends the daemon, removes the directory, and returns a list of the leftovers on the host, which must be empty. The
daemon's event loop watchdog is on, and any report of it fails the test.

`./dev vm` runs the same tests in other environments: ORLOP_TEST_RUNTIME and ORLOP_TEST_CGROUP_DRIVER choose how all daemons
run containers, ORLOP_TEST_SLOWNESS multiplies every time limit for an emulated processor. ORLOP_TEST_STORAGE chooses the
storage driver, for `./dev crash`, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import pty
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import docker
from tests.registry import busybox, docker_archive, image, layer

from orlop_engine.config import Config
from orlop_kernel.boot.watchdog import BLOCKED, DISK
from orlop_sdk import cgroups
from orlop_sdk.testing.busy import tolerated

__all__ = ["BUSYBOX", "Engine", "Result", "Terminal", "archive", "free_subnets", "patience", "until"]

BUSYBOX = "busybox:latest"
RUNTIME = os.environ.get("ORLOP_TEST_RUNTIME", "")
CGROUP_DRIVER = os.environ.get("ORLOP_TEST_CGROUP_DRIVER", "")
STORAGE = os.environ.get("ORLOP_TEST_STORAGE", "")
SLOWNESS = float(os.environ.get("ORLOP_TEST_SLOWNESS", "1"))
DEADLINE = 45.0  # seconds, less than the time limit of a test; a passing test does not wait that long
T = str | bytes


def patience(seconds: float) -> float:
    """A time limit in seconds, scaled for a slow machine."""
    return seconds * SLOWNESS


def until(condition: Callable[[], Any], what: str = "", seconds: float = DEADLINE) -> Any:
    """Poll until the condition is true, and return its value. Conditions are states of other processes, so they must be
    polled."""
    end = time.monotonic() + patience(seconds)
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what or condition}")
        time.sleep(0.01)
    return value


def free_subnets(count: int) -> list[str]:
    """The first three numbers of /24 networks in which no link of this host has an address, leftover links included."""
    shown = subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True, check=True).stdout
    found = [f"10.213.{number}" for number in range(1, 255) if f" 10.213.{number}." not in shown]
    return found[:count]


@cache
def archive() -> bytes:
    return docker_archive({BUSYBOX: image([layer(busybox())])})


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def err(self) -> str:
        return self.stderr.decode()

    @property
    def line(self) -> str:
        return self.out.strip()


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=patience(DEADLINE))
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(patience(DEADLINE))
        self.sock.connect(self._path)


class Terminal:
    """A program on a pseudo terminal, as in interactive use."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], rows: int = 24, columns: int = 80) -> None:
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            argv, stdin=slave, stdout=slave, stderr=slave, env=dict(env), start_new_session=True, preexec_fn=self._control
        )
        os.close(slave)
        self.output = b""

    @staticmethod
    def _control() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that the kernel sends SIGWINCH

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str | bytes) -> None:
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def expect(self, text: str) -> bytes:
        """Read until the output contains the text. Returns the output up to the end of the text. The next call begins after
        this text."""
        wanted = text.encode()
        os.set_blocking(self.master, False)

        def found() -> bool:
            with contextlib.suppress(BlockingIOError, OSError):
                self.output += os.read(self.master, 65536)
            return wanted in self.output

        try:
            until(found, f"{text!r} on the terminal")
        except AssertionError as error:
            raise AssertionError(f"{error}; there is {self.output!r}") from None
        end = self.output.index(wanted) + len(wanted)
        seen, self.output = self.output[:end], self.output[end:]
        return seen

    def wait(self) -> int:
        """The exit code. Reads output meanwhile, as a program with a full terminal cannot exit."""
        os.set_blocking(self.master, False)

        def ended() -> bool:
            with contextlib.suppress(BlockingIOError, OSError):
                self.output += os.read(self.master, 65536)
            return self.process.poll() is not None

        until(ended, f"end of {self.process.args!r}; there is {self.output!r}")
        with contextlib.suppress(BlockingIOError, OSError):
            while more := os.read(self.master, 65536):
                self.output += more
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


class Engine:
    """One daemon. To start it again, call `start` after `stop` or `kill`."""

    def __init__(
        self, config: Mapping[str, Any] | None = None, data_root: Path | None = None, prefix: Sequence[str] = ()
    ) -> None:
        """`prefix`: a program and its arguments that execute the daemon, such as prlimit."""
        self._prefix = tuple(prefix)
        self.home = Path(tempfile.mkdtemp(prefix="ot-", dir="/tmp"))
        self.socket = str(self.home / "s.sock")
        self.data_root = data_root or self.home / "data"
        self.exec_root = self.home / "run"
        self.log_path = self.home / "orlopd.log"
        self.config_path = self.home / "daemon.json"
        self.configure(config or {})
        self.process: subprocess.Popen[bytes] | None = None
        self._looked_at = 0
        self._derived = Config(data_root=str(self.data_root), exec_opts=tuple(_ground().get("exec-opts", ())))
        self._children: list[subprocess.Popen[bytes]] = []
        self._terminals: list[Terminal] = []
        self._sdk: Any = None
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(self.home / "client"),
            "TMPDIR": str(self.home),  # a failing client does not remove its temporary files
            "LANG": "C.UTF-8",
            "TERM": "xterm",
        }

    def configure(self, config: Mapping[str, Any]) -> None:
        ground = _ground()
        runtimes = {**ground.get("runtimes", {}), **config.get("runtimes", {})}
        self.config_path.write_text(json.dumps({**ground, **config, **({"runtimes": runtimes} if runtimes else {})}))

    # --- processes ----------------------------------------------------------------------------------------------------

    @property
    def command(self) -> list[str]:
        own = ["--data-root", str(self.data_root), "--exec-root", str(self.exec_root), "-H", f"unix://{self.socket}"]
        return [*self._prefix, sys.executable, "-m", "orlop_kernel", "--config-file", str(self.config_path), *own]

    def start(self, *, pythonpath: str = "", environment: Mapping[str, str] | None = None) -> None:
        """Start the daemon, and wait until it answers."""
        assert self.process is None
        env = {**os.environ, "ORLOP_LOOP_WATCHDOG": f"{patience(100):.0f}"}
        env |= {"PYTHONPATH": pythonpath} if pythonpath else {}
        env |= environment or {}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=env, cwd="/")
        until(self._answers, "the daemon answers")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended:\n{self.log()}"
        try:
            return self.api("GET", "/_ping")[0] == 200
        except OSError:
            return False

    def stop(self) -> int:
        """Send SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self._ended()

    def _ended(self) -> int:
        assert self.process is not None
        code = self.process.wait(patience(30))
        self.process = None
        return code

    def restart(self) -> None:
        self.stop()
        self.start()

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def until_sound(self) -> None:
        """Wait until the consistency check has no findings, because every mount, cgroup, link and file is gone."""
        with contextlib.suppress(AssertionError):
            until(lambda: self.orlop("system", "check").code == 0)
        found = self.orlop("system", "check")
        assert found.code == 0, found.out

    def blocked(self) -> list[str]:
        """The daemon's reports about its event loop since the last call, without the waits for a busy disk."""
        text = self.log()[self._looked_at :]
        self._looked_at += len(text)
        found = [line for line in text.splitlines() if BLOCKED in line and DISK not in line]
        return [line for line in found if float(line.partition(BLOCKED)[2].split()[1]) > tolerated() * 1000]

    def close(self) -> list[str]:
        """End the daemon and all other processes of this engine. Returns the leftovers on the host, and the daemon's reports
        about its event loop."""
        if self._sdk is not None:
            self._sdk.close()
        for terminal in self._terminals:
            terminal.close()
        for child in self._children:
            child.kill()
            child.communicate()
        if self.process is not None and self.process.poll() is not None:
            self.process = None
            with contextlib.suppress(AssertionError):
                self.start()  # the daemon has crashed, which another check reports; a new daemon cleans up
        if self.process is not None:
            for container in self.docker("ps", "-aq").out.split():
                self.docker("rm", "-f", container)
            self.stop()
        left = self.leaks() + self.blocked()
        if self._derived.cgroup_driver == "systemd":
            subprocess.run(["systemctl", "stop", self._derived.effective_cgroup_parent], check=True)
        shutil.rmtree(self.home, ignore_errors=True)
        return left

    # --- state of the host --------------------------------------------------------------------------------------------

    @property
    def bridge(self) -> str:
        return self._derived.bridge_name

    @property
    def cgroup_parent(self) -> str:
        """The path of its containers' cgroups, below each hierarchy's root."""
        return os.path.dirname(self._cgroup("ID")).strip("/")

    def _cgroup(self, container_id: str) -> str:
        parent = self._derived.effective_cgroup_parent
        systemd = self._derived.cgroup_driver == "systemd"
        return cgroups.relative(f"{parent}:orlop:{container_id}" if systemd else f"{parent}/{container_id}")

    def leaks(self) -> list[str]:
        """The leftovers on the host. Some objects disappear a moment later (a monitor, a link), so the function waits for a
        short time."""
        with contextlib.suppress(AssertionError):
            until(lambda: not self._left(), seconds=5)
        return self._left()

    def _left(self) -> list[str]:
        left = [f"mount {line}" for line in _lines("/proc/self/mounts") if str(self.home) in line]
        links = os.listdir("/sys/class/net")
        left += [f"link {name}" for name in links if name == self.bridge or self._derived.instance in name]
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
        left += [line for line in tables.splitlines() if self._derived.instance in line]
        roots, parent = Path("/sys/fs/cgroup"), self.cgroup_parent
        found = [path for path in (roots / parent, *roots.glob(f"*/{parent}")) if path.exists()]
        if self._derived.cgroup_driver == "systemd":  # systemd owns the slice, but its children must be gone
            found = [inner for path in found for inner in path.iterdir() if inner.is_dir()]
        left += [f"cgroup {path}" for path in found]
        left += [f"process {pid} {line}" for pid, line in _processes() if str(self.home) in line]
        left += [f"process {pid} {name} with its directory here" for pid, name in self._inside()]
        return left

    def _inside(self) -> Iterator[tuple[int, str]]:
        """Processes with open files below the home, such as the zygote and monitors, whose command lines do not contain the
        path."""
        for pid in _pids():
            with contextlib.suppress(OSError):
                held = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
                if pid != os.getpid() and any(path.startswith(str(self.home)) for path in held):
                    yield pid, Path(f"/proc/{pid}/comm").read_text().strip()

    def children(self, comm: str) -> list[int]:
        """Children of the daemon with this name."""
        assert self.process is not None
        return children_of(self.process.pid, comm)

    @property
    def zygote(self) -> int:
        (pid,) = self.children("orlop-zygote")
        return pid

    def monitor(self, container: str) -> int:
        """The monitor of a container: the parent of its first process."""
        pid = int(self.inspect(container)["State"]["Pid"])
        return parent_of(pid)

    # --- clients ------------------------------------------------------------------------------------------------------

    def run(self, argv: Sequence[str], stdin: T = b"", check: int | None = None, seconds: float = 30) -> Result:
        done = subprocess.run(
            list(argv),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env=self.env,
            timeout=patience(seconds),
            check=False,
        )
        result = Result(done.returncode, done.stdout, done.stderr)
        assert check is None or result.code == check, f"{argv}: exit code {result.code}, not {check}\n{result.err}"
        return result

    def docker(self, *argv: str, stdin: T = b"", check: int | None = None, seconds: float = 30) -> Result:
        return self.run(["docker", *argv], stdin, check, seconds)

    def ok(self, *argv: str, stdin: T = b"") -> str:
        """Run a docker command, which must succeed. Returns its output, stripped."""
        return self.docker(*argv, stdin=stdin, check=0).line

    def orlop(self, *argv: str, stdin: T = b"", check: int | None = None) -> Result:
        own = [sys.executable, "-m", "orlop_cli", "--host", f"unix://{self.socket}"]
        return self.run([*own, *argv], stdin, check)

    def background(self, *argv: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """A docker command in the background; `close` kills it if it still runs."""
        child = subprocess.Popen(
            ["docker", *argv], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env
        )
        self._children.append(child)
        return child

    def terminal(self, *argv: str, rows: int = 24, columns: int = 80) -> Terminal:
        made = Terminal(["docker", *argv], self.env, rows, columns)
        self._terminals.append(made)
        return made

    def api(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Send a request; returns status and decoded body. A `body` of bytes is sent unchanged, others as JSON."""
        status, raw, kind = self.raw(method, path, body, headers)
        return status, json.loads(raw) if "json" in kind and raw.strip() else raw

    def raw(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, str]:
        """Like `api`, but returns the raw body, and its content type."""
        connection = UnixConnection(self.socket)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            own = {"Content-Type": "application/json"} if data is not None else {}
            connection.request(method, path, data, {**own, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheader("Content-Type") or ""
        finally:
            connection.close()

    @property
    def sdk(self) -> Any:
        if self._sdk is None:
            self._sdk = docker.DockerClient(base_url=f"unix://{self.socket}", timeout=patience(30))
        return self._sdk

    def load(self) -> None:
        result = self.docker("load", stdin=archive(), check=0)
        assert result.out == f"Loaded image: {BUSYBOX}\n"

    def inspect(self, name: str) -> dict[str, Any]:
        status, found = self.api("GET", f"/containers/{name}/json")
        assert status == 200, found
        return dict(found)

    def all_events(self, **filters: str) -> list[dict[str, Any]]:
        """All events so far (the daemon keeps the last 256)."""
        wanted = json.dumps({key: [value] for key, value in filters.items()})
        query = urllib.parse.urlencode({"since": "0", "until": f"{time.time():.9f}", "filters": wanted})
        return [json.loads(line) for line in self.raw("GET", f"/v1.45/events?{query}")[1].splitlines()]

    def events(self, **filters: str) -> list[str]:
        """The actions of these events."""
        return [event["Action"] for event in self.all_events(**filters)]

    def recorded_late(self) -> list[str]:
        """The runs that have ended, but still have a run directory, because their exits are not committed yet."""
        runs = self.exec_root / "run"
        return [name for name in os.listdir(runs) if (runs / name / "exit.json").exists()]

    def state(self, name: str) -> str:
        return str(self.inspect(name)["State"]["Status"])

    def wait_state(self, name: str, wanted: str) -> None:
        until(lambda: self.state(name) == wanted, f"{name} is {wanted}")

    def address(self, name: str, network: str = "bridge") -> str:
        return str(self.inspect(name)["NetworkSettings"]["Networks"][network]["IPAddress"])

    def cgroup(self, container_id: str, controller: str, file: str) -> str:
        base = Path("/sys/fs/cgroup")
        base = base / controller if (base / controller).is_dir() else base
        made = base / self._cgroup(container_id).strip("/")
        inner = made / "container"  # with systemd, crun makes a cgroup of its own in the scope
        return ((inner if inner.is_dir() else made) / file).read_text().strip()


def _ground() -> dict[str, Any]:
    """The members of every daemon.json that depend on environment variables."""
    options = {
        "default-runtime": RUNTIME,
        "runtimes": {RUNTIME: {"path": RUNTIME}} if RUNTIME not in ("", "runc") else {},
        "storage-driver": STORAGE,
        "exec-opts": [f"native.cgroupdriver={CGROUP_DRIVER}"] if CGROUP_DRIVER else [],
    }
    return {key: value for key, value in options.items() if value}


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _processes() -> Iterator[tuple[int, str]]:
    for pid in _pids():
        with contextlib.suppress(OSError):
            yield pid, Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def children_of(parent: int, comm: str) -> list[int]:
    found = []
    for pid in _pids():
        with contextlib.suppress(OSError, IndexError):
            if parent_of(pid) == parent and Path(f"/proc/{pid}/comm").read_text().strip() == comm:
                found.append(pid)
    return found


def alive(pid: int) -> bool:
    """Whether the process runs; false for a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def own_address() -> str:
    """This host's address on its default route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))  # sends no packet, only looks up a route
        return str(sock.getsockname()[0])
