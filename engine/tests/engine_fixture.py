"""A fixture for one container: the real `Containers` on a fake engine, whose monitors, network and disk each test controls.

No processes are started: `launch.launch` is replaced, except in the tests of `launch` itself.
"""

import os
from contextlib import asynccontextmanager
from types import SimpleNamespace

import trio
from trio.testing import MockClock

import orlop_kernel.config as kernel
from orlop_engine import commands
from orlop_engine.containers import bundle, launch
from orlop_engine.containers.background import Background
from orlop_engine.containers.container import Container, Run
from orlop_engine.containers.events import ContainerEvents
from orlop_engine.containers.index import ContainerIndex
from orlop_engine.containers.paths import ContainerPaths
from orlop_engine.containers.ports import CurrentConfig, Ports
from orlop_engine.containers.record import ContainerRecord
from orlop_engine.containers.rows import Rows
from orlop_engine.containers.service import Containers
from orlop_engine.counters import Counters
from orlop_engine.execs import Execs
from orlop_engine.networks.records import Sandbox
from orlop_engine.processes.monitor_client import MonitorClient
from orlop_engine.types.containers import ContainerConfig, HostConfig
from orlop_kernel.events import EventBus
from orlop_monitor.protocol import Exited, Launch, Started, Status
from orlop_sdk import Command, DriverError, Outcome, Unavailable

__all__ = [
    "ID",
    "SANDBOX",
    "TRUE",
    "FakeMonitor",
    "FakeRuntime",
    "RealLaunch",
    "asynced",
    "engine_fixture",
    "no_threads",
    "run_fast",
    "surviving_monitor",
]

ID = "c" * 64
SANDBOX = Sandbox(container_id=ID, container_name="web", network_mode="bridge", hostname="web", endpoints=())
TRUE = Command(("true",), (("PATH", "/bin:/usr/bin"),))


class FakeStore:
    """A store that keeps rows in memory. If `full` is set, commits fail. If `slow` is set, commits wait for this event."""

    def __init__(self):
        self.rows, self.full, self.slow, self.lost, self.quarantine_rows = {}, False, None, False, []

    def lost_rows(self):
        return self.lost

    def quarantined(self):
        return self.quarantine_rows

    def load(self, table):
        return iter(())

    async def commit(self, operations):
        if self.slow is not None:
            await self.slow.wait()
        await trio.lowlevel.checkpoint()
        if self.full:
            raise Unavailable("cannot write the state database: no space left on device")
        for operation in operations:
            if hasattr(operation, "value"):
                self.rows[operation.key] = operation.value
            else:
                self.rows.pop(operation.key, None)


class FakeMonitor:
    """On SIGKILL, reports the exit of its container to `run`. If `deaf` is set, the monitor ignores signals, and ends only
    when its method `kill` is called."""

    pid, netns_path = 4242, ""
    silent = is_over = is_stopped = False

    def __init__(self, run, deaf=False):
        self.run, self.deaf, self.gone, self.attached = run, deaf, trio.Event(), []
        self.refuse_attach = self.start_error = None

    def exit(self, code=0):
        self.run.exited.set(Exited(code, 10**9))
        self.gone.set()

    async def signal(self, signum):
        if self.deaf:
            await trio.sleep(10)
            raise DriverError("its monitor gave no answer")
        if signum == 9:
            self.exit(137)

    def kill(self):
        self.gone.set()

    async def ended(self):
        await self.gone.wait()

    async def attach(self, request):
        await trio.lowlevel.checkpoint()
        if self.refuse_attach:
            raise self.refuse_attach
        ours, theirs = trio.testing.memory_stream_pair()
        self.attached.append(theirs)
        return ours

    async def start(self, message):
        if self.start_error:
            raise self.start_error
        return Started(77, 1, 10**9)


