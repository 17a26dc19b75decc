"""Operations of the soak test: ordinary cycles, and everything that a client can abort half-way.

Each operation removes its own objects, so remaining objects are a leak of the daemon. All operations use the long-lived
containers of one `Scene`, so that leaks accumulate in one place.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from typing import Any

from tests.integration.engine import BUSYBOX, DEADLINE, Engine, until
from tests.registry import layer

from orlop_kernel.events.bus import HISTORY
from orlop_sdk.testing.ports import free_port

from .stalling import stalling

__all__ = ["AT_ONCE", "DROPS", "RARE", "Scene"]

AT_ONCE = 8

_FILES = [layer({f"large{number}": os.urandom(3 << 20)}).data for number in range(10)]
"""One file per request, so that no two concurrent requests create the same file."""
_TALKER = "while :; do echo talk talk talk talk; sleep 0.01; done"


class Scene:
    """A daemon with three long-lived containers: `silent` writes nothing, `talker` never stops writing, `waiting` is never
    started."""

    def __init__(self, engine: Engine, stack: ExitStack) -> None:
        self.engine = engine
        self._numbers = count()
        self._taken = free_port()
        self._image = stack.enter_context(stalling())
        self._waiting = self.create("waiting", ["true"])
        for name, command in (("silent", ["sleep", "100000"]), ("talker", ["sh", "-c", _TALKER])):
            self.create(name, command, Tty=False, OpenStdin=True)
            self.post(f"/containers/{name}/start", 204)

    # --- requests -----------------------------------------------------------------------------------------------------

    def post(self, path: str, wanted: int, body: Any = None) -> Any:
        status, answer = self.engine.api("POST", path, body)
        assert status == wanted, (path, status, answer)
        return answer

    def create(self, name: str, command: list[str], host: dict[str, Any] | None = None, **more: Any) -> str:
        config = {"Image": BUSYBOX, "Cmd": command, "HostConfig": host or {"NetworkMode": "none"}, **more}
        return str(self.post(f"/containers/create?name={name}", 201, config)["Id"])

    def remove(self, name: str) -> None:
        status, answer = self.engine.api("DELETE", f"/containers/{name}?force=1&v=1")
        assert status == 204, answer

    def send(self, method: str, path: str, body: Any = None, upgrade: bool = False) -> socket.socket:
        """Send a request. The caller may read the answer."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE)
        sock.connect(self.engine.socket)
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Length: {len(data)}\r\n"
        head += "Content-Type: application/json\r\n" if data else ""
        head += "Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else ""
        sock.sendall(head.encode() + b"\r\n" + data)
        return sock

    def attach(self, name: str, upgrade: bool = True, stdin: bool = True) -> socket.socket:
        query = f"stream=1&stdout=1&stderr=1&stdin={int(stdin)}"
        return self.send("POST", f"/containers/{name}/attach?{query}", upgrade=upgrade)

    def fill_history(self) -> None:
        """Fill the daemon's event history. After that, the memory of the history is constant."""
        for number in range(HISTORY):
            self.post(f"/containers/{self._waiting}/rename?name={('patient', 'waiting')[number % 2]}", 204)

    # --- whole cycles -------------------------------------------------------------------------------------------------

    def cycle(self) -> None:
        """Create, start, wait for and remove a container, sometimes on the bridge, with a port and an anonymous volume."""
        number = next(self._numbers)
        name = f"cycle{number}"
        host: dict[str, Any] = {"NetworkMode": "none"}
        more: dict[str, Any] = {}
        if number % 2 == 0:
            host = {"NetworkMode": "bridge", "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}}
        if number % 5 == 0:
            more = {"Volumes": {"/data": {}}}
        self.create(name, ["sh", "-c", "echo out; echo err >&2; exit 3"], host, Tty=number % 7 == 0, **more)
        self.post(f"/containers/{name}/start", 204)
        assert self.post(f"/containers/{name}/wait", 200) == {"StatusCode": 3}
        self.remove(name)

    def exec(self) -> None:
        """An attached exec, read to its end."""
        number = next(self._numbers)
        made = self.post(
            "/containers/silent/exec", 201, {"Cmd": ["echo", "hi"], "AttachStdout": True, "AttachStderr": True}
        )["Id"]
        with self.send("POST", f"/exec/{made}/start", {"Detach": False}, upgrade=number % 2 == 0) as sock:
            seen = b""
            while more := sock.recv(65536):
                seen += more
        assert seen.endswith(b"\1\0\0\0\0\0\0\3hi\n"), seen
        assert self.engine.api("GET", f"/exec/{made}/json")[1]["ExitCode"] == 0

    def restart(self) -> None:
        """Restart a container, and let a policy restart another."""
        name = f"again{next(self._numbers)}"
        host = {"NetworkMode": "bridge", "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1}}
        self.create(name, ["false"], host)
        self.post(f"/containers/{name}/start", 204)
        until(lambda: self.engine.state(name) == "exited", "its policy is satisfied")
        self.post(f"/containers/{name}/restart?t=0", 204)
        self.remove(name)

    # --- large requests and answers -----------------------------------------------------------------------------------

    def large(self) -> None:
        """`AT_ONCE` concurrent requests with megabytes of body or answer: a refused configuration, files into a container
        and out of it, a log, lists."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for done in [pool.submit(self._large) for _ in range(AT_ONCE)]:
                done.result()

    def _large(self) -> None:
        number = next(self._numbers)
        kind = number % 5
        if kind == 0:
            config = {"Image": BUSYBOX, "Env": ["NAME=" + "x" * 1000] * 3000}
            assert self.engine.api("POST", "/containers/create?name=-refused", config)[0] == 400
        elif kind == 1:
            status, _, _ = self.engine.raw("PUT", "/containers/silent/archive?path=/", _FILES[number // 5 % len(_FILES)])
            assert status == 200
        elif kind == 2:
            assert len(self.engine.raw("GET", "/containers/silent/archive?path=/bin")[1]) > 100_000
        elif kind == 3:
            assert self.engine.raw("GET", "/containers/talker/logs?stdout=1&tail=20000&timestamps=1")[0] == 200
        else:
            assert self.engine.raw("GET", "/events?since=1&until=2")[0] == 200
            assert self.engine.api("GET", "/containers/json?all=1&size=1")[0] == 200

    # --- failing requests ---------------------------------------------------------------------------------------------

    def no_such_executable(self) -> None:
        name = f"fails{next(self._numbers)}"
        self.create(name, ["no-such-thing"], {"NetworkMode": "bridge"})
        self.post(f"/containers/{name}/start", 400)
        self.remove(name)

    def port_taken(self) -> None:
        name = f"taken{next(self._numbers)}"
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            binding = [{"HostIp": "127.0.0.1", "HostPort": str(holder.getsockname()[1])}]
            self.create(name, ["true"], {"NetworkMode": "bridge", "PortBindings": {"80/tcp": binding}})
            status, _ = self.engine.api("POST", f"/containers/{name}/start")
            assert status >= 400, status
        self.remove(name)

    def exec_fails(self) -> None:
        made = self.post("/containers/silent/exec", 201, {"Cmd": ["no-such-thing"], "AttachStdout": True})["Id"]
        with self.send("POST", f"/exec/{made}/start", {"Detach": False}) as sock:
            while sock.recv(65536):
                pass
        assert self.engine.api("GET", f"/exec/{made}/json")[1]["ExitCode"] == 127

    # --- broken connections -------------------------------------------------------------------------------------------

    def drop_unanswered(self) -> None:
        self.attach("talker", upgrade=False).close()

    def drop_before_output(self) -> None:
        sock = self.attach("silent")
        assert sock.recv(4096).startswith(b"HTTP/1.1 101")
        sock.close()

    def drop_without_stdin(self) -> None:
        sock = self.attach("silent", stdin=False)
        assert sock.recv(4096).startswith(b"HTTP/1.1 101")
        sock.close()

    def drop_in_output(self) -> None:
        sock = self.attach("talker")
        while b"talk" not in sock.recv(4096):
            pass
        sock.close()  # data is unread, so the daemon gets a reset

    def drop_half_closed(self) -> None:
        """Half-close, which keeps an attach without input open, then disconnect."""
        sock = self.attach("silent", stdin=False)
        assert sock.recv(4096).startswith(b"HTTP/1.1 101")
        sock.shutdown(socket.SHUT_WR)
        select.select([sock], [], [], 0.02)
        sock.close()

    def drop_after_output(self) -> None:
        name = f"short{next(self._numbers)}"
        self.create(name, ["echo", "done"])
        sock = self.attach(name, stdin=False)
        self.post(f"/containers/{name}/start", 204)
        seen = b""
        while not seen.endswith(b"done\n"):
            seen += sock.recv(4096)
        sock.close()
        self.post(f"/containers/{name}/wait", 200)
        self.remove(name)

    def drop_before_start(self) -> None:
        """Requests on a container that is never started. Only the disconnect can end these requests."""
        for sock in (self.attach("waiting"), self.attach("waiting", stdin=False), self.attach("waiting", upgrade=False)):
            sock.settimeout(0.02)
            try:
                sock.recv(4096)
            except TimeoutError:
                pass
            sock.shutdown(socket.SHUT_WR)
            sock.close()

    def drop_exec(self) -> None:
        """Disconnect in the middle of an exec's output, and before its answer. The exec's process ends by SIGPIPE, or by
        itself."""
        script = ["sh", "-c", "for i in 1 2 3 4 5; do echo word || exit; sleep 0.02; done"]
        config = {"Cmd": script, "AttachStdin": True, "AttachStdout": True}
        for read in (True, False):
            made = self.post("/containers/silent/exec", 201, config)["Id"]
            sock = self.send("POST", f"/exec/{made}/start", {"Detach": False}, upgrade=True)
            if read:
                sock.recv(4096)
            sock.close()

    def drop_logs(self) -> None:
        for name in ("silent", "talker"):
            sock = self.send("GET", f"/containers/{name}/logs?follow=1&stdout=1&tail=1")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
            sock.close()

    def drop_events(self) -> None:
        sock = self.send("GET", "/events")
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")
        sock.close()

    def drop_wait(self) -> None:
        for path in ("/containers/silent/wait", "/containers/silent/wait?condition=removed"):
            sock = self.send("POST", path)
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
            sock.close()

    def drop_pull(self) -> None:
        sock = self.send("POST", f"/images/create?fromImage={self._image}&tag=latest")
        seen = b""
        while b"Downloading" not in seen:
            more = sock.recv(65536)
            assert more, seen
            seen += more
        sock.close()

    def drop_load(self) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.engine.socket)
        sock.sendall(b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: 1000000\r\n\r\n" + b"\0" * 100_000)
        sock.close()

    def drop_start(self) -> None:
        """Disconnect while a container is being started: the start is completed."""
        name = f"left{next(self._numbers)}"
        self.create(name, ["true"], {"NetworkMode": "bridge"})
        self.send("POST", f"/containers/{name}/start").close()
        until(lambda: self.engine.state(name) == "exited", "it ran all the same")
        self.remove(name)


DROPS: tuple[Callable[[Scene], None], ...] = (
    Scene.drop_unanswered,
    Scene.drop_before_output,
    Scene.drop_without_stdin,
    Scene.drop_in_output,
    Scene.drop_half_closed,
    Scene.drop_after_output,
    Scene.drop_before_start,
    Scene.drop_exec,
    Scene.drop_logs,
    Scene.drop_events,
    Scene.drop_wait,
    Scene.drop_start,
)
RARE: tuple[Callable[[Scene], None], ...] = (
    Scene.restart,
    Scene.no_such_executable,
    Scene.port_taken,
    Scene.exec_fails,
    Scene.drop_pull,
    Scene.drop_load,
)
"""Operations that are slow, or not caused by a client alone. They are run less often."""
