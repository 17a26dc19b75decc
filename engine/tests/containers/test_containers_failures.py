"""Failure handling of containers: failing starts, disks, drivers, monitors, and shutdown of the daemon."""

import errno
import os
import signal
import threading
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
import trio
from engine_fixture import ID, SANDBOX, TRUE, FakeMonitor, RealLaunch, asynced, engine_fixture, no_threads, run_fast
from trio.testing import MockClock, wait_all_tasks_blocked

from orlop_engine import commands
from orlop_engine.containers import attach, launch, monitor_events, restore, rootfs, volumes
from orlop_engine.containers.container import Run
from orlop_engine.containers.record import MountRecord
from orlop_engine.containers.state import Phase, State
from orlop_engine.futures import run_to_completion
from orlop_engine.processes.monitor_client import MonitorClient
from orlop_engine.service import EngineService
from orlop_engine.types.containers import CreateRequest, HostConfig, RestartPolicy
from orlop_engine.types.images import ImageConfig
from orlop_kernel import daemon
from orlop_kernel.store import Store
from orlop_monitor.protocol import Attach, Event, Exited, LogLost, Oom, Started, Status
from orlop_monitor.streams import Attachment, Output
from orlop_sdk import Command, DeadlineExceeded, DriverError, InvalidParameter, Mount, Unavailable

# --- failing starts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/run/x/config.json"),
        ExceptionGroup("nursery", [Unavailable("its monitor (pid 1) ended")]),
        KeyError("a bug"),
    ],
)
def test_failure_of_a_start_is_recorded_and_reported(tmp_path, monkeypatch, error):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            pending = h.containers.waiting(h.container, "next-exit")
            h.launch_error = error
            with pytest.raises((DriverError, Unavailable)):
                await h.containers.start(h.container)
            with trio.fail_after(1):
                assert await pending.get() == 128
            assert h.container.record.state.error and not h.container.record.state.running

    run_fast(main)


def test_container_is_shown_as_stopped_if_a_restart_by_its_policy_fails(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, restart_policy=RestartPolicy(name="always")) as h:
            await h.containers.start(h.container)
            h.launch_error = OSError(errno.ENOSPC, "No space left on device")
            h.run.monitor.exit(3)
            await trio.sleep(2)
            state = h.container.record.state
            assert (state.running, state.restarting) == (False, False) and "No space" in state.error

    run_fast(main)


def test_start_waits_until_the_exit_of_the_last_run_is_recorded(tmp_path, monkeypatch):
    """Otherwise the event `die` of the last run would follow the new `start`, and waiters for the new exit would get the
    old code."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            await h.containers.start(h.container)
            h.engine.store.slow = trio.Event()
            h.run.monitor.exit(3)
            await wait_all_tasks_blocked()
            nursery.start_soon(h.containers.start, h.container)
            await wait_all_tasks_blocked()
            h.engine.store.slow.set()
            await wait_all_tasks_blocked()
            assert h.engine.actions() == ["start", "die", "start"]

    run_fast(main)


def test_monitor_that_hangs_after_the_exit_is_killed_before_the_next_start(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            h.run.exited.set(Exited(0, 1))  # the exit is reported, but the monitor still runs
            await h.run.finished.wait()
            with trio.fail_after(120):
                await h.containers.start(h.container)
            assert len(h.launched) == 2

    trio.run(main, clock=MockClock(autojump_threshold=0.2))


def test_failed_launch_releases_the_networks_the_clients_and_the_monitor(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, None) as h, trio.open_nursery() as nursery:
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
                await h.containers.start(h.container)
            await wait_all_tasks_blocked()
            assert got == [None, None]
            assert h.engine.networks.abandoned == [plan] and len(h.engine.networks.released) == 1
            assert h.container.run is None and not os.listdir(h.paths.runs_root)
            assert real.monitors[0].gone.is_set() and real.clean == [ID]

    trio.run(main)


@pytest.mark.parametrize("release_error", [None, OSError(errno.EIO, "Input/output error")])
def test_start_fails_if_the_monitor_ends(tmp_path, monkeypatch, release_error):
    async def main():
        async with engine_fixture(tmp_path, None) as h:
            real = RealLaunch(h, monkeypatch)
            h.engine.networks.plan_made = SimpleNamespace(sockets=[], forwards=[])
            h.engine.networks.release_error = release_error
            real.start_error = Unavailable("cannot start the container: its monitor (pid 1) ended")
            with pytest.raises(Unavailable, match="its monitor"):
                await h.containers.start(h.container)
            assert h.container.record.state.error.startswith("cannot start the container")
            assert h.container.run is None and not os.listdir(h.paths.runs_root)

    trio.run(main)


def test_addresses_are_released_when_the_runtime_hangs(tmp_path, monkeypatch):
    async def forever(containers, container):
        await trio.sleep_forever()

    monkeypatch.setattr(launch.runtimes, "clean", forever)

    async def main():
        async with engine_fixture(tmp_path, None) as h:
            real = RealLaunch(h, monkeypatch)
            h.engine.networks.plan_made = plan = SimpleNamespace(sockets=[], forwards=[])
            real.start_error = Unavailable("its monitor (pid 1) ended")
            with pytest.raises(Unavailable), trio.fail_after(60):
                await h.containers.start(h.container)
            assert (h.engine.networks.released, h.engine.networks.abandoned) == ([SANDBOX], [plan])
            assert h.container.run is None

    run_fast(main)


def test_client_that_attaches_during_a_start_gets_the_output_stream(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, None) as h, trio.open_nursery() as nursery:
            real, begun = RealLaunch(h, monkeypatch), trio.Event()

            async def slow_start(monitor, message):
                await begun.wait()
                return Started(77, 1, 10**9)

            monkeypatch.setattr(FakeMonitor, "start", slow_start)
            nursery.start_soon(h.containers.start, h.container)
            await wait_all_tasks_blocked()
            with trio.fail_after(1):
                assert await attach.join(h.container, Attach()) is not None
            begun.set()
            await wait_all_tasks_blocked()
            real.monitors[0].exit()

    trio.run(main)


# --- exits ----------------------------------------------------------------------------------------------------------


def test_exit_is_recorded_even_if_the_cleanup_fails(tmp_path, monkeypatch):
    """The monitor has died, the runtime is not installed any more, and the network driver fails."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            h.container.record.sandbox = SANDBOX
            h.engine.networks.release_error = OSError(errno.EIO, "Input/output error")
            h.engine.runtime_error = InvalidParameter("unknown or invalid runtime name: gone")
            h.run.monitor.kill()
            with trio.fail_after(10):
                await h.run.finished.wait()
            assert not h.container.record.state.running

    run_fast(main)