class FakeNetworks:
    def __init__(self):
        self.plan_made, self.released, self.abandoned, self.release_error = None, [], [], None

    @staticmethod
    def sandbox_kind(mode):
        return "new"

    @staticmethod
    def pin(mode, endpoints):
        return mode, dict(endpoints)

    @staticmethod
    def known(name):
        return SimpleNamespace(name=name)

    async def plan(self, *wanted):
        return self.plan_made

    async def attach(self, plan, netns):
        return SANDBOX

    async def abandon(self, plan):
        self.abandoned.append(plan)

    async def release(self, sandbox):
        self.released.append(sandbox)
        if self.release_error:
            raise self.release_error

    def networks_of(self, sandbox):
        return []

    def renamed(self, sandbox, name):
        return sandbox

    async def restore(self, sandboxes):
        self.restored = [sandbox.container_id for sandbox in sandboxes]

    async def wait_restored(self):
        pass


class FakeStorage:
    removed = ()

    async def remove(self, key):
        if not key.startswith("init-"):  # only an adopted container has its own init layer
            self.removed = (*self.removed, key)

    async def keys(self):
        return [ID, "d" * 64]

    async def mounts(self, key, **options):
        return ()


def asynced(answer):
    """An async function that ignores its arguments and returns `answer`. It replaces the lookup of a driver."""

    async def look_up(*_):
        return answer

    return look_up


class FakeRuntime:
    capabilities = SimpleNamespace(detach_mounts=())

    def delete(self, task):
        return TRUE

    pause = resume = run = delete

    def exec(self, task, execution):
        return TRUE

    def monitor_mounts(self):
        return ()

    def explain(self, outcome, log, verb="create"):
        return "it failed"


_SERVICES = "store images volumes networks storage drivers execs zygote counters serving".split()


class NoVolumes:
    """The service of volumes, when no driver mounts volumes. `methods` are further methods."""

    def __init__(self, **methods):
        vars(self).update(methods)

    def users_for(self, container_id):
        return []

    async def unmount_orphans(self, known):
        pass


class FakeEngine:
    zygote = None

    def __init__(self, tmp, nursery):
        self.config = SimpleNamespace(
            data_root=str(tmp / "data"),
            exec_root=str(tmp / "run"),
            effective_runtime="runc",
            log_driver="json-file",
            default_stop_timeout=10,
            shutdown_timeout=15,
            live_restore=True,
            effective_cgroup_parent="/orlop-test",
            cgroup_driver="cgroupfs",
            no_new_privileges=False,
            init=False,
            init_path="",
            daemon=kernel.Config(),
        )
        self.nursery, self.store, self.events = nursery, FakeStore(), EventBus()
        self.networks, self.storage = FakeNetworks(), FakeStorage()
        self.serving = trio.Event()
        self.serving.set()
        self.counters = Counters()
        self.images = SimpleNamespace(get=lambda image: object())
        self.runtime_error = None
        self.drivers = SimpleNamespace(runtime=self._runtime, log=asynced(None), volume=asynced(None), network=asynced(None))
        self.drivers.meant = lambda kind, name, made_with: name
        self.volumes = NoVolumes()
        index, paths, events = ContainerIndex(), ContainerPaths(self.config.data_root, self.config.exec_root), self.events
        paths.make_roots()
        current, events = CurrentConfig(self.config), ContainerEvents(events)
        self.execs = Execs(
            containers=index,
            paths=paths,
            events=events,
            networks=self.networks,
            drivers=self.drivers,
            current=current,
        )
        self.ports = Ports(
            index=index,
            paths=paths,
            rows=Rows(self.store, index),
            events=events,
            background=Background(nursery),
            current=current,
            storage_name="fake",
            **{name: getattr(self, name) for name in _SERVICES},
        )
        self.containers = Containers(self.ports)
        self.index = self.ports.index
        self.told = self.events.subscribe()

    def __setattr__(self, name, value):
        """Allow tests to replace services."""
        super().__setattr__(name, value)
        if name in _SERVICES and hasattr(self, "ports"):
            object.__setattr__(self.ports, name, value)

    async def _runtime(self, name, made_with=""):
        if self.runtime_error:
            raise self.runtime_error
        return FakeRuntime()

    def actions(self):
        return [event.action for event in self.told._waiting if event.type == "container"]


