"""Drivers that hang, raise errors or return wrong values, in a live daemon. Operations of these drivers end with an error,
and nothing else is affected.

One daemon uses all drivers of `CASES` at the same time, each with real containers. Meanwhile a client measures how long the
daemon takes to answer. Each test then looks at one driver's results.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from tests.integration import hostile_drivers
from tests.integration.engine import Engine, patience, until
from tests.integration.environments import PluginEngine, environment

from orlop_sdk.testing.ports import free_port

pytestmark = pytest.mark.root

DEADLINE = patience(1)
LATENCY = 50  # ms that the event loop may be blocked
NO_ANSWER = 599
HANGS = r"gave no answer in [\d.]+ s|was not loaded in [\d.]+ s"

OPTIONS = {"write-blocks-ring": {"mode": "non-blocking", "max-buffer-size": "20"}}

LOSSES = {
    "write-hangs": 'DriverError: log driver "write-hangs" did not write in 5 s',
    "write-catches": 'DriverError: log driver "write-catches" did not write in 5 s',
    "write-raises": "ValueError: out of order",
    "write-exits": "SystemExit: 3",
    "write-drops": "the driver dropped them",
    "write-blocks-ring": "the buffer of mode=non-blocking was full",
}
"""The reasons that the daemon shows for lost log entries."""

# Modules whose import is the fault.
MODULES = {
    "import-exits": "raise SystemExit(3)",
    "import-interrupts": "raise KeyboardInterrupt",
    "import-hangs": "import time; time.sleep(100)",
    "import-fails": "import no_such_module_of_anybody",
    "import-trio": "import trio\nfrom hostile_drivers import Plugin, hostile\n"
    "plugin = Plugin('import-trio', hostile('log'))",
    "import-other": "from hostile_drivers import Plugin, hostile\nplugin = Plugin('another-name', hostile('log'))",
}


@dataclass(frozen=True)
class Case:
    """The operations in `steps` are made in order. The last operation must fail, with a message that matches `error`. If
    `error` is "", all operations must succeed."""

    kind: str
    name: str
    steps: str
    error: str = ""


CASES = [
    Case("log", "import-exits", "create", 'cannot load log driver "import-exits": SystemExit: 3'),
    Case("log", "import-interrupts", "create", 'cannot load log driver "import-interrupts": KeyboardInterrupt'),
    Case("log", "import-hangs", "create", HANGS),
    Case("log", "import-fails", "create", "No module named 'no_such_module_of_anybody'"),
    Case("log", "import-other", "create", "its plugin registers another-name"),
    Case("log", "import-trio", "create start", 'log driver "import-trio": its module imports trio'),
    Case("log", "factory-hangs", "create", HANGS),
    Case("log", "factory-exits", "create", "SystemExit: 3"),
    Case("log", "factory-none", "create", "its factory returned None"),
    Case("log", "factory-nonsense", "create", "dict lacks `capabilities`"),
    Case("log", "lacks-method", "create", "open_writer is not a method"),
    Case("log", "wrong-signature", "create", "does not take the arguments of LogDriver.validate"),
    Case("log", "async-validate", "create", "validate is async"),
    Case("log", "validate-hangs", "create", HANGS),
    Case("log", "validate-spins", "create", HANGS),
    Case("log", "validate-locked", "create", HANGS),
    Case("log", "validate-exits", "create", "cannot validate: .*SystemExit"),
    Case("log", "property-hangs", "create", HANGS),
    Case("log", "property-wrong", "create", "capabilities is of type Options"),
    Case("log", "path-hangs", "create start inspect stop"),
    Case("log", "path-number", "create start inspect stop"),
    Case("log", "open-hangs", "create start", 'log driver "open-hangs" did not open the log in 5 s'),
    Case("log", "open-exits", "create start", "failed to initialize logging driver: SystemExit: 3"),
    Case("log", "open-none", "create start", 'log driver "open-none" returned NoneType, which lacks `write` of LogWriter'),
    Case("log", "write-hangs", "create start lost stop"),
    Case("log", "write-catches", "create start lost stop"),
    Case("log", "write-raises", "create start lost stop start stop lost"),
    Case("log", "write-exits", "create start lost kill"),
    Case("log", "write-drops", "create start lost"),
    Case("log", "write-blocks-ring", "create start lost"),
    Case("log", "full-raises", "create start inspect stop"),
    Case("log", "read-interrupts", "create start logs", "KeyboardInterrupt"),
    Case("log", "read-hangs", "create start logs", HANGS),
    Case("log", "fileno-hangs", "create start follow", HANGS),
    Case("log", "close-hangs", "create start logs stop"),
    Case("volume", "factory-raises", "create", "out of order"),
    Case("volume", "create-thread", "create", HANGS),
    Case("volume", "create-shielded", "create", HANGS),
    Case("volume", "create-stubborn", "create", HANGS),
    Case("volume", "create-blocks", "create", HANGS),
    Case("volume", "create-spins", "create", HANGS),
    Case("volume", "create-none", "create", "returned NoneType, not Volume"),
    Case("volume", "create-exits", "create", "SystemExit"),
    Case("volume", "create-ends-loop", "create", "event loop"),
    Case("volume", "create-coroutine", "create", "returned coroutine, not Volume"),
    Case("volume", "mounts-hangs", "create", HANGS),
    Case("volume", "remove-hangs", "create start stop"),
    Case("network", "create-hangs", "network", HANGS),
    Case("network", "attach-thread", "network create start", HANGS),
    Case("network", "attach-shielded", "network create start", HANGS),
    Case("network", "attach-none", "network create start", "returned NoneType, not EndpointState"),
    Case("network", "attach-interrupts", "network create start", "KeyboardInterrupt"),
    Case("network", "detach-hangs", "network create start stop"),
    Case("network", "detach-thread", "network create start stop"),
    Case("runtime", "factory-runtime-none", "create", "its factory returned None"),
    Case("runtime", "run-hangs", "create start", HANGS),
    Case("runtime", "run-none", "create start", "returned NoneType, not Command"),
    Case("runtime", "run-exits", "create start", "SystemExit"),
    Case("runtime", "delete-hangs", "create start", HANGS),
    Case("runtime", "exec-hangs", "create start exec", HANGS),
    Case("runtime", "pause-raises", "create start pause", "out of order"),
    Case("runtime", "mounts-nonsense", "create start", "returned int"),
    Case("runtime", "features-hang", "create start stop"),
]


def install(site: Path) -> None:
    """Write the modules, and a distribution whose entry points name them."""
    shutil.copy(hostile_drivers.__file__, site / "hostile_drivers.py")
    points: dict[str, list[str]] = {}
    for kind, name in hostile_drivers.PLUGINS:
        points.setdefault(kind, []).append(f"{name} = hostile_drivers:{kind}_{name.replace('-', '_')}")
    for name, text in MODULES.items():
        module = f"hostile_{name.replace('-', '_')}"
        (site / f"{module}.py").write_text(f"{text}\n")
        points["log"].append(f"{name} = {module}:plugin")
    info = site / "hostile-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1.2\n")
    groups = ("\n".join((f"[orlop.{kind}]", *lines)) for kind, lines in points.items())
    (info / "entry_points.txt").write_text("\n".join(groups))


@dataclass
class Results:
    """`answers` contains, for each case, a list of (step, seconds, status, text). `slowest` is the time of the slowest
    request of the client that measures."""

    engine: Engine
    answers: dict[Case, list[tuple[str, float, int, str]]] = field(default_factory=dict)
    slowest: float = 0.0
    metrics: str = ""


class Meeting:
    """One driver's operations."""

    def __init__(self, engine: Engine, case: Case) -> None:
        self.engine, self.case = engine, case
        self.name = f"{case.kind}-{case.name}"

    def made(self) -> list[tuple[str, float, int, str]]:
        found = []
        for step in (*self.case.steps.split(), "rm"):
            began = time.monotonic()
            status, text = getattr(self, step)()
            found.append((step, time.monotonic() - began, status, text))
            if status >= 400 and step != "rm":
                found.append(("rm", 0.0, *self.rm()))
                break
        return found

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        try:
            status, raw, _ = self.engine.raw(method, path, body)
        except OSError as error:
            return NO_ANSWER, repr(error)
        text = raw.decode("utf-8", "replace")
        return status, str(json.loads(text)["message"]) if status >= 400 else text

    def network(self) -> tuple[int, str]:
        return self._ask("POST", "/networks/create", {"Name": self.name, "Driver": self.case.name})

    def create(self) -> tuple[int, str]:
        kind, name = self.case.kind, self.case.name
        host: dict[str, Any] = {"NetworkMode": "none"}
        if kind == "log":
            host["LogConfig"] = {"Type": name, "Config": OPTIONS.get(name, {})}
        elif kind == "volume":
            mount = {
                "Type": "volume",
                "Source": self.name,
                "Target": "/v",
                "VolumeOptions": {"DriverConfig": {"Name": name}},
            }
            host["Mounts"] = [mount]
        elif kind == "network":
            host["NetworkMode"] = self.name
        else:
            host["Runtime"] = name
        words = ["sh", "-c", "while :; do echo line; sleep 0.05; done"]
        body = {"Image": "busybox", "Cmd": words, "HostConfig": host, "StopTimeout": 0}
        return self._ask("POST", f"/containers/create?name={self.name}", body)

    def start(self) -> tuple[int, str]:
        return self._ask("POST", f"/containers/{self.name}/start")

    def stop(self) -> tuple[int, str]:
        return self._ask("POST", f"/containers/{self.name}/stop")

    def kill(self) -> tuple[int, str]:
        return self._ask("POST", f"/containers/{self.name}/kill")

    def lost(self) -> tuple[int, str]:
        """Wait until inspect shows that log entries are lost."""
        until(lambda: "LogLost" in self.inspect()[1], f"lost entries of {self.name}", patience(20))
        return 200, json.dumps(json.loads(self.inspect()[1])["LogLost"])

    def inspect(self) -> tuple[int, str]:
        return self._ask("GET", f"/containers/{self.name}/json")

    def pause(self) -> tuple[int, str]:
        return self._ask("POST", f"/containers/{self.name}/pause")

    def logs(self) -> tuple[int, str]:
        return self._in_band(self._ask("GET", f"/containers/{self.name}/logs?stdout=1"))

    def follow(self) -> tuple[int, str]:
        return self._in_band(self._ask("GET", f"/containers/{self.name}/logs?stdout=1&follow=1"))

    @staticmethod
    def _in_band(answer: tuple[int, str]) -> tuple[int, str]:
        """Errors after the head are part of the stream."""
        return (500, answer[1]) if "Error grabbing logs" in answer[1] else answer

    def exec(self) -> tuple[int, str]:
        status, text = self._ask("POST", f"/containers/{self.name}/exec", {"Cmd": ["true"]})
        assert status == 201, text
        found = re.search(r'"Id":"(\w+)"', text)
        assert found
        return self._ask("POST", f"/exec/{found[1]}/start", {"Detach": True})

    def rm(self) -> tuple[int, str]:
        status, text = self._ask("DELETE", f"/containers/{self.name}?force=1")
        if self.case.kind == "network":
            self._ask("DELETE", f"/networks/{self.name}")
        return status, text


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    venv = tmp_path_factory.mktemp("venv")
    install(environment(venv))
    runtimes = {case.name: {"path": "runc", "runtimeType": case.name} for case in CASES if case.kind == "runtime"}
    metrics = f"127.0.0.1:{free_port()}"
    engine = PluginEngine({"runtimes": runtimes, "shutdown-timeout": 3, "metrics-addr": metrics}, venv)
    try:
        engine.start(environment={"ORLOP_DRIVER_TIMEOUT": str(DEADLINE), "ORLOP_LOOP_WATCHDOG": str(patience(LATENCY))})
        engine.load()
        engine.ok("run", "-d", "--name", "well", "busybox", "sleep", "600")
        found = Results(engine, metrics=metrics)
        over = threading.Event()

        def probe() -> None:
            while not over.wait(0.02):
                asked = time.monotonic()
                assert engine.api("GET", "/_ping")[0] == 200
                found.slowest = max(found.slowest, time.monotonic() - asked)

        with ThreadPoolExecutor(len(CASES) + 1) as pool:
            probing = pool.submit(probe)
            meetings = {case: pool.submit(Meeting(engine, case).made) for case in CASES}
            found.answers = {case: meeting.result() for case, meeting in meetings.items()}
            over.set()
            probing.result()
        yield found
    finally:
        left = engine.close()
    assert not left, left


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.name}")
def test_operations_with_a_hostile_driver_return_in_time(results: Results, case: Case) -> None:
    answers = results.answers[case]
    *steps, removal = answers
    for step, seconds, status, text in steps:
        assert status != 404, (step, text)
        assert seconds < 4 * DEADLINE + patience(10), (step, seconds)
    step, _, status, text = steps[-1]
    assert (status >= 400) == bool(case.error), answers
    assert step == case.steps.split()[-1], answers
    assert re.search(case.error, text), text
    if case.error and case.name != "open-exits":
        assert case.name in text, text
    assert removal[2] in (204, 404), answers
    assert results.engine.api("GET", f"/containers/{case.kind}-{case.name}/json")[0] == 404


