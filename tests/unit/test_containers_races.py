"""Containers under races and failures: the real room on a fake engine, whose monitors, network and disk do what a test says.

What is launched here is no process: `lifecycle.launch` is replaced, but in the tests of `launch` itself.
"""

import errno
import os
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from orlop_kernel import process
from orlop_kernel.engine.containers import attach, bundle, launch, lifecycle, restore
from orlop_kernel.engine.containers.container import Container, Run
from orlop_kernel.engine.containers.record import ContainerRecord
from orlop_kernel.engine.containers.service import Containers
from orlop_kernel.engine.drivers import Deadlines
from orlop_kernel.engine.execs import Execs
from orlop_kernel.engine.futures import uncut
from orlop_kernel.engine.networks.records import Sandbox
from orlop_kernel.engine.processes.monitor_client import Monitor
from orlop_kernel.events import EventBus
from orlop_kernel.monitor.protocol import Attach, ExecExited, Exited, Started
from orlop_kernel.spi import Command, Conflict, DriverError, InvalidParameter, NotFound, Unavailable
from orlop_kernel.types.containers import ContainerConfig, ExecConfig, HostConfig, RestartPolicy

ID = "c" * 64
SANDBOX = Sandbox(container_id=ID, container_name="web", network_mode="bridge", hostname="web", endpoints=())
TRUE = Command(("true",), (("PATH", "/bin:/usr/bin"),))


class FakeStore:
    """Rows in memory. `full`: commits fail. `slow`: they wait for this event first."""

    def __init__(self):
        self.rows, self.full, self.slow = {}, False, None

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
    """Ends its container at SIGKILL, as `run` hears; `deaf`: answers nothing and dies of `kill` alone."""

    pid, netns_path = 4242, ""

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

    def of_sandbox(self, sandbox):
        return []

    def renamed(self, sandbox, name):
        return sandbox

    async def restore(self, sandboxes):
        pass


class FakeStorage:
    removed = ()

    async def remove(self, key):
        self.removed = (*self.removed, key)

    async def keys(self):
        return [ID, "d" * 64]

    async def mounts(self, key, **options):
        return ()


class FakeRuntime:
    capabilities = SimpleNamespace(detach_mounts=())

    def delete(self, task):
        return TRUE

    pause = resume = run = delete

    def exec(self, task, execution):
        return TRUE

    def monitor_mounts(self):
        return ()

    def explain(self, outcome, log):
        return "it failed"


class FakeEngine:
    zygote = None

    def __init__(self, tmp, nursery):
        self.config = SimpleNamespace(
            data_root=str(tmp / "data"),
            exec_root=str(tmp / "run"),
            default_stop_timeout=10,
            live_restore=True,
            effective_cgroup_parent="/orlop-test",
            cgroup_driver="cgroupfs",
            no_new_privileges=False,
            init=False,
            init_path="",
        )
        self.nursery, self.store, self.events = nursery, FakeStore(), EventBus()
        self.networks, self.storage = FakeNetworks(), FakeStorage()
        self.images = SimpleNamespace(get=lambda image: object())
        self.runtime_error = None
        self.drivers = SimpleNamespace(runtime=self._runtime)
        self.containers = Containers(self)
        self.execs = Execs(self)
        self.told = self.events.subscribe()

    def _runtime(self, name):
        if self.runtime_error:
            raise self.runtime_error
        return FakeRuntime()

    def actions(self):
        return [event.action for event in self.told._waiting if event.type == "container"]


class House:
    """A room with one container, and what is needed to run it."""

    def __init__(self, engine):
        self.engine, self.room = engine, engine.containers
        self.container = self.add("web")
        self.launched, self.launching, self.launch_error = [], None, None

    def add(self, name, key=ID, **host):
        record = ContainerRecord(
            id=key,
            name=name,
            created_ns=1,
            args=["true"],
            config=ContainerConfig(open_stdin=True),
            host_config=HostConfig(network_mode="bridge", runtime="runc", **host),
            image_id="i",
            storage_driver="fake",
        )
        container = Container(record)
        self.room.add(container)
        self.engine.store.rows[key] = b"created"
        return container

    async def launch(self, room, container):
        """In place of the real one. `launching`: an event that it waits for."""
        container.run = run = Run(room.run_dir(container.id))
        if self.launching is not None:
            await self.launching.wait()
        if self.launch_error is not None:
            container.run = None
            run.settled.set()
            run.finished.set()
            raise self.launch_error
        run.monitor = FakeMonitor(run)
        container.record.state.running, container.record.state.restarting = True, False
        container.record.state.started_ns, container.record.started_before = 1, True
        self.launched.append(run)
        return run

    @property
    def run(self):
        return self.launched[-1]