# --- start and shutdown of the daemon -------------------------------------------------------------------------------


def left_running(h, container):
    container.record.state = State(Phase.RUNNING, pid=99)
    os.makedirs(h.paths.run_dir(container.id))
    with open(h.paths.run_dir(container.id) + "/init.json", "w") as file:
        file.write('{"pid": 99, "start_time": 1, "time_ns": 5, "cgroups": []}')


@pytest.mark.parametrize("what", ["runtime", "disk", "bug"])
def test_broken_container_does_not_prevent_the_daemons_start(tmp_path, monkeypatch, what):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            left_running(h, h.container)
            if what == "runtime":
                h.engine.runtime_error = InvalidParameter("unknown or invalid runtime name: gone")
            elif what == "disk":
                h.engine.store.full = True
            else:
                monkeypatch.setattr(MonitorClient, "adopt", lambda *of: 1 / 0)
            no_threads(monkeypatch)
            await restore.restore(h.ports)
            assert not h.container.record.state.running
            h.engine.store.full = False
            await trio.sleep(5)
            if what != "bug":
                assert b'"exit_code":255' in h.engine.store.rows[ID]

    run_fast(main)


def test_interrupted_removal_is_finished_when_the_daemon_starts(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.container.record.removing = h.container.record.started_before = True
            auto = h.add("auto", "d" * 64, auto_remove=True)
            auto.record.removing = auto.record.started_before = True
            await restore.restore(h.ports)
            await trio.sleep(1)
            assert not h.index.by_id and not h.engine.store.rows

    run_fast(main)


def test_shutdown_stops_containers_that_are_being_started(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            h.launching = trio.Event()
            nursery.start_soon(h.containers.start, h.container)
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as stopping:
                stopping.start_soon(restore_shutdown, h)
                await wait_all_tasks_blocked()
                h.launching.set()
            assert h.run.finished.is_set() and not h.container.record.state.running
            with pytest.raises(Unavailable, match="shutting down"):
                await h.containers.start(h.container)

    async def restore_shutdown(h):
        await restore.shutdown(h.ports, leave_running=False)

    run_fast(main)


def test_shutdown_with_live_restore_leaves_an_unfinished_start_to_the_next_daemon(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            h.launching = trio.Event()
            nursery.start_soon(h.containers.start, h.container)
            await wait_all_tasks_blocked()
            await restore.shutdown(h.ports, leave_running=True)
            nursery.cancel_scope.cancel()
            await wait_all_tasks_blocked()
            assert not h.container.record.state.running and not h.launched
            assert "start" not in h.engine.actions() and h.engine.store.rows[ID] == b"created"

    run_fast(main)


def test_shutdown_waits_for_containers_that_are_being_started(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.engine.config.shutdown_timeout = 3
            service = EngineService(h.engine)
            assert service.stop_limit() == 5
            h.container.run = Run("")
            assert service.stop_limit() == 15

    run_fast(main)


# --- no data loss, no unnecessary waits -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["quarantined", "damaged", "unknown"])
def test_daemon_start_keeps_files_of_containers_whose_rows_may_be_unreadable(tmp_path, monkeypatch, case):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            lost = "e" * 64
            os.mkdir(h.paths.directory(lost))

            async def keys():
                return [ID, lost]

            h.engine.storage.keys = keys
            h.engine.store.lost = case == "damaged"
            h.engine.store.quarantine_rows = [("containers", lost, "unreadable")] if case == "quarantined" else []
            await restore.restore(h.ports)
            kept = case != "unknown"
            assert os.path.isdir(h.paths.directory(lost)) is kept and (lost not in h.engine.storage.removed) is kept

    run_fast(main)


def test_store_reports_lost_rows_while_a_damaged_database_file_exists(tmp_path):
    path = tmp_path / "state" / "orlop.db"

    async def boot():
        async with Store.open(str(path)) as store:
            return store.lost_rows()

    assert trio.run(boot) is False
    path.write_bytes(b"not a database" * 400)
    assert [trio.run(boot), trio.run(boot)] == [True, True]


def test_create_with_a_hanging_bind_source_fails_after_a_deadline(monkeypatch):
    answers = threading.Event()
    monkeypatch.setattr(volumes.os.path, "exists", lambda path: answers.wait(10))
    mount = MountRecord(type="bind", destination="/in", source="/dead/server")

    async def main():
        with pytest.raises(DeadlineExceeded, match="did not answer"):
            await volumes.ensure(None, (mount,), HostConfig(), [])

    try:
        trio.run(main, clock=MockClock(rate=50))
    finally:
        answers.set()


def test_hanging_file_systems_use_a_limited_number_of_threads(monkeypatch):
    answers, looking = threading.Event(), []
    monkeypatch.setattr(volumes, "_PATIENCE", 0.2)

    def look():
        looking.append(True)
        answers.wait(10)

    async def main():
        told = []

        async def one():
            try:
                await volumes.patiently(look)
            except DeadlineExceeded as error:
                told.append("too many other requests" in str(error))

        async with trio.open_nursery() as nursery:
            for _ in range(60):  # more calls than trio has threads
                nursery.start_soon(one)
        with trio.fail_after(5):
            await trio.to_thread.run_sync(answers.is_set)
        assert len(looking) == 16 and told.count(True) == 44

    try:
        trio.run(main)
    finally:
        answers.set()


def test_create_with_a_hanging_volume_fails_after_a_deadline(monkeypatch):
    answers = threading.Event()
    # The late answer is a descriptor, which the abandoned thread closes
    monkeypatch.setattr(volumes, "open_subpath", lambda *path: answers.wait(10) and os.open(os.devnull, os.O_RDONLY))
    monkeypatch.setattr(volumes, "_PATIENCE", 0.2)

    async def mount(name, container_id, users):
        return (Mount("bind", "/dead/server"),)

    ports = SimpleNamespace(volumes=SimpleNamespace(mount=mount))
    record = SimpleNamespace(id=ID, mounts=(MountRecord("volume", "/in", name="data"),))

    async def main():
        with pytest.raises(DeadlineExceeded, match="did not answer"):
            await volumes.populate(ports, record)

    try:
        trio.run(main)
    finally:
        answers.set()


@pytest.mark.parametrize("fails", ["populate", "commit"])
def test_failed_create_leaves_no_container_and_no_new_volume(tmp_path, monkeypatch, fails):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            made, engine = {"mine"}, h.engine

            async def ensure(ports, planned, host, new, labels, vet):
                new += {mount.name for mount in planned} - made
                made.update(new)
                return planned

            async def prepare(ports, record, image):
                pass

            async def manifest(image):
                return None

            async def populate(containers, record):
                if fails == "populate":
                    raise OSError(errno.ENOSPC, "No space left on device")

            async def remove(name):
                assert not engine.paused_by_engine
                made.discard(name)

            @contextmanager
            def hold(names):
                engine.paused_by_engine = True
                try:
                    yield
                finally:
                    engine.paused_by_engine = False

            monkeypatch.setattr(volumes, "ensure", ensure)
            monkeypatch.setattr(volumes, "populate", populate)
            monkeypatch.setattr(rootfs, "prepare", prepare)
            engine.volumes = SimpleNamespace(remove=remove, hold=hold)
            image = SimpleNamespace(id="i", config=ImageConfig(cmd=["true"]), os="linux", architecture="", platform=None)
            engine.images.resolve = lambda name, newest: image
            engine.images.manifest = manifest
            engine.drivers.log = asynced(SimpleNamespace(validate=lambda options: None))
            engine.networks.check = lambda *of: None
            engine.store.full = fails == "commit"
            vars(engine.config).update(
                log_driver="json-file", log_opts={}, effective_runtime="runc", shm_bytes=1 << 26, default_ipc_mode="private"
            )
            vars(engine.config).update(default_cgroupns_mode="", default_ulimits={})
            engine.storage_name = "fake"
            host = HostConfig(binds=["mine:/a", "new:/b"])
            request = CreateRequest(image="busybox", volumes={"/anonymous": {}}, host_config=host)
            with pytest.raises((OSError, Unavailable)):
                await h.containers.create("fresh", "", request)
            assert made == {"mine"} and os.listdir(h.paths.containers_root) == [] and h.index.names == {"web": ID}

    run_fast(main)


def test_out_of_memory_kill_is_reported_once(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            monitor_events.on_event(h.ports, h.container, h.run, Event(Oom(1)))
            monitor_events.on_event(h.ports, h.container, h.run, Event(Exited(137, 10**9, True)))
            await h.run.finished.wait()
            assert h.engine.actions() == ["start", "oom", "die"]
            h.run.monitor.gone.set()
            await h.containers.start(h.container)
            h.run.exited.set(Exited(137, 10**9, True))  # no daemon ran when the oom event was sent
            await h.run.finished.wait()
            assert h.engine.actions()[-2:] == ["oom", "die"]
            h.run.monitor.gone.set()

    run_fast(main)


def test_number_of_lost_log_entries_is_recorded_counted_and_published(tmp_path, monkeypatch, caplog):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            revision = h.container.revision
            monitor_events.on_event(h.ports, h.container, h.run, Event(LogLost(3, "ValueError: out of order")))
            monitor_events.on_event(h.ports, h.container, h.run, Event(LogLost(5, "")))
            assert h.engine.actions() == ["start", "log-lost", "log-lost"]
            assert (h.container.record.log_lost, h.container.record.log_lost_reason) == (5, "ValueError: out of order")
            assert h.container.revision is not revision
            assert sum(h.engine.counters.log_lost.values()) == 5
            assert "lost 3 entries: ValueError: out of order" in caplog.text
            h.run.exited.set(Exited(0, 10**9, log_lost=6))  # no daemon ran when the last report was sent
            await h.run.finished.wait()
            assert h.engine.actions()[-2:] == ["log-lost", "die"]
            with h.container.publish() as draft:
                draft.begin_log()  # as the next start does
            assert (h.container.record.log_lost, h.container.record.log_lost_before) == (0, 6)
            monitor_events.on_resumed(h.ports, h.container, Status("running", 1, log_lost=2), 0.0)
            assert (h.container.record.log_lost, sum(h.engine.counters.log_lost.values())) == (2, 8)

    run_fast(main)


# --- unkillable processes, cancelled requests, disconnected clients -------------------------------------------------


def test_unkillable_process_does_not_block_operations(monkeypatch):
    """A process in uninterruptible sleep ignores SIGKILL: simulated by a `kill` that does nothing."""
    started = []
    kill = commands.subprocess.Popen.kill
    monkeypatch.setattr(commands.subprocess.Popen, "kill", lambda self: started.append(self))
    monkeypatch.setattr(commands.os, "killpg", lambda *of: None)

    async def main():
        with trio.fail_after(8):
            outcome = await commands.run_supervised(Command(("sleep", "20"), TRUE.env, timeout=0.05))
        assert outcome.timed_out

    try:
        trio.run(main)
    finally:
        kill(started[0])


def test_operation_interrupted_by_the_shutdown_is_answered_with_an_error():
    """One of the operations ends with an exception group that contains its cancellation."""

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
                await run_to_completion(nursery, operation)
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


def test_failing_signal_handler_does_not_end_the_daemon(tmp_path):
    async def main():
        config = SimpleNamespace(exec_root=str(tmp_path / "not there"))
        one = daemon.Daemon(SimpleNamespace(config=config), None, 0.0)
        async with trio.open_nursery() as nursery:
            await nursery.start(one._watch_signals)
            os.kill(os.getpid(), signal.SIGUSR1)
            await wait_all_tasks_blocked(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            with trio.fail_after(5):
                await one._stop.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_input_of_a_container_is_closed_if_its_client_disconnects_while_the_input_is_full():
    """An example is a `cat` whose output no client reads: its input is full, and its only client disconnects."""

    class Channel:
        closed = False

        def resume(self):
            pass

        pause = resume

    ended = []
    input_ = SimpleNamespace(full=True, terminal=False, write=lambda data: None, when_drained=lambda call: None)
    input_.end = lambda: ended.append(True)
    channel = Channel()
    Attachment(channel, Attach(stdin=True, stdin_once=True), input_, Output(None), True)
    channel.on_data(b"x", [])
    channel.on_gone()
    assert ended == [True]