@pytest.mark.parametrize("name", LOSSES)
def test_lost_log_entries_are_reported(results: Results, name: str) -> None:
    """Inspect, events, the daemon's log and the metrics report the lost entries."""
    engine, (case,) = results.engine, [case for case in CASES if case.name == name]
    shown = [json.loads(text) for step, _, _, text in results.answers[case] if step == "lost"]
    assert {each["Reason"] for each in shown} == {LOSSES[name]}
    events = [event["Actor"]["Attributes"] for event in engine.all_events(container=f"log-{name}", event="log-lost")]
    assert {(event["driver"], event["reason"]) for event in events} == {(name, LOSSES[name])}
    assert sum(int(event["count"]) for event in events) >= shown[-1]["Count"] >= shown[0]["Count"] > 0
    assert f'container log-{name}: log driver "{name}" lost ' in engine.log()
    with urlopen(f"http://{results.metrics}/metrics", timeout=patience(10)) as answer:
        text = answer.read().decode()
    found = re.search(rf'^orlop_log_lost_entries_total\{{driver="{name}"\}} (\d+)$', text, re.MULTILINE)
    assert found and int(found[1]) >= shown[-1]["Count"]


def test_hostile_drivers_do_not_affect_other_containers_and_requests(results: Results) -> None:
    assert results.engine.state("well") == "running"
    assert results.engine.ok("exec", "well", "echo", "here") == "here"
    assert results.engine.docker("info").code == 0


