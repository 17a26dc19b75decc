"""Runs a real dockerd together with orlopd, for tests that compare the answers of both to a client (`test_parity*.py`).

Ids, times, paths, addresses and host ports are normalised before comparing. KNOWN contains the permitted differences.
docs/api.md describes the differences that a client could notice.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.integration.engine import BUSYBOX, Engine, archive, free_subnets, until

BRIDGE = f"otp{os.getpid()}"  # unique to this run, because a killed run may have left its bridge
SLEEP = ["sleep", "1000"]
HOUR = 3600 * 10**9
HEALTH = {"Test": ["CMD", "true"], "Interval": HOUR, "StartPeriod": HOUR, "StartInterval": 10**8}  # one check in an hour
API = "/v1.45"  # the newest version that both support

# Name, command, configuration, HostConfig, started or not
CONTAINERS: list[tuple[str, list[str], dict[str, Any], dict[str, Any], bool]] = [
    ("plain", SLEEP, {"Labels": {"a": "b", "c": ""}}, {}, True),
    ("created", ["true"], {"Hostname": "hh", "Domainname": "dom.x", "StopSignal": "SIGINT", "StopTimeout": 3}, {}, False),
    ("exited", ["sh", "-c", "exit 3"], {}, {"LogConfig": {"Type": "json-file", "Config": {"max-size": "10k"}}}, True),
    ("failed", ["nosuch"], {}, {}, True),
    (
        "terminal",
        ["-c", "sleep 1000"],
        {"Tty": True, "OpenStdin": True, "Entrypoint": ["sh"], "Env": ["A=1"], "User": "1:2", "WorkingDir": "/tmp"},
        {"AutoRemove": True},
        True,
    ),
    (
        "ports",
        SLEEP,
        {"ExposedPorts": {"80/tcp": {}, "81/udp": {}, "90/tcp": {}}},
        {"PortBindings": {"80/tcp": [{"HostPort": ""}], "81/udp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}},
        True,
    ),
    (
        "mounted",
        SLEEP,
        {"Volumes": {"/anonymous": {}}},
        {
            "Binds": ["/usr/share:/bound:ro", "parity:/volume"],
            "Tmpfs": {"/t": "", "/sized": "size=1m"},
            "Mounts": [
                {"Type": "tmpfs", "Target": "/spec", "TmpfsOptions": {"SizeBytes": 1 << 20}},
                {"Type": "volume", "Source": "parity", "Target": "/again", "ReadOnly": True},
                {"Type": "bind", "Source": "/usr/share", "Target": "/private", "BindOptions": {"Propagation": "private"}},
            ],
        },
        True,
    ),
    ("lender", ["true"], {"Volumes": {"/lent": {}}}, {"Binds": ["/usr/share:/shared", "parity:/volume"]}, False),
    ("inherits", ["true"], {}, {"VolumesFrom": ["lender:ro"]}, False),
    ("healthy", SLEEP, {"Healthcheck": HEALTH}, {}, True),
    ("paused", SLEEP, {}, {}, True),
    (
        "limited",
        SLEEP,
        {},
        {
            "Memory": 64 << 20,
            "MemorySwap": 128 << 20,
            "NanoCpus": 500_000_000,
            "PidsLimit": 50,
            "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}],
            "ShmSize": 32 << 20,
            "OomScoreAdj": 10,
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 4},
        },
        True,
    ),
    ("privileged", ["true"], {}, {"Privileged": True, "PidMode": "host", "PidsLimit": -1, "MemorySwappiness": -1}, False),
    ("alone", SLEEP, {}, {"NetworkMode": "none", "ReadonlyRootfs": True, "CapDrop": ["ALL"], "Init": True}, True),
    ("hosted", SLEEP, {}, {"NetworkMode": "host"}, True),
    ("joined", SLEEP, {}, {"NetworkMode": "container:plain"}, True),
    (
        "linked",
        SLEEP,
        {},
        {"Links": ["plain:db"], "ExtraHosts": ["x:1.2.3.4"], "Dns": ["192.0.2.1"], "DnsSearch": ["s.x"]},
        True,
    ),
    ("two", SLEEP, {}, {"NetworkMode": "parity-net"}, True),
]

# Paths in inspect that may differ: due to the engines' versions, or documented in docs/api.md.
KNOWN = (
    r"GraphDriver\.Data\.LowerDir",  # layers' directories are named differently
    r"HostConfig\.MaskedPaths",  # depends on Docker's version
    r"NetworkSettings\.(SandboxID|SandboxKey)",
    r"NetworkSettings\.Bridge",  # dockerd is given another bridge
    r".*Networks\.[\w-]+\.GwPriority",  # new in API 1.48
    r".*Networks\.host\.EndpointID",
    r"\w+: Mounts\[\d\]\.Source: dockerd ''",  # dockerd shows an anonymous volume as it was before its creation
    r"(created|lender|inherits|privileged): .*Networks\.bridge\.NetworkID",
    r"failed: .*Networks\.bridge\.\w+",  # dockerd keeps the addresses of the failed start
    r"failed: State\.Error",
    r"healthy: State\.Health",
)


class Other(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


class Side:
    """One of the two engines; normalises its answers."""

    def __init__(self, name: str, path: str, home: Path, subnet: str) -> None:
        self.name, self.path, self.home, self.subnet = name, path, home, subnet
        self.names: dict[str, str] = {}

    def raw(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        connection = Other(self.path)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def api(self, method: str, path: str, body: Any = None, version: str = API) -> tuple[int, Any]:
        status, data = self.raw(method, version + path, body)
        try:
            return status, json.loads(data)
        except ValueError:
            return status, data.decode()

    def create(self, name: str, cmd: list[str], config: dict[str, Any], host: dict[str, Any], start: bool) -> None:
        body = {"Image": BUSYBOX, "Cmd": cmd, **config, "HostConfig": host}
        status, made = self.api("POST", f"/containers/create?name={name}", body)
        assert status == 201, (self.name, name, made)
        self.names[made["Id"]] = f"<{name}>"
        if start:
            status, said = self.api("POST", f"/containers/{name}/start")
            assert status in (204, 400), (self.name, name, said)

    def fill(self) -> None:
        status, made = self.api(
            "POST",
            "/networks/create",
            {"Name": "parity-net", "IPAM": {"Config": [{"Subnet": f"{self.subnet}.0/24"}]}},
        )
        assert status == 201, made
        self.names[made["Id"]] = "<parity-net>"
        for each in CONTAINERS:
            self.create(*each)
        endpoint = {"Container": "two", "EndpointConfig": {}}
        assert self.api("POST", "/networks/bridge/connect", endpoint)[0] == 200
        assert self.api("POST", "/containers/paused/pause")[0] == 204
        until(lambda: self.inspect("exited")["State"]["Status"] == "exited", f"the end on {self.name}")
        until(lambda: self.inspect("healthy")["State"]["Health"]["Status"] == "healthy", f"health on {self.name}")
        for network in self.api("GET", "/networks")[1]:
            self.names[network["Id"]] = f"<{network['Name']}>"

    def inspect(self, name: str) -> dict[str, Any]:
        return dict(self.api("GET", f"/containers/{name}/json")[1])

    def empty(self) -> None:
        for item in self.api("GET", "/containers/json?all=1")[1]:
            self.api("DELETE", f"/containers/{item['Id']}?force=1&v=1")
        self.api("DELETE", "/networks/parity-net")
        self.api("DELETE", "/volumes/parity")

    def plain(self, value: Any, key: str = "") -> Any:
        """The value without the parts that always differ between two engines."""
        if isinstance(value, dict):
            return {self.plain(name): self.plain(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [self.plain(each) for each in value]
        if isinstance(value, str):
            return self.text(value, key)
        if key in ("Pid", "Created", "IPPrefixLen", "PublicPort") and isinstance(value, int) and value:
            return key
        return value

    def text(self, value: str, key: str = "") -> str:
        for found, name in self.names.items():
            value = value.replace(found, name).replace(found[:12], name)
        value = value.replace(str(self.home), "HOME")
        value = re.sub(r"\b[0-9a-f]{64}\b", "HEX", value)
        value = re.sub(r"(?!0001)\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", value)
        value = re.sub(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", "MAC", value)
        value = re.sub(r"\b(?:10|172|192)\.\d+\.\d+\.\d+(?:/\d+)?\b", "IP", value)
        return "PORT" if key == "HostPort" and value else value


def differences(theirs: Any, ours: Any, path: str = "") -> Iterator[str]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            if key not in ours or key not in theirs:
                yield f"{path}.{key}: dockerd {theirs.get(key, 'has none')!r}, orlopd {ours.get(key, 'has none')!r}"
            else:
                yield from differences(theirs[key], ours[key], f"{path}.{key}")
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for index, pair in enumerate(zip(theirs, ours, strict=True)):
            yield from differences(*pair, f"{path}[{index}]")
    elif theirs != ours or type(theirs) is not type(ours):
        yield f"{path}: dockerd {theirs!r}, orlopd {ours!r}"


def both(sides: tuple[Side, Side], do: Callable[[Side], Any]) -> tuple[Any, Any]:
    """Run the function on both sides concurrently. Raises the error of either side."""
    found: dict[str, Any] = {}

    def one(side: Side) -> None:
        try:
            found[side.name] = do(side)
        except BaseException as error:
            found[side.name] = error

    threads = [threading.Thread(target=one, args=(side,)) for side in sides]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in found.values():
        if isinstance(result, BaseException):
            raise result
    return found[sides[0].name], found[sides[1].name]


@contextmanager
def beside_dockerd(
    shared: Engine, home: Path, prefix: Sequence[str] = (), *, filled: bool = True
) -> Iterator[tuple[Side, Side]]:
    """A dockerd with its files in `home`, and the shared orlopd. If `filled`, both have the same containers. `prefix`: a
    program and its arguments that execute dockerd."""
    default, own, others = free_subnets(3)
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=True)
    log = (home / "log").open("wb")
    process: subprocess.Popen[bytes] | None = None
    ours = Side("orlopd", shared.socket, shared.home, own)
    theirs = Side("dockerd", f"{home}/s.sock", home, others)
    try:
        subprocess.run(["ip", "addr", "add", f"{default}.1/24", "dev", BRIDGE], check=True)
        subprocess.run(["ip", "link", "set", BRIDGE, "up"], check=True)
        (home / "daemon.json").write_text("{}")
        roots = [f"--config-file={home}/daemon.json", f"--data-root={home}/data", f"--exec-root={home}/exec"]
        quiet = [f"--pidfile={home}/pid", f"--bridge={BRIDGE}", "--iptables=false", "--ip6tables=false", "-l", "warn"]
        process = subprocess.Popen(
            [*prefix, "dockerd", "-H", f"unix://{theirs.path}", *roots, *quiet], stdout=log, stderr=log
        )
        until(lambda: _answers(theirs), "dockerd", 60)  # containerd must start first, perhaps from a cold cache
        assert theirs.raw("POST", "/images/load?quiet=1", archive())[0] == 200
        if filled:
            both((theirs, ours), Side.fill)
        yield theirs, ours
    finally:
        if filled:
            ours.empty()
        if process is not None:
            if filled and process.poll() is None and _answers(theirs):
                theirs.empty()
            process.terminate()
            process.wait(30)
        log.close()
        subprocess.run(["ip", "link", "del", BRIDGE], check=True)
        for place in re.findall(
            rf"^\S+ \S+ \S+ \S+ ({re.escape(str(home))}\S*)", Path("/proc/self/mountinfo").read_text(), re.MULTILINE
        ):
            subprocess.run(["umount", "-l", place], check=False)


def _answers(side: Side) -> bool:
    try:
        return side.raw("GET", "/_ping")[0] == 200
    except OSError:
        return False


def in_order(shown: dict[str, Any]) -> dict[str, Any]:
    """Sorts what Docker lists in random order: mounts, ports and names."""
    shown["Mounts"] = sorted(shown["Mounts"], key=lambda mount: mount["Destination"])
    shown["Names"] = sorted(shown.get("Names", ()))
    if isinstance(shown.get("Ports"), list):
        shown["Ports"].sort(key=lambda port: (port["PrivatePort"], port["Type"], port.get("IP", "")))
    return shown


def unexpected(name: str, theirs: Any, ours: Any) -> list[str]:
    found = [f"{name}: {text.lstrip('.')}" for text in differences(theirs, ours)]
    return [text for text in found if not any(re.match(rf"(?:\w+: )?(?:{known})", text) for known in KNOWN)]