@asynccontextmanager
async def house(tmp_path, monkeypatch, **host):
    async with trio.open_nursery() as nursery:
        made = House(FakeEngine(tmp_path, nursery))
        for key, value in host.items():
            setattr(made.container.record.host_config, key, value)
        if monkeypatch is not None:
            monkeypatch.setattr(lifecycle, "launch", made.launch)
        yield made
        nursery.cancel_scope.cancel()


def run_fast(main):
    trio.run(main, clock=MockClock(autojump_threshold=0))


# --- waiting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["next-exit", "removed"])
def test_a_removal_ends_every_wait(tmp_path, monkeypatch, condition):
    async def main():
        async with house(tmp_path, monkeypatch) as h:
            pending = h.room.waiting(h.container, condition)
            await h.room.remove(h.container, False, False)
            with trio.fail_after(1):
                assert await pending.get() == 0

    run_fast(main)


def test_a_removal_ends_an_attach_to_what_never_started(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            got = []

            async def client():
                got.append(await attach.join(h.container, Attach()))

            nursery.start_soon(client)
            await wait_all_tasks_blocked()
            await h.room.remove(h.container, False, False)
            with trio.fail_after(1):
                await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            assert got == [None]

    run_fast(main)


@pytest.mark.parametrize("by", ["stop", "kill"])
def test_a_stop_between_restarts_is_the_end_that_is_waited_for(tmp_path, monkeypatch, by):
    async def main():
        async with house(tmp_path, monkeypatch, restart_policy=RestartPolicy(name="always")) as h:
            await h.room.start(h.container)
            h.run.monitor.exit(3)
            with trio.fail_after(1):
                await h.run.finished.wait()
            assert h.container.record.state.restarting
            pending = h.room.waiting(h.container, "")
            await (h.room.stop(h.container, "", None) if by == "stop" else h.room.kill(h.container, ""))
            with trio.fail_after(1):
                assert await pending.get() == 3
            await trio.sleep(5)
            assert len(h.launched) == 1

    run_fast(main)


# --- removal against everything -------------------------------------------------------------------------------------


def test_a_restart_starts_nothing_that_was_removed_meanwhile(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            async with h.container.lock:
                failures = []

                async def restart():
                    try:
                        await h.room.restart(h.container, "", None)
                    except Conflict as error:
                        failures.append(str(error))

                nursery.start_soon(h.room.remove, h.container, False, False)
                await wait_all_tasks_blocked()
                nursery.start_soon(restart)
                await wait_all_tasks_blocked()
            await wait_all_tasks_blocked()
            assert not h.launched and failures == ["container is marked for removal and cannot be started"]

    run_fast(main)


def test_a_forced_removal_kills_what_a_restart_has_just_started(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            await h.room.start(h.container)
            h.launching = trio.Event()
            nursery.start_soon(h.room.restart, h.container, "KILL", None)
            await wait_all_tasks_blocked()  # it has stopped the first run, and is starting the second
            nursery.start_soon(h.room.remove, h.container, True, False)
            await wait_all_tasks_blocked()
            h.launching.set()
            with trio.fail_after(3):
                await h.container.removed.get()
            assert all(run.finished.is_set() for run in h.launched)
            assert ID not in h.engine.store.rows

    run_fast(main)


def test_a_forced_removal_of_what_is_being_started_is_quick(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            h.launching = trio.Event()
            nursery.start_soon(h.room.start, h.container)
            await wait_all_tasks_blocked()
            nursery.start_soon(h.room.remove, h.container, True, False)
            await trio.sleep(0.05)
            h.launching.set()
            with trio.fail_after(1):
                await h.container.removed.get()
            assert h.engine.actions()[-3:] == ["kill", "die", "destroy"]

    run_fast(main)


def test_a_kill_of_what_is_being_started_waits_for_it(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            h.launching = trio.Event()
            nursery.start_soon(h.room.start, h.container)
            await wait_all_tasks_blocked()
            nursery.start_soon(h.room.kill, h.container, "")
            await wait_all_tasks_blocked()
            h.launching.set()
            with trio.fail_after(1):
                await wait_all_tasks_blocked()
                await h.run.finished.wait()

    run_fast(main)


def test_a_second_removal_finds_nothing(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h:
            answers = []

            async def remove(force):
                try:
                    await h.room.remove(h.container, force, False)
                    answers.append("removed")
                except (NotFound, Conflict) as error:
                    answers.append(type(error).__name__)

            async with h.container.lock, trio.open_nursery() as nursery:
                nursery.start_soon(remove, False)
                nursery.start_soon(remove, False)
                await wait_all_tasks_blocked()
                nursery.start_soon(remove, True)
                await wait_all_tasks_blocked()
                h.container.lock.release()
                await wait_all_tasks_blocked()
                await h.container.lock.acquire()
            assert answers.count("removed") == 1 and len(answers) == 3
            assert h.engine.actions().count("destroy") == 1

    run_fast(main)


@pytest.mark.parametrize("force", [True, False])
def test_a_removal_that_failed_can_be_tried_again(tmp_path, monkeypatch, force):
    async def main():
        async with house(tmp_path, monkeypatch) as h:
            h.engine.store.full = True
            with pytest.raises(Unavailable):
                await h.room.remove(h.container, force, False)
            h.engine.store.full = False
            await h.room.remove(h.container, force, False)
            assert not h.engine.store.rows

    run_fast(main)


def test_nothing_saves_a_row_that_is_being_deleted(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            h.engine.store.slow = trio.Event()
            nursery.start_soon(h.room.remove, h.container, False, False)
            await wait_all_tasks_blocked()
            nursery.start_soon(h.room.save, h.container)
            await wait_all_tasks_blocked()
            h.engine.store.slow.set()
            await wait_all_tasks_blocked()
            assert not h.engine.store.rows

    run_fast(main)


def test_a_rename_of_what_was_removed_meanwhile_takes_no_name(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            failures = []

            async def rename():
                try:
                    await h.room.rename_to(h.container, "other")
                except NotFound as error:
                    failures.append(error)

            async with h.container.lock:
                nursery.start_soon(h.room.remove, h.container, False, False)
                await wait_all_tasks_blocked()
                nursery.start_soon(rename)
                await wait_all_tasks_blocked()
            await wait_all_tasks_blocked()
            assert failures and h.room.names == {}

    run_fast(main)


def test_one_container_that_cannot_be_measured_does_not_end_a_prune(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h:
            h.add("second", "d" * 64)

            async def usage(key):
                if key == ID:
                    raise DriverError("cannot measure it")
                return SimpleNamespace(size=5)

            h.engine.storage.usage = usage
            assert await h.room.prune({}) == (["d" * 64], 5)

    run_fast(main)


# --- starts that fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/run/x/config.json"),
        ExceptionGroup("nursery", [Unavailable("its monitor (pid 1) ended")]),
        KeyError("a bug"),
    ],
)
def test_whatever_a_start_fails_with_is_recorded_and_told(tmp_path, monkeypatch, error):
    async def main():
        async with house(tmp_path, monkeypatch) as h:
            pending = h.room.waiting(h.container, "next-exit")
            h.launch_error = error
            with pytest.raises((DriverError, Unavailable)):
                await h.room.start(h.container)
            with trio.fail_after(1):
                assert await pending.get() == 128
            assert h.container.record.state.error and not h.container.record.state.running

    run_fast(main)


def test_a_restart_by_policy_that_fails_leaves_a_stopped_container(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch, restart_policy=RestartPolicy(name="always")) as h:
            await h.room.start(h.container)
            h.launch_error = OSError(errno.ENOSPC, "No space left on device")
            h.run.monitor.exit(3)
            await trio.sleep(2)
            state = h.container.record.state
            assert (state.running, state.restarting) == (False, False) and "No space" in state.error

    run_fast(main)


def test_a_start_waits_until_the_last_exit_is_accounted_for(tmp_path, monkeypatch):
    """Or its `die` would come after the new `start`, and its code to who waits for the new exit."""

    async def main():
        async with house(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            await h.room.start(h.container)
            h.engine.store.slow = trio.Event()
            h.run.monitor.exit(3)
            await wait_all_tasks_blocked()
            nursery.start_soon(h.room.start, h.container)
            await wait_all_tasks_blocked()
            h.engine.store.slow.set()
            await wait_all_tasks_blocked()
            assert h.engine.actions() == ["start", "die", "start"]

    run_fast(main)


def test_a_monitor_that_hangs_at_its_end_is_killed_for_the_next_start(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h:
            await h.room.start(h.container)
            h.run.exited.set(Exited(0, 1))  # told, and the monitor goes on to live
            await h.run.finished.wait()
            with trio.fail_after(120):
                await h.room.start(h.container)
            assert len(h.launched) == 2

    trio.run(main, clock=MockClock(autojump_threshold=0.2))


class RealLaunch:
    """What the real `launch` needs besides: a monitor that does as told, and no bundle."""

    def __init__(self, h, monkeypatch):
        self.monitors, self.h, self.clean = [], h, []
        self.attach_error = self.start_error = self.bundle_error = None
        monkeypatch.setattr(Monitor, "launch", self.launch)
        monkeypatch.setattr(bundle, "write", self.write)
        monkeypatch.setattr(launch, "_launch_message", self.message)
        monkeypatch.setattr(FakeRuntime, "delete", lambda runtime, task: self.clean.append(task.id) or TRUE)

    async def message(self, *of):
        return None

    async def launch(self, *of):
        monitor = FakeMonitor(self.h.container.run)
        monitor.refuse_attach, monitor.start_error = self.attach_error, self.start_error
        self.monitors.append(monitor)
        return monitor, None

    async def write(self, *of):
        if self.bundle_error:
            raise self.bundle_error


def test_a_launch_that_fails_gives_everything_back(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, None) as h, trio.open_nursery() as nursery:
            real = RealLaunch(h, monkeypatch)
            h.engine.networks.plan_made = plan = SimpleNamespace(sockets=[], forwards=[])
            got = []

            async def client():
                got.append(await attach.join(h.container, Attach()))

            nursery.start_soon(client)
            nursery.start_soon(client)
            await wait_all_tasks_blocked()
            real.attach_error = Unavailable("its monitor ended")
            with pytest.raises(Unavailable):
                await h.room.start(h.container)
            await wait_all_tasks_blocked()
            assert got == [None, None]
            assert h.engine.networks.abandoned == [plan] and len(h.engine.networks.released) == 1
            assert h.container.run is None and not os.listdir(h.room.runs_root)
            assert real.monitors[0].gone.is_set() and real.clean == [ID]

    trio.run(main)


@pytest.mark.parametrize("release_error", [None, OSError(errno.EIO, "Input/output error")])
def test_a_monitor_that_ends_during_the_start_is_a_start_that_failed(tmp_path, monkeypatch, release_error):
    async def main():
        async with house(tmp_path, None) as h:
            real = RealLaunch(h, monkeypatch)
            h.engine.networks.plan_made = SimpleNamespace(sockets=[], forwards=[])
            h.engine.networks.release_error = release_error
            real.start_error = Unavailable("cannot start the container: its monitor (pid 1) ended")
            with pytest.raises(Unavailable, match="its monitor"):
                await h.room.start(h.container)
            assert h.container.record.state.error.startswith("cannot start the container")
            assert h.container.run is None and not os.listdir(h.room.runs_root)

    trio.run(main)


def test_an_attach_in_the_middle_of_a_start_gets_its_stream(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, None) as h, trio.open_nursery() as nursery:
            real, begun = RealLaunch(h, monkeypatch), trio.Event()

            async def slow_start(monitor, message):
                await begun.wait()
                return Started(77, 1, 10**9)

            monkeypatch.setattr(FakeMonitor, "start", slow_start)
            nursery.start_soon(h.room.start, h.container)
            await wait_all_tasks_blocked()
            with trio.fail_after(1):
                assert await attach.join(h.container, Attach()) is not None
            begun.set()
            await wait_all_tasks_blocked()
            real.monitors[0].exit()

    trio.run(main)


# --- exits ----------------------------------------------------------------------------------------------------------


def test_an_exit_is_accounted_for_whatever_else_fails(tmp_path, monkeypatch):
    """The monitor died, the runtime is not installed any more, the network driver is broken: it has ended all the same."""

    async def main():
        async with house(tmp_path, monkeypatch) as h:
            await h.room.start(h.container)
            h.container.record.sandbox = SANDBOX
            h.engine.networks.release_error = OSError(errno.EIO, "Input/output error")
            h.engine.runtime_error = InvalidParameter("unknown or invalid runtime name: gone")
            h.run.monitor.kill()
            with trio.fail_after(10):
                await h.run.finished.wait()
            assert not h.container.record.state.running

    run_fast(main)


# --- boot and shutdown ----------------------------------------------------------------------------------------------


def left_running(h, container):
    container.record.state.running, container.record.state.pid = True, 99
    os.makedirs(h.room.run_dir(container.id))
    with open(h.room.run_dir(container.id) + "/init.json", "w") as file:
        file.write('{"pid": 99, "start_time": 1, "time_ns": 5, "cgroups": []}')


@pytest.mark.parametrize("what", ["runtime", "disk", "bug"])
def test_one_sick_container_does_not_keep_the_daemon_from_starting(tmp_path, monkeypatch, what):
    async def main():
        async with house(tmp_path, monkeypatch) as h:
            left_running(h, h.container)
            if what == "runtime":
                h.engine.runtime_error = InvalidParameter("unknown or invalid runtime name: gone")
            elif what == "disk":
                h.engine.store.full = True
            else:
                monkeypatch.setattr(Monitor, "adopt", lambda *of: 1 / 0)
            await restore.restore(h.room)
            assert not h.container.record.state.running
            h.engine.store.full = False
            await trio.sleep(5)
            if what != "bug":
                assert b'"exit_code":255' in h.engine.store.rows[ID]

    run_fast(main)


def test_a_removal_that_a_crash_cut_short_is_finished_at_boot(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h:
            h.container.record.removing = h.container.record.started_before = True
            auto = h.add("auto", "d" * 64, auto_remove=True)
            auto.record.removing = auto.record.started_before = True
            await restore.restore(h.room)
            await trio.sleep(1)
            assert not h.room.index and not h.engine.store.rows

    run_fast(main)


def test_a_shutdown_stops_what_is_just_being_started_and_starts_nothing_more(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            h.launching = trio.Event()
            nursery.start_soon(h.room.start, h.container)
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as stopping:
                stopping.start_soon(restore_shutdown, h)
                await wait_all_tasks_blocked()
                h.launching.set()
            assert h.run.finished.is_set() and not h.container.record.state.running
            with pytest.raises(Unavailable, match="shutting down"):
                await h.room.start(h.container)

    async def restore_shutdown(h):
        await restore.shutdown(h.room, leave_running=False)

    run_fast(main)


def test_a_shutdown_that_leaves_containers_leaves_a_start_to_be_undone(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            h.launching = trio.Event()
            nursery.start_soon(h.room.start, h.container)
            await wait_all_tasks_blocked()
            await restore.shutdown(h.room, leave_running=True)
            nursery.cancel_scope.cancel()

    run_fast(main)


# --- execs ----------------------------------------------------------------------------------------------------------


def executing(h, monkeypatch):
    monkeypatch.setattr(Execs, "_identity", lambda *of: None)
    monkeypatch.setattr(Execs, "_process", lambda *of: b"{}")
    os.makedirs(h.room.run_dir(ID), exist_ok=True)
    return h.engine.execs


def test_an_exec_that_is_over_before_its_start_is_told(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h:
            await h.room.start(h.container)
            execs = executing(h, monkeypatch)

            async def exec_(message):
                execs.exited(ExecExited(message.exec_id, 5, 1))  # by the other connection
                return Started(78, 1, 1), None

            h.run.monitor.exec = exec_
            made = execs.create(h.container, ExecConfig(cmd=["true"]))
            await execs.start(made, detach=True, console_size=None)
            assert [action.partition(":")[0] for action in h.engine.actions()][-3:] == [
                "exec_create",
                "exec_start",
                "exec_die",
            ]
            found = execs.inspect(made)
            assert (found["Running"], found["ExitCode"], found["Pid"]) == (False, 5, 0)

    run_fast(main)


def test_an_exec_that_cannot_be_written_has_ended(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h:
            await h.room.start(h.container)
            execs = executing(h, monkeypatch)
            made = execs.create(h.container, ExecConfig(cmd=["true"]))
            os.rmdir(h.room.run_dir(ID))
            with pytest.raises(DriverError, match="cannot run the exec"):
                await execs.start(made, detach=True, console_size=None)
            assert not execs.inspect(made)["Running"] and not h.container.execs

    run_fast(main)


def test_ended_execs_are_forgotten_in_time_and_keep_no_task(tmp_path, monkeypatch):
    async def main():
        async with house(tmp_path, monkeypatch) as h:
            await h.room.start(h.container)
            execs = executing(h, monkeypatch)

            async def exec_(message):
                return Started(78, 1, 1), None

            h.run.monitor.exec = exec_
            tasks = len(h.engine.nursery.child_tasks)
            for _ in range(20):
                made = execs.create(h.container, ExecConfig(cmd=["true"]))
                await execs.start(made, detach=True, console_size=None)
                execs.exited(ExecExited(made, 0, 1))
            assert execs.inspect(made)["ExitCode"] == 0
            assert len(h.engine.nursery.child_tasks) == tasks
            await trio.sleep(601)
            execs.create(h.container, ExecConfig(cmd=["true"]))
            assert len(execs.index) == 1

    run_fast(main)


# --- the seams ------------------------------------------------------------------------------------------------------


def test_what_a_driver_raises_is_its_operations_failure():
    class Driver:
        async def mounts(self, key):
            raise OSError(errno.ENOSPC, "No space left on device", "/data/l/X")

        async def remove(self, key):
            raise ExceptionGroup("teardown", [NotFound("no such snapshot")])

        async def usage(self, key):
            raise KeyError(key)

    async def main():
        driver = Deadlines(Driver(), 'storage driver "x"')
        with pytest.raises(
            DriverError, match='cannot mounts: storage driver "x" failed: /data/l/X: No space left on device'
        ):
            await driver.mounts("k")
        with pytest.raises(NotFound):
            await driver.remove("k")
        with pytest.raises(DriverError, match="KeyError"):
            await driver.usage("k")

    trio.run(main)


def test_a_program_that_does_not_die_keeps_nobody(monkeypatch):
    """One in uninterruptible sleep takes no SIGKILL: stood in for by a `kill` that does nothing."""
    started = []
    kill = process.subprocess.Popen.kill
    monkeypatch.setattr(process.subprocess.Popen, "kill", lambda self: started.append(self))

    async def main():
        with trio.fail_after(8):
            outcome = await process.run_supervised(Command(("sleep", "20"), TRUE.env, timeout=0.05))
        assert outcome.timed_out

    try:
        trio.run(main)
    finally:
        kill(started[0])


def test_an_operation_that_is_cut_short_by_the_end_of_the_daemon_tells_its_asker():
    """Also one that comes to its end with a group of errors, its cancellation among them."""

    async def operation():
        async with trio.open_nursery() as inner:
            inner.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("while it was ending")

    async def main():
        told = []

        async def asker(nursery):
            try:
                await uncut(nursery, operation)
            except RuntimeError as error:
                told.append(str(error))

        with trio.fail_after(1):
            async with trio.open_nursery() as asking:
                with suppress(BaseExceptionGroup):
                    async with trio.open_nursery() as nursery:
                        asking.start_soon(asker, nursery)
                        await wait_all_tasks_blocked()
                        nursery.cancel_scope.cancel()
        assert told == ["the daemon is shutting down"]

    trio.run(main, clock=MockClock(autojump_threshold=0))