def test_hostile_drivers_do_not_block_the_event_loop(results: Results) -> None:
    """The watchdog of the daemon measures each step of the loop, without the time that it waits for a processor."""
    assert results.engine.blocked() == []


def test_sigterm_ends_a_daemon_whose_drivers_hang(tmp_path: Path) -> None:
    """The calls of the drivers have just begun, and have the usual deadline of a minute."""
    hanging = [case for case in CASES if case.error == HANGS and case.steps == "create" and case.kind in ("log", "volume")]
    install(environment(tmp_path))
    engine = PluginEngine({"shutdown-timeout": 1}, tmp_path)
    try:
        engine.start()
        engine.load()
        with ThreadPoolExecutor(len(hanging)) as pool:
            for case in hanging:
                pool.submit(Meeting(engine, case).create)
            until(lambda: engine.log().count("hostile: ") >= len(hanging) - 1, "the calls")
            began = time.monotonic()
            assert engine.stop() == 0
            assert time.monotonic() - began < patience(15)
    finally:
        left = engine.close()
    assert not left, left


KINDS = ("log", "volume", "network", "runtime")
SOUND = "from hostile_drivers import Plugin, hostile\n" + "".join(
    f"{kind} = Plugin('mine', hostile({kind!r}))\n" for kind in KINDS
)