class EngineFixture:
    """One container, and the parts of the engine that are needed to run it."""

    def __init__(self, engine):
        self.engine, self.containers, self.ports = engine, engine.containers, engine.ports
        self.index, self.paths = self.ports.index, self.ports.paths
        self.container = self.add("web")
        self.launched, self.launching, self.launch_error = [], None, None

    def add(self, name, key=ID, **host):
        record = ContainerRecord(
            id=key,
            name=name,
            created_ns=1,
            args=["true"],
            config=ContainerConfig(open_stdin=True),
            host_config=HostConfig(**{"network_mode": "bridge", "runtime": "runc", **host}),
            image_id="i",
            storage_driver="fake",
        )
        container = Container(record)
        self.index.add(container)
        self.engine.store.rows[key] = b"created"
        return container

    async def launch(self, ports, container, image=None):
        """Replaces the real `launch`. If `launching` is set, the function waits for this event."""
        container.run = run = Run(ports.paths.run_dir(container.id))
        if self.launching is not None:
            await self.launching.wait()
        if self.launch_error is not None:
            container.run = None
            run.settled.set()
            run.finished.set()
            raise self.launch_error
        run.monitor = FakeMonitor(run)
        with container.publish() as draft:
            draft.state, draft.started_before = draft.state.after_start(77, 1, 1), True
        self.launched.append(run)
        return run

    @property
    def run(self):
        return self.launched[-1]


@asynccontextmanager
async def engine_fixture(tmp_path, monkeypatch, **host):
    async with trio.open_nursery() as nursery:
        made = EngineFixture(FakeEngine(tmp_path, nursery))
        for key, value in host.items():
            setattr(made.container.record.host_config, key, value)
        if monkeypatch is not None:
            monkeypatch.setattr(launch, "launch", made.launch)
        yield made
        nursery.cancel_scope.cancel()


def run_fast(main):
    trio.run(main, clock=MockClock(autojump_threshold=0))


def no_threads(monkeypatch):
    """Run the work of threads and programs in the calling task, because MockClock would jump ahead while they run."""

    async def at_once(function, *args):
        await trio.lowlevel.checkpoint()
        return function(*args)

    async def succeed(command, **options):
        await trio.lowlevel.checkpoint()
        return Outcome(0, b"", b"")

    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    monkeypatch.setattr(commands, "run_supervised", succeed)


def surviving_monitor(h, monkeypatch, cgroup="/nowhere", execs=None):
    """A monitor that the previous daemon left running."""
    run_dir = h.paths.run_dir(ID)
    os.makedirs(run_dir)
    with open(run_dir + "/init.json", "w") as file:
        file.write(f'{{"pid": 99, "start_time": 1, "time_ns": 5, "cgroups": ["{cgroup}"]}}')
    monitor = FakeMonitor(Run(run_dir))

    async def subscribe():
        return Status("running", monitor.pid, 99, execs=execs or {})

    async def adopt(*of):
        return monitor

    monitor.subscribe = subscribe
    no_threads(monkeypatch)
    monkeypatch.setattr(MonitorClient, "adopt", adopt)
    return monitor


class RealLaunch:
    """Replacements for tests of the real `launch`: a monitor that the test controls, and no bundle."""

    def __init__(self, h, monkeypatch):
        self.monitors, self.h, self.clean = [], h, []
        self.attach_error = self.start_error = self.bundle_error = self.hang = None
        monkeypatch.setattr(MonitorClient, "launch", self.launch)
        monkeypatch.setattr(bundle, "write", self.write)
        monkeypatch.setattr(launch, "_wanted", self.wanted)
        monkeypatch.setattr(FakeRuntime, "delete", lambda runtime, task: self.clean.append(task.id) or TRUE)

    def wanted(self, ports, container, *of):
        paths = ports.paths
        return Launch(container.id, paths.run_dir(container.id), paths.root(container.id), ())

    async def launch(self, *of, **more):
        monitor = FakeMonitor(self.h.container.run)
        monitor.refuse_attach, monitor.start_error = self.attach_error, self.start_error
        if self.hang:
            monitor.start = self.hang
        self.monitors.append(monitor)
        return monitor, None

    async def write(self, *of):
        if self.bundle_error:
            raise self.bundle_error
