"""A real dockerd beside orlopd: the same containers and the same requests, and what a client sees of them must be the same.

Ids, times, paths, addresses and host ports are replaced before comparing. What may differ is in KNOWN, and, where a client
could notice, in docs/api.md.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import BUSYBOX, Engine, archive, free_subnets, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to compare with")]

BRIDGE = f"otp{os.getpid()}"  # of this run: one that was killed may have left its own
SLEEP = ["sleep", "1000"]
HOUR = 3600 * 10**9
HEALTH = {"Test": ["CMD", "true"], "Interval": HOUR, "StartPeriod": HOUR, "StartInterval": 10**8}  # one check, at once
API = "/v1.45"  # the newest that both speak

# name, command, configuration, HostConfig, started or not
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

# Paths within inspect that may differ: another engine's version, or written down in docs/api.md.
KNOWN = (
    r"GraphDriver\.Data\.LowerDir",  # directories have other names
    r"HostConfig\.MaskedPaths",  # of a newer Docker
    r"NetworkSettings\.(SandboxID|SandboxKey)",
    r"NetworkSettings\.Bridge",  # dockerd runs on a bridge that it is told
    r".*Networks\.[\w-]+\.GwPriority",  # of API 1.48
    r".*Networks\.host\.EndpointID",
    r"\w+: Mounts\[\d\]\.Source: dockerd ''",  # it lists an anonymous volume as it was before it was made
    r"(created|lender|inherits|privileged): .*Networks\.bridge\.NetworkID",
    r"failed: .*Networks\.bridge\.\w+",  # dockerd shows what the start had got
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
    """One of the two engines, and how its answers are made comparable."""

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
        """Without what no two engines share."""
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
    """The same on both, at the same time. What fails on one is raised."""
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


@pytest.fixture(scope="module")
def sides(shared: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    home = tmp_path_factory.mktemp("dockerd")
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
        process = subprocess.Popen(["dockerd", "-H", f"unix://{theirs.path}", *roots, *quiet], stdout=log, stderr=log)
        until(lambda: _answers(theirs), "dockerd", 30)
        assert theirs.raw("POST", "/images/load?quiet=1", archive())[0] == 200
        both((theirs, ours), Side.fill)
        yield theirs, ours
    finally:
        ours.empty()
        if process is not None:
            if process.poll() is None and _answers(theirs):
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


def _sorted(shown: dict[str, Any]) -> dict[str, Any]:
    """Docker keeps mounts, ports and names in no order."""
    shown["Mounts"] = sorted(shown["Mounts"], key=lambda mount: mount["Destination"])
    shown["Names"] = sorted(shown.get("Names", ()))
    if isinstance(shown.get("Ports"), list):
        shown["Ports"].sort(key=lambda port: (port["PrivatePort"], port["Type"], port.get("IP", "")))
    return shown


def unexpected(name: str, theirs: Any, ours: Any) -> list[str]:
    found = [f"{name}: {text.lstrip('.')}" for text in differences(theirs, ours)]
    return [text for text in found if not any(re.match(rf"(?:\w+: )?(?:{known})", text) for known in KNOWN)]


@pytest.mark.parametrize("version", ["/v1.45", "/v1.43"])
def test_inspect(sides: tuple[Side, Side], version: str) -> None:
    wrong: list[str] = []
    for name, *_ in CONTAINERS:
        shown = []
        for side in sides:
            status, found = side.api("GET", f"/containers/{name}/json?size=1", version=version)
            assert status == 200
            shown.append(_sorted(side.plain(found)))
        wrong += unexpected(name, *shown)
    assert not wrong, "\n".join(wrong)


def test_list(sides: tuple[Side, Side]) -> None:
    shown = []
    for side in sides:
        items = side.api("GET", "/containers/json?all=1&size=1")[1]
        for item in items:
            item["Status"] = re.sub(r"Less than a second|\d+ seconds?|About a minute", "N", item["Status"])
        shown.append({side.plain(item)["Id"]: _sorted(side.plain(item)) for item in items})
    assert shown[0].keys() == shown[1].keys()
    wrong = [text for name in shown[0] for text in unexpected(name.strip("<>"), shown[0][name], shown[1][name])]
    assert not wrong, "\n".join(wrong)


FILTERS: list[dict[str, list[str]]] = [
    {"id": ["0" * 64]},
    {"id": ["["]},
    {"name": ["pl"]},
    {"name": ["/plain$"]},
    {"name": ["^p"]},
    {"name": ["["]},
    {"name": ["plain", "two$"]},
    {"label": ["a"]},
    {"label": ["a=b", "c"]},
    {"label": ["a=x"]},
    *({"status": [word]} for word in ("created", "restarting", "running", "removing", "paused", "exited", "dead", "up")),
    {"status": ["running", "exited"]},
    {"status": []},
    {"exited": ["3"]},
    {"ancestor": ["busybox"]},
    {"ancestor": ["nosuch"]},
    {"ancestor": ["nosuch", "busybox:latest"]},
    {"before": ["ports"]},
    {"since": ["ports"]},
    {"before": ["two"], "since": ["ports"]},
    {"before": ["nosuch"]},
    {"volume": ["parity"]},
    {"volume": ["/bound"]},
    {"volume": ["/usr/share"]},
    {"volume": ["/t"]},
    {"network": ["parity-net"]},
    {"network": ["bridge"]},
    {"network": ["none"]},
    {"network": ["nosuch"]},
    {"publish": ["80"]},
    {"expose": ["80"]},
    {"expose": ["79-95"]},
    {"expose": ["81/udp"]},
    {"publish": ["1-65535/udp"], "expose": ["90"]},
    {"health": ["healthy"]},
    {"health": ["none"]},
    {"health": ["bogus"]},
    {"is-task": ["true"]},
    {"is-task": ["0"]},
    {"is-task": ["x"]},
    {"isolation": ["default"]},
    {"bogus": ["1"]},
]


def test_filters(sides: tuple[Side, Side]) -> None:
    """Of a list, with and without `all`, and with a limit."""
    wrong = []
    for filters in FILTERS:
        text = urllib.parse.quote(json.dumps({key: dict.fromkeys(values, True) for key, values in filters.items()}))
        for more in ("", "all=1&", "limit=2&"):
            answers = []
            for side in sides:
                status, found = side.api("GET", f"/containers/json?{more}filters={text}")
                names = [next(n for n in item["Names"] if n.count("/") == 1) for item in found] if status == 200 else found
                answers.append((status, names))
            if answers[0] != answers[1]:
                wrong.append(f"{more}{filters}: dockerd {answers[0]}, orlopd {answers[1]}")
    assert not wrong, "\n".join(wrong)


def test_names_that_lead_to_a_container(sides: tuple[Side, Side]) -> None:
    for side in sides:
        ident = next(key for key, name in side.names.items() if name == "<plain>")
        for text in (ident, ident[:7], "plain", "linked/db"):
            assert side.inspect(text)["Id"] == ident, (side.name, text)
        found = side.api("GET", f"/containers/json?filters={urllib.parse.quote(json.dumps({'id': [ident[:9]]}))}")[1]
        assert [item["Id"] for item in found] == [ident], side.name


REFUSED: list[tuple[str, str, Any]] = [
    ("POST", "/containers/create?name=-x", {"Image": BUSYBOX, "Cmd": ["true"]}),
    ("POST", "/containers/create?name=plain", {"Image": BUSYBOX, "Cmd": ["true"]}),
    ("POST", "/containers/create?platform=linux/arm64", {"Image": BUSYBOX, "Cmd": ["true"]}),
    ("POST", "/containers/create?platform=bogus", {"Image": BUSYBOX, "Cmd": ["true"]}),
    ("POST", "/containers/create", {"Image": "nosuch:1", "Cmd": ["true"]}),
    ("POST", "/containers/create", {"Image": BUSYBOX, "Cmd": ["a"], "StopSignal": "BOGUS"}),
    *(
        ("POST", "/containers/create", {"Image": BUSYBOX, "Cmd": ["a"], "HostConfig": host})
        for host in (
            {"RestartPolicy": {"Name": "bogus"}},
            {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 2}},
            {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}},
            {"RestartPolicy": {"Name": "always"}, "AutoRemove": True},
            {"Memory": 1000},
        )
    ),
    *(
        ("POST", f"/containers/created/{verb}", None)
        for verb in (
            "stop",
            "kill",
            "pause",
            "unpause",
            "resize?h=1&w=1",
            "rename?name=",
            "rename?name=plain",
            "rename?name=a%20b",
        )
    ),
    *(("POST", f"/containers/paused/{verb}", None) for verb in ("start", "pause")),
    *(("POST", f"/containers/plain/kill?signal={signal}", None) for signal in ("BOGUS", "sigusr1x", "x")),
    ("POST", "/containers/plain/rename?name=plain", None),
    ("POST", "/containers/plain/start", None),
    ("POST", "/containers/exited/stop", None),
    ("POST", "/containers/exited/kill", None),
    ("POST", "/containers/exited/wait?condition=bogus", None),
    ("GET", "/containers/exited/top", None),
    ("GET", "/containers/exited/logs", None),
    ("DELETE", "/containers/plain", None),
    ("DELETE", "/containers/paused", None),
    *(("POST", f"/containers/nosuch/{verb}", None) for verb in ("start", "stop", "kill", "wait", "pause", "rename?name=zz")),
    ("DELETE", "/containers/nosuch", None),
    ("POST", "/containers/prune?filters=%7B%22bogus%22%3A%5B%221%22%5D%7D", None),
]


def test_refusals(sides: tuple[Side, Side]) -> None:
    wrong = []
    for method, path, body in REFUSED:
        answers = [
            (status, side.text(json.dumps(said))) for side in sides for status, said in [side.api(method, path, body)]
        ]
        if answers[0] != answers[1]:
            wrong.append(f"{method} {path} {json.dumps(body)}: dockerd {answers[0]}, orlopd {answers[1]}")
    assert not wrong, "\n".join(wrong)


ENDINGS: list[tuple[str, str, Any]] = [
    *(
        ("GET", path, None)
        for path in (
            "/_ping",
            "/version",
            "/info",
            "/system/df",
            "/events?since=1&until=2",
            "/containers/json?all=1",
            "/containers/plain/json",
            "/containers/plain/top",
            "/containers/plain/changes",
            "/containers/plain/stats?stream=0",
            "/containers/plain/stats?stream=0&one-shot=1",
            "/containers/exited/stats?stream=0",
            "/containers/nosuch/json",
            "/images/json",
            f"/images/{BUSYBOX}/json",
            f"/images/{BUSYBOX}/history",
            "/volumes",
            "/volumes/parity",
            "/networks",
            "/networks/bridge",
            "/nosuch",
        )
    ),
    ("POST", "/containers/exited/wait", None),
    ("POST", "/containers/created/update", {"CpuShares": 512}),
    ("POST", "/containers/created/exec", {"Cmd": ["true"]}),
    ("POST", "/containers/plain/exec", {"Cmd": ["true"]}),
    ("POST", "/containers/plain/start", None),
    ("POST", "/volumes/create", {"Name": "parity"}),
    ("POST", "/volumes/prune?filters=%7B%22label%22%3A%5B%22none%22%5D%7D", None),
    ("POST", "/networks/create", {"Name": "bridge"}),
    ("POST", "/images/load", archive()),
    ("POST", "/images/load", b"no archive"),
    ("POST", "/images/create?fromSrc=-&repo=parity", b""),
    ("POST", f"/images/{BUSYBOX}/tag?repo=parity&tag=one", None),
    ("DELETE", "/images/parity:one", None),
]


def test_bodies_end_as_dockers(sides: tuple[Side, Side]) -> None:
    """Some clients read the lines of an answer, and fail at an empty one."""
    wrong = []
    for method, path, body in ENDINGS:
        answers = []
        for side in sides:
            status, data = side.raw(method, API + path, body)
            answers.append((status, data[len(data.rstrip()) :], data[:1]))
        if answers[0] != answers[1]:
            wrong.append(f"{method} {path}: dockerd {answers[0]}, orlopd {answers[1]}")
    assert not wrong, "\n".join(wrong)


def session(side: Side) -> list[str]:
    """A container's life; the events it makes."""
    began = time.time()
    config = {"Labels": {"k": "v"}}
    side.create("ev", SLEEP, config, {}, True)
    _, made = side.api("POST", "/containers/ev/exec", {"Cmd": ["sh", "-c", "exit 3"]})
    side.api("POST", f"/exec/{made['Id']}/start", {"Detach": True})
    until(lambda: not side.api("GET", f"/exec/{made['Id']}/json")[1]["Running"], f"the exec's end on {side.name}")
    for verb in ("pause", "unpause", "rename?name=ew", "rename?name=ev"):
        name = "ew" if verb.endswith("ev") else "ev"
        assert side.api("POST", f"/containers/{name}/{verb}")[0] == 204
    side.api("POST", "/containers/ev/kill?signal=URG")
    side.api("POST", "/containers/ev/update", {"Memory": 64 << 20, "MemorySwap": 64 << 20})
    side.api("GET", "/containers/ev/top")
    side.api("POST", "/containers/ev/resize?h=10&w=20")
    side.raw("GET", f"{API}/containers/ev/export")
    side.raw("GET", f"{API}/containers/ev/archive?path=/bin/sh")
    side.api("POST", "/commit?container=ev&repo=evimg&tag=1&comment=said")
    side.api("POST", "/networks/parity-net/connect", {"Container": "ev"})
    side.api("POST", "/networks/parity-net/disconnect", {"Container": "ev"})
    side.api("POST", "/containers/ev/restart?t=0")
    side.api("POST", "/containers/ev/kill")
    side.api("DELETE", "/containers/ev")
    side.create("ev", ["true"], config, {"Binds": ["evvol:/v"], "AutoRemove": True}, False)
    wait = threading.Thread(target=side.api, args=("POST", "/containers/ev/wait?condition=removed"))
    wait.start()
    side.api("POST", "/containers/ev/start")
    wait.join()
    side.api("DELETE", "/volumes/evvol")
    side.api("DELETE", "/images/evimg:1")
    side.api("POST", "/containers/prune?filters=%7B%22label%22%3A%5B%22nosuch%22%5D%7D")
    _, data = side.raw("GET", f"{API}/events?since={began:.9f}&until={time.time():.9f}")
    return [_event(side, json.loads(line)) for line in data.splitlines()]


def _event(side: Side, event: dict[str, Any]) -> str:
    attributes = {key: side.text(value) for key, value in sorted(event["Actor"]["Attributes"].items())}
    for key in ("execDuration", "reclaimed"):
        if key in attributes:
            attributes[key] = "N"
    if event["Action"] == "delete":
        attributes.pop("k", None)  # of an image: dockerd does not know its labels any more
    more = {key: side.text(event[key]) for key in ("status", "id", "from", "scope") if key in event}
    return f"{event['Type']} {event['Action']} {side.text(event['Actor']['ID'])} {json.dumps(attributes)} {json.dumps(more)}"


def test_events(sides: tuple[Side, Side]) -> None:
    """Their order too, but for what Docker tells from two goroutines: `die` comes before or after `stop`."""
    theirs, ours = both(sides, session)
    racing = re.compile(r"container (die|stop) ")
    assert sorted(filter(racing.match, ours)) == sorted(filter(racing.match, theirs))
    # dockerd tells some disconnects twice
    theirs, ours = ([line for line, _ in itertools.groupby(each) if not racing.match(line)] for each in (theirs, ours))
    assert ours == theirs
