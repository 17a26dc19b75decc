"""A throwaway engine for tests: a daemon with its own directories, socket, bridge and cgroup, which all end with the test.

    with orlop_sdk.testing.engine(config={"log-driver": "mine"}) as engine:
        engine.load("busybox.tar")
        client = docker.from_env()

    def test_mine(orlop_engine): ...        # the pytest fixtures are in `orlop_sdk.testing.fixtures`

The engine is the program `orlopd`, which is found next to the interpreter of the tests, or on PATH. The sdk imports nothing
of it, and talks to its socket. While the context is open, DOCKER_HOST is set, so docker-py, testcontainers, the clients and
Compose use this engine.

As root, the engine is complete. As another user, `orlopd` runs in a user namespace, in which only this user's id exists, and
with the storage driver `vfs`. There the engine is real except for one thing: the host gives such a namespace no cgroup, so
no container can be started, and a start fails with the runtime's error (`Engine.runs_containers` is false). Images, layers,
volumes, networks, created containers, configurations and refusals work. The namespace has no connection to the network: load
images from files. On a host that allows no user namespaces, `engine` raises `EngineUnavailable`, and the fixtures skip.

At the end, containers, networks, volumes and images are removed through the API, so that the drivers remove what they have
made, and then the daemon and its directory. A daemon that has died or no longer answers is started again for this.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orlop_sdk import files, mountinfo

__all__ = ["Engine", "EngineError", "EngineUnavailable", "engine"]

_PATIENCE = 60.0  # seconds for one step of a start or an end, on a machine that is busy
_IN_USER_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "--net")
_OWN_CONFIG = {"group": "0"}  # the only group that a user namespace with one id has
_USER_CONFIG = {"storage-driver": "vfs"}  # overlayfs needs other options in a user namespace
_OTHER_HOST = ("DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")  # belong to another DOCKER_HOST
_CUSTOM = "filters=%7B%22type%22%3A%5B%22custom%22%5D%7D"  # {"type":["custom"]}
# What the engine may hold: the route of the list, the member that names an object, the route that removes an object.
# Containers are first, because a network or a volume in use cannot be removed.
_OBJECTS = (
    ("/containers/json?all=1", "Id", "/containers/{}?force=1&v=1"),
    (f"/networks?{_CUSTOM}", "Id", "/networks/{}"),
    ("/volumes", "Name", "/volumes/{}?force=1"),
    ("/images/json", "Id", "/images/{}?force=1"),
)


class EngineError(Exception):
    """The engine cannot be started, used or removed. The message ends with the daemon's log where that helps."""


