"""The engines to compare. Each engine has its own roots and socket, and all its files are removed at the end. As on servers,
data roots are on disk (like /var/lib), and exec roots in memory (like /run). An option moves data roots to memory, too.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Connection", "Engine", "dockerd", "in_memory", "orlop", "podman", "timed"]

BIN = os.path.join(sys.prefix, "bin")


def timed(action: Callable[[], object]) -> float:
    """Seconds that the action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(self.path)


@dataclass(eq=False)
class Engine:
    name: str
    command: list[str]
    socket: str
    log: str
    environment: dict[str, str] = field(default_factory=dict)
    client: str = "docker"
    """The engine's own client."""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start the engine and return the seconds from exec to the first answer."""
        began = time.perf_counter()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **self.environment}
            )
        while True:
            try:
                self.get("/_ping")
                return time.perf_counter() - began
            except OSError:
                if self.process.poll() is not None or time.perf_counter() - began > 60:
                    with open(self.log) as text:
                        raise RuntimeError(f"{self.name} did not start:\n{text.read()[-3000:]}") from None
                time.sleep(0.002)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def get(self, path: str) -> bytes:
        return self.request("GET", path)

    def request(self, method: str, path: str, body: object = None) -> bytes:
        connection = Connection(self.socket)
        try:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status >= 400:
                raise RuntimeError(f"{self.name}: {method} {path}: {answer.status} {data[:300]!r}")
            return data
        finally:
            connection.close()

    def docker(self, *words: str, **more: object) -> subprocess.CompletedProcess[bytes]:
        """Run the docker client with this engine."""
        return self._run("docker", words, more)

    def own(self, *words: str, **more: object) -> subprocess.CompletedProcess[bytes]:
        """Run the engine's own client with this engine."""
        return self._run(self.client, words, more)

    def _run(self, client: str, words: tuple[str, ...], more: dict[str, object]) -> subprocess.CompletedProcess[bytes]:
        command = [client, "-H", f"unix://{self.socket}", *words]
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **more}
        done = subprocess.run(command, **options)  # type: ignore[call-overload]
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(words)}: {done.returncode}: {(done.stderr or b'')[-500:]!r}")
        return done  # type: ignore[no-any-return]

    def processes(self) -> list[int]:
        """Pids of the engine's processes: its process tree, and the monitors or shims that are not in this tree."""
        assert self.process is not None
        parents: dict[int, int] = {}
        commands: dict[int, str] = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as file:
                    parents[int(pid)] = int(file.read().rpartition(")")[2].split()[1])
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    commands[int(pid)] = file.read().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
        roots = {self.process.pid}
        top = os.path.dirname(os.path.dirname(self.socket))
        places = (f"{top}/{self.name}/", f"{top}/run/{self.name}/")
        roots |= {pid for pid, text in commands.items() if "containerd" in text and any(place in text for place in places)}
        own = set(roots)
        words = ("containerd", "dockerd", "docker-proxy", "orlop", "podman", "conmon")
        grown = True
        while grown:
            more = {
                p for p, parent in parents.items() if parent in own and any(w in commands.get(p, "") for w in words)
            } - own
            own |= more
            grown = bool(more)
        return sorted(own)

    def memory(self) -> float:
        """PSS in MB of the engine's processes."""
        total = 0
        for pid in self.processes():
            try:
                with open(f"/proc/{pid}/smaps_rollup") as file:
                    total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
            except OSError:
                continue
        return total / 1024


@contextmanager
def _engine(name: str, top: str, command: list[str], **environment: str) -> Iterator[Engine]:
    engine = Engine(name, command, f"{top}/{name}/s.sock", f"{top}/{name}/log", environment)
    os.makedirs(f"{top}/{name}", exist_ok=True)
    try:
        yield engine
    finally:
        if engine.process is not None:
            try:
                for item in json.loads(engine.get("/containers/json?all=1")):
                    engine.request("DELETE", f"/containers/{item['Id']}?force=1")
            finally:
                engine.stop()


@contextmanager
def in_memory(path: str) -> Iterator[None]:
    os.makedirs(path, 0o711, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=711", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=False)


@contextmanager
def orlop(
    top: str,
    runtime: str = "runc",
    name: str = "orlop",
    config: Mapping[str, object] | None = None,
    programs: str = BIN,
) -> Iterator[Engine]:
    base = f"{top}/{name}"
    os.makedirs(base, exist_ok=True)
    with open(f"{base}/daemon.json", "w") as file:
        ours = {"runtimes": {"crun": {"path": "crun"}}, "default-runtime": runtime, "log-driver": "json-file"}
        json.dump({**ours, **(config or {})}, file)
    roots = ["--data-root", f"{base}/data", "--exec-root", f"{top}/run/{name}"]
    command = [f"{programs}/orlopd", "--config-file", f"{base}/daemon.json", *roots, "-H", f"unix://{base}/s.sock"]
    with _engine(name, top, command) as engine:
        engine.client = f"{programs}/orlop"
        yield engine


@contextmanager
def dockerd(top: str) -> Iterator[Engine]:
    base = f"{top}/dockerd"
    os.makedirs(base, exist_ok=True)
    with open(f"{base}/daemon.json", "w") as file:
        file.write("{}")
    bridge = "bench-docker0"
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    subprocess.run(["ip", "addr", "add", "172.29.0.1/16", "dev", bridge], check=True)
    subprocess.run(["ip", "link", "set", bridge, "up"], check=True)
    command = [
        *(
            "dockerd",
            "--config-file",
            f"{base}/daemon.json",
            "--data-root",
            f"{base}/data",
            "--exec-root",
            f"{top}/run/dockerd",
        ),
        *("-H", f"unix://{base}/s.sock", "--pidfile", f"{base}/pid", "--bridge", bridge),
    ]
    try:
        with _engine("dockerd", top, command) as engine:
            yield engine
    finally:
        subprocess.run(["ip", "link", "del", bridge], check=False)
        for path in (f"{top}/run/dockerd", f"{base}/data"):
            with open("/proc/self/mountinfo") as file:
                for place in [line.split()[4] for line in file if path in line]:
                    subprocess.run(["umount", "-l", place], check=False)


@contextmanager
def podman(top: str) -> Iterator[Engine]:
    base = f"{top}/podman"
    os.makedirs(base, exist_ok=True)
    roots = ["--root", f"{base}/data", "--runroot", f"{top}/run/podman"]
    command = ["podman", *roots, "system", "service", "--time", "0", f"unix://{base}/s.sock"]
    with _engine("podman", top, command) as engine:
        yield engine