def test_containers_with_uninstalled_drivers_can_be_listed_stopped_and_removed(tmp_path: Path) -> None:
    """The containers keep running. `docker restart` does not stop a container that the daemon cannot start again."""
    site = environment(tmp_path)
    install(site)
    info = distribute(site, "mine", SOUND)
    engine = PluginEngine({"live-restore": True, "runtimes": {"mine": {"path": "runc", "runtimeType": "mine"}}}, tmp_path)
    try:
        engine.start()
        engine.load()
        engine.ok("network", "create", "-d", "mine", "mine")
        options = {
            "log": ("--log-driver", "mine"),
            "volume": ("--volume-driver", "mine", "-v", "mine:/v"),
            "network": ("--network", "mine"),
            "runtime": ("--runtime", "mine"),
            "well": (),
        }
        for name, words in options.items():
            engine.ok(
                "run", "-d", "--name", name, "--stop-timeout", "0", *words, "busybox", "sh", "-c", "echo said; sleep 600"
            )
        engine.stop()
        shutil.rmtree(info)
        engine.start()
        for name in options:
            assert engine.state(name) == "running", name
            listed = engine.docker("logs", name)
            assert (listed.out == "said\n") == (name != "log"), (name, listed)
            ran = engine.docker("exec", name, "echo", "here")
            assert (ran.out == "here\n") == (name != "runtime"), (name, ran)
        assert "mine" in engine.docker("logs", "log").err
        for name in KINDS:
            refused = engine.docker("restart", name)
            assert refused.code == 1 and f"cannot restart container {name}, which keeps running" in refused.err, refused
            assert engine.state(name) == "running", name
            made = engine.api("POST", "/containers/create", _request(name))
            assert made[0] in (201, 400), made  # never 404, after which clients pull the image
            if made[0] == 400:
                assert "mine" in made[1]["message"]
            else:
                assert name == "network"
        engine.ok("restart", "well")
        for name in KINDS[:2]:
            engine.ok("stop", name)
        for name in options:
            engine.ok("rm", "-f", name)
        assert engine.ok("ps", "-aq", "--filter", "status=running") == ""
    finally:
        left = engine.close()
    assert not left, left