class EngineUnavailable(EngineError):
    """This user cannot start an engine on this host."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """A running engine. Made by `engine`, and by the fixtures."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        program = _program()
        self.runs_containers = os.geteuid() == 0
        """Whether containers can be started: only as root."""
        if not self.runs_containers:
            _check_user_namespaces()
        text = json.dumps({**_OWN_CONFIG, **({} if self.runs_containers else _USER_CONFIG), **config})
        # Short, because a socket's path has at most 107 bytes
        self.directory = Path(tempfile.mkdtemp(prefix="oe-", dir="/tmp"))
        """The directory of all files of this engine. The data root is its subdirectory `data`."""
        socket_path = self.directory / "s.sock"
        self.host = f"unix://{socket_path}"
        self.env = {
            "DOCKER_HOST": self.host,
            # testcontainers starts no Ryuk, which needs an image from a registry: the end of the engine removes everything
            "TESTCONTAINERS_RYUK_DISABLED": "true",
        }
        """Environment variables for programs that use this engine. They are also set in `os.environ`."""
        self._socket, self._log = str(socket_path), self.directory / "orlopd.log"
        file = self.directory / "daemon.json"
        file.write_text(text)
        roots = ["--data-root", str(self.directory / "data"), "--exec-root", str(self.directory / "run")]
        prefix = () if self.runs_containers else _IN_USER_NAMESPACE
        self._command = [*prefix, program, "--config-file", str(file), *roots, "-H", self.host]
        self._process: subprocess.Popen[bytes] | None = None
        self._has_answered = False

    def logs(self) -> str:
        """The daemon's log so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def load(self, path: str | os.PathLike[str]) -> list[str]:
        """Load an archive of `docker save`, or an OCI archive. Returns the names of the loaded images."""
        with open(path, "rb") as archive:
            answer = self._request("POST", "/images/load?quiet=1", archive)
        lines = [json.loads(line) for line in answer.splitlines()]
        if wrong := [line["error"] for line in lines if "error" in line]:
            raise EngineError(f"cannot load {os.fspath(path)}: {wrong[0]}")
        texts = (line.get("stream", "").strip() for line in lines)
        return [text.partition(": ")[2] for text in texts if text.startswith("Loaded image")]

    # --- start and end ---

    def _start(self) -> None:
        """Start the daemon, and wait until it answers."""
        with self._log.open("ab") as log:
            # A session of its own: the interrupt key ends the tests, and not the daemon before its containers are removed
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )
        end = time.monotonic() + _PATIENCE
        while not self._answers():
            if (code := self._process.poll()) is not None:
                raise EngineError(f"cannot start the engine: orlopd ended with exit code {code}:\n{self.logs()}")
            if time.monotonic() > end:
                raise EngineError(f"cannot start the engine: orlopd does not answer:\n{self.logs()}")
            time.sleep(0.003)
        self._has_answered = True

    def _answers(self) -> bool:
        try:
            self._request("GET", "/_ping")
        except OSError:
            return False
        return True

    def _close(self) -> None:
        """Remove everything. All steps are tried; then what failed is raised."""
        failures: list[str] = []
        if self._has_answered:
            failures += self._remove_objects()
        self._stop()
        failures += self._remove_directory()
        if failures:
            raise EngineError("the engine is not removed completely:\n" + "\n".join(failures))

    def _remove_objects(self) -> list[str]:
        """Returns what could not be removed."""
        try:
            return self._empty()
        except (OSError, http.client.HTTPException):
            pass  # the daemon has died or hangs; only a daemon can remove its monitors, links and rules
        self._stop(kill=True)
        try:
            self._start()
            return self._empty()
        except (OSError, http.client.HTTPException, EngineError) as error:
            return [f"cannot remove the engine's containers and networks: {error}"]

    def _empty(self) -> list[str]:
        left: list[str] = []
        for listing, key, removal in _OBJECTS:
            end = time.monotonic() + _PATIENCE
            # Again until the list is empty: a container with AutoRemove may be in removal, and refuse another removal
            while left_here := self._remove_each(listing, key, removal):
                if time.monotonic() > end:
                    left += left_here
                    break
                time.sleep(0.01)
        return left

    def _remove_each(self, listing: str, key: str, removal: str) -> list[str]:
        """Returns a message for each object that was not removed. An empty list means that no object is left."""
        found = json.loads(self._request("GET", listing))
        names = [each[key] for each in (found["Volumes"] or [] if isinstance(found, dict) else found)]
        left = []
        for name in names:
            try:
                self._request("DELETE", removal.format(name))
            except EngineError as error:
                left.append(str(error))
        return left

    def _stop(self, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if kill or not self._has_answered:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _remove_directory(self) -> list[str]:
        below = [mount.path for mount in mountinfo.read() if mount.path.startswith(f"{self.directory}/")]
        if below:  # the deletion would continue in the mounted file system, which may be a directory of the host
            return [f"{self.directory} is kept, because these mounts are left: {', '.join(below)}"]
        if self.runs_containers:
            files.delete_tree(str(self.directory))
            return []
        # Layers may have directories without permissions for their owner, in which only root of a user namespace can delete
        argv = [*_IN_USER_NAMESPACE, "rm", "-rf", "--", str(self.directory)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return [done.stderr] if done.returncode else []

    def _request(self, method: str, path: str, body: Any = None) -> bytes:
        """The body of the answer. Raises EngineError if the engine refuses."""
        connection = _Connection(self._socket)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise EngineError(f"{method} {path}: {answer.status} {content.decode(errors='replace').strip()}")
        return content


def _program() -> str:
    beside = os.path.join(os.path.dirname(sys.executable), "orlopd")
    found = beside if os.access(beside, os.X_OK) else shutil.which("orlopd")
    if not found:
        raise EngineError(
            "cannot find the program orlopd next to the Python interpreter or on PATH. "
            "Install Orlop in the environment of the tests: pip install orlop"
        )
    return found


def _check_user_namespaces() -> None:
    try:
        done = subprocess.run([*_IN_USER_NAMESPACE, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise EngineUnavailable("an engine needs root, or the program unshare") from None
    if done.returncode:
        raise EngineUnavailable(f"an engine needs root, or a host that allows user namespaces: {done.stderr.strip()}")


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in (*values, *_OTHER_HOST)}
    for name in _OTHER_HOST:
        os.environ.pop(name, None)
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            with suppress(KeyError):
                del os.environ[name]
            if value is not None:
                os.environ[name] = value


@contextmanager
def engine(config: Mapping[str, Any] | None = None) -> Iterator[Engine]:
    """A throwaway engine. `config` are keys of its `daemon.json`. Raises EngineError if the daemon does not start, or if
    something cannot be removed at the end, and EngineUnavailable if this user cannot start an engine on this host."""
    made = Engine(config or {})
    try:
        made._start()
        with _environment(made.env):
            yield made
    finally:
        made._close()