FAULTY = "from hostile_drivers import Plugin, fails, hostile\n" + "".join(
    f"{kind} = Plugin('mine', hostile({kind!r}, {method}=fails))\n"
    for kind, method in (("log", "open_writer"), ("volume", "mounts"), ("runtime", "run"))
)


def distribute(site: Path, name: str, text: str) -> Path:
    """Install a distribution with one module, which has a driver `mine` of each kind. Returns its metadata."""
    (site / f"{name}.py").write_text(text)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    kinds = [kind for kind in KINDS if f"{kind} = " in text]
    (info / "entry_points.txt").write_text("".join(f"[orlop.{kind}]\nmine = {name}:{kind}\n" for kind in kinds))
    return info


def test_containers_keep_using_drivers_of_the_python_distribution_they_were_created_with(tmp_path: Path) -> None:
    """A second distribution is installed later. It registers drivers with the same names, which work differently."""
    site = environment(tmp_path)
    install(site)
    first = distribute(site, "first", SOUND)
    kinds = ("log", "volume", "runtime")

    def configured(**more: str) -> dict[str, Any]:
        return {"live-restore": True, "runtimes": {"mine": {"path": "runc", "runtimeType": more.get("runtime", "mine")}}}

    engine = PluginEngine(configured(), tmp_path)
    try:
        engine.start()
        engine.load()
        options = {
            "log": ("--log-driver", "mine"),
            "volume": ("--volume-driver", "mine", "-v", "mine:/v"),
            "runtime": ("--runtime", "mine"),
        }
        words = ("busybox", "sh", "-c", "echo said; sleep 600")
        for kind in kinds:
            engine.ok("run", "-d", "--name", kind, "--stop-timeout", "0", *options[kind], *words)
        engine.ok("exec", "volume", "sh", "-c", "echo kept >/v/file")
        engine.stop()
        distribute(site, "second", FAULTY)
        engine.configure(configured(runtime="second:mine"))
        engine.start()
        assert engine.ok("logs", "log") == "said"
        for kind in kinds:
            engine.ok("restart", kind)
        until(lambda: engine.ok("logs", "log") == "said\nsaid", "the log of both runs")
        assert engine.ok("exec", "volume", "cat", "/v/file") == "kept"
        engine.ok("exec", "runtime", "true")
        new = {"log": ("--log-driver", "second:mine"), "runtime": ("--runtime", "mine")}
        for kind, selected in new.items():
            refused = engine.docker("run", "--name", f"new-{kind}", *selected, "busybox", "true")
            assert "out of order" in refused.err, refused
        engine.stop()
        shutil.rmtree(first)
        engine.start()
        for kind in kinds:
            refused = engine.docker("restart", kind)
            assert "of the distribution first, which is not installed" in refused.err
            assert engine.state(kind) == "running", kind
            engine.ok("rm", "-f", kind)
    finally:
        left = engine.close()
    assert not left, left


def _request(kind: str) -> dict[str, Any]:
    host = {
        "log": {"LogConfig": {"Type": "mine"}},
        "volume": {"Mounts": [{"Type": "volume", "Target": "/v", "VolumeOptions": {"DriverConfig": {"Name": "mine"}}}]},
        "network": {"NetworkMode": "mine"},
        "runtime": {"Runtime": "mine"},
    }
    return {"Image": "busybox", "Cmd": ["true"], "HostConfig": host[kind]}
