"""Container states that the first client after a start of the daemon sees: running, about to be started, and running with
a monitor that does not answer.
"""

import dataclasses
import logging
import os

import msgspec
import pytest
import trio
from engine_fixture import FakeMonitor, engine_fixture, no_threads, run_fast
from trio.testing import wait_all_tasks_blocked

from orlop_engine.containers import adoption, connections, needs, restore
from orlop_engine.containers.container import Run
from orlop_engine.containers.record import decode
from orlop_engine.containers.state import Phase, State
from orlop_engine.networks.records import Sandbox
from orlop_engine.processes import runs
from orlop_engine.processes.monitor_client import MonitorClient
from orlop_engine.types.containers import RestartPolicy
from orlop_monitor import records
from orlop_monitor.protocol import Exited, ExitRecord, InitRecord, MonitorRecord, Status
from orlop_sdk import Conflict, Unavailable

ALWAYS = RestartPolicy(name="always")
SICK, WELL = "a" * 64, "b" * 64


class LeftMonitor(FakeMonitor):
    """A monitor left by the previous daemon. It answers after the event `answers` was set. Before that, it is reported as
    silent."""

    def __init__(self, run, sick):
        super().__init__(run)
        self.answers, self.silent, self.killed = trio.Event(), False, False
        if not sick:
            self.answers.set()

    @property
    def is_over(self):
        return self.gone.is_set()

    async def subscribe(self):
        await wait_for_one(self.answers, self.gone)
        if self.gone.is_set():
            raise Unavailable("its monitor ended")
        self.silent = False
        return Status("running", self.pid, 99)

    def suspect(self, what):
        self.silent = True
        return Unavailable(f"cannot {what}: its monitor (pid {self.pid}) does not answer")

    async def signal(self, signum):
        if not self.answers.is_set():
            raise self.suspect("send a signal")
        await super().signal(signum)

    def kill(self):
        self.killed = True
        records.write(self.run.run_dir, ExitRecord(137, 10**9, error="its zygote did"))
        super().kill()


async def wait_for_one(*events):
    async with trio.open_nursery() as nursery:

        async def wait(event):
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)


class Left:
    """Containers that the previous daemon left running, by name. `signals` are the signals that were not sent through a
    monitor."""

    def __init__(self, h, monkeypatch):
        self.h, self.monitors, self.signals = h, {}, []
        no_threads(monkeypatch)

        async def adopt(run_dir, nursery, on_event):
            return self.monitors.get(run_dir)

        def signal_init(run_dir, signum):
            self.signals.append(signum)
            if signum == 9:
                self.dead.set()
            return True

        async def init_ended(run_dir):
            await self.dead.wait()
            return True

        self.dead = trio.Event()
        monkeypatch.setattr(MonitorClient, "adopt", adopt)
        monkeypatch.setattr(runs, "signal_init", signal_init)
        monkeypatch.setattr(runs, "init_ended", init_ended)

    def add(self, name, key, *, sick=False, told=True, **host):
        container = self.h.add(name, key, **host)
        run_dir = self.h.paths.run_dir(key)
        os.makedirs(run_dir)
        records.write(run_dir, InitRecord(99, 1, 5))
        records.write(run_dir, MonitorRecord(FakeMonitor.pid, 1, key))
        container.record.monitor_pid = FakeMonitor.pid if told else 1
        container.record.started_before = told
        if told:
            container.record.state = State(Phase.RUNNING)
        container.record.sandbox = Sandbox(
            container_id=key, container_name=name, network_mode="bridge", hostname=name, endpoints=()
        )
        monitor = self.monitors[run_dir] = LeftMonitor(Run(run_dir), sick)
        return container, monitor


def boot(tmp_path, monkeypatch, test, **config):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            for key, value in config.items():
                setattr(h.engine.config, key, value)
            await test(h, Left(h, monkeypatch))

    run_fast(main)


def ran_before(h, name="db", key=WELL, code=0, **host):
    """A container that has run before, and does not run now."""
    container = h.add(name, key, **host)
    container.record.started_before, container.record.state = True, State(Phase.EXITED, started_ns=1, exit_code=code)
    return container


# --- a monitor that does not answer ---------------------------------------------------------------------------------


def test_container_with_a_silent_monitor_delays_no_other_containers_and_is_adopted_later(tmp_path, monkeypatch, caplog):
    async def test(h, left):
        sick, monitor = left.add("sick", SICK, sick=True)
        well, _ = left.add("well", WELL)
        with caplog.at_level(logging.INFO):
            with trio.fail_after(1):
                await restore.restore(h.ports)
            assert [each.run.settled.is_set() for each in (sick, well)] == [False, False]
            assert [each.record.state.status for each in (sick, well)] == ["running", "running"]
            await wait_all_tasks_blocked()
            assert well.run.settled.is_set() and not sick.run.settled.is_set()
            assert [each.record.state.status for each in (sick, well)] == ["running", "running"]
            await trio.sleep(60)
        assert sorted(h.engine.networks.restored) == [SICK, WELL]  # the silent container keeps its sandbox
        told = [record.message for record in caplog.records if "does not answer" in record.message]
        assert told == ["container sick: cannot adopt it: its monitor (pid 4242) does not answer"]
        monitor.answers.set()
        await wait_all_tasks_blocked()
        assert sick.run.settled.is_set() and sick.record.state.pid == 99
        monitor.run = sick.run
        monitor.exit(3)
        await wait_all_tasks_blocked()
        assert (sick.record.state.status, sick.record.state.exit_code) == ("exited", 3)

    boot(tmp_path, monkeypatch, test)


def test_monitor_stopped_by_sigstop_is_reported_as_silent_at_once(tmp_path, monkeypatch, caplog):
    async def test(h, left):
        _, monitor = left.add("sick", SICK, sick=True)
        monitor.is_stopped = True
        await restore.restore(h.ports)
        await trio.sleep(0.2)
        assert monitor.silent and "container sick: cannot adopt it" in caplog.text

    boot(tmp_path, monkeypatch, test)


def test_monitors_are_contacted_only_after_the_daemon_serves_requests(tmp_path, monkeypatch):
    """The daemon's first answer waits for no monitor, and shows the containers as running. An exec waits for the adoption of
    its container, because the adoption removes the files of unknown execs."""

    async def test(h, left):
        h.engine.serving = trio.Event()
        h.ports = dataclasses.replace(h.ports, serving=h.engine.serving)
        well, monitor = left.add("well", WELL)
        asked = []
        subscribe = monitor.subscribe

        async def recorded():
            asked.append(h.engine.serving.is_set())
            return await subscribe()

        monitor.subscribe = recorded
        await restore.restore(h.ports)
        await wait_all_tasks_blocked()
        assert well.record.state.running and well.run.monitor is monitor and not well.run.settled.is_set() and not asked
        h.engine.serving.set()
        await wait_all_tasks_blocked()
        assert well.run.settled.is_set() and asked == [True]

    boot(tmp_path, monkeypatch, test)


@pytest.mark.parametrize("what", ["kill", "rm", "stop", "restart"])
def test_container_with_a_silent_monitor_can_be_killed(tmp_path, monkeypatch, what):
    """The kill uses the process and the cgroup of the container, and does not wait for its monitor."""

    async def test(h, left):
        sick, monitor = left.add("sick", SICK, sick=True)
        monitor.is_stopped = True
        await restore.restore(h.ports)
        await wait_all_tasks_blocked()
        with trio.fail_after(8):
            if what == "kill":
                await h.containers.kill(sick, "")
            elif what == "rm":
                await h.containers.remove(sick, True, False)
            else:
                await getattr(h.containers, what)(sick, "", 3)
        assert monitor.killed and left.signals == ([15, 9] if what in ("stop", "restart") else [9])
        assert (SICK in h.index) == (what != "rm")
        assert sick.record.state.status == ("running" if what == "restart" else "exited")
        assert what == "restart" or sick.record.state.exit_code == 137
        assert h.engine.networks.released

    boot(tmp_path, monkeypatch, test)


def test_stop_with_a_silent_monitor_returns_as_soon_as_the_container_has_exited(tmp_path, monkeypatch):
    """The silent monitor will never report the exit."""

    async def test(h, left):
        sick, monitor = left.add("sick", SICK, sick=True)
        monitor.is_stopped = True
        await restore.restore(h.ports)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(h.containers.stop, sick, "", 3600)
            await trio.sleep(2)
            left.dead.set()
            with trio.fail_after(5):
                await sick.run.finished.wait()
        assert left.signals == [15] and monitor.killed

    boot(tmp_path, monkeypatch, test)


def test_silent_monitor_is_killed_if_the_row_does_not_contain_its_run(tmp_path, monkeypatch):
    """Until the monitor is killed, its container is not shown as running, and cannot be started a second time."""

    async def test(h, left):
        sick, monitor = left.add("sick", SICK, sick=True, told=False)
        await restore.restore(h.ports)
        with trio.fail_after(30):
            await h.containers.start(sick)
        assert monitor.killed and len(h.launched) == 1

    boot(tmp_path, monkeypatch, test)


def test_network_of_a_dead_container_is_released_before_the_container_is_started_again(tmp_path, monkeypatch):
    async def test(h, left):
        sick, monitor = left.add("sick", SICK, sick=True, told=False)
        os.unlink(h.paths.run_dir(SICK) + "/init.json")
        sick.record.monitor_pid = FakeMonitor.pid  # the previous daemon had begun a start
        await restore.restore(h.ports)
        await wait_all_tasks_blocked()
        assert h.engine.networks.restored == [SICK] and sick.record.sandbox is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(h.containers.start, sick)  # this start must wait, because a container has one run at a time
            await trio.sleep(5)
            assert h.launched == []
        assert monitor.killed and [each.container_id for each in h.engine.networks.released] == [SICK]
        assert len(h.launched) == 1

    boot(tmp_path, monkeypatch, test)


def test_network_connect_fails_at_once_while_the_monitor_has_not_answered(tmp_path, monkeypatch):
    async def test(h, left):
        sick, _ = left.add("sick", SICK, sick=True)
        await restore.restore(h.ports)
        with pytest.raises(Unavailable, match="its monitor has not answered yet"):
            connections._running(sick)

    boot(tmp_path, monkeypatch, test)


def test_container_that_ignores_sigterm_does_not_delay_the_start_of_the_daemon(tmp_path, monkeypatch):
    """A daemon without live-restore stops containers that a crashed daemon left running, and serves requests meanwhile."""

    async def test(h, left):
        stubborn, monitor = left.add("stubborn", SICK, restart_policy=ALWAYS)
        other = ran_before(h, restart_policy=ALWAYS)

        async def ignore(signum):
            if signum == 9:
                monitor.run = stubborn.run
                monitor.exit(137)

        monitor.signal = ignore
        with trio.fail_after(1):
            await restore.restore(h.ports)
        await trio.sleep(1)
        assert stubborn.record.state.status == other.record.state.status == "running" and len(h.launched) == 1
        await trio.sleep(20)
        assert sorted(h.engine.actions()) == ["die", "kill", "kill", "start", "start"]

    boot(tmp_path, monkeypatch, test, live_restore=False)


# --- containers that are started when the daemon starts -------------------------------------------------------------


@pytest.mark.parametrize(
    "policy, code, manually, status",
    [
        ("always", 0, False, "restarting"),
        ("always", 0, True, "restarting"),
        ("unless-stopped", 0, False, "restarting"),
        ("unless-stopped", 0, True, "exited"),
        ("on-failure", 1, False, "restarting"),
        ("on-failure", 0, False, "exited"),
        ("no", 1, False, "exited"),
    ],
)
def test_containers_that_the_daemon_is_about_to_start_are_shown_as_restarting(
    tmp_path, monkeypatch, policy, code, manually, status
):
    async def test(h, left):
        container = ran_before(h, code=code, restart_policy=RestartPolicy(name=policy))
        container.record.manually_stopped = manually
        h.launching = trio.Event()
        await restore.restore(h.ports)
        assert container.record.state.status == status
        h.launching.set()
        await wait_all_tasks_blocked()
        assert container.record.state.status == ("running" if status == "restarting" else "exited")
        assert h.engine.actions() == (["start"] if status == "restarting" else [])

    boot(tmp_path, monkeypatch, test)


def test_operations_wait_until_the_starting_daemon_has_started_their_container(tmp_path, monkeypatch):
    """The operations do not run before the start, because dockerd tries such starts before it serves requests."""

    async def test(h, left):
        container = ran_before(h, restart_policy=ALWAYS)
        h.launching = trio.Event()
        await restore.restore(h.ports)
        done = []

        async def wait():
            await container.boot_start_tried()
            done.append(container.record.state.status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            assert not done
            h.launching.set()
        assert done == ["running"]
        await container.boot_start_tried()

    boot(tmp_path, monkeypatch, test)


def test_stop_request_cancels_a_pending_start_of_the_container_at_daemon_start(tmp_path, monkeypatch):
    async def test(h, left):
        first = ran_before(h, restart_policy=ALWAYS)
        second = ran_before(h, "web", SICK, restart_policy=ALWAYS, network_mode=f"container:{WELL}")
        h.launching = trio.Event()
        await restore.restore(h.ports)
        await wait_all_tasks_blocked()
        assert second.record.state.status == "restarting" and first.run is not None  # `second` waits for `first`
        await h.containers.stop(second, "", None)
        h.launching.set()
        await wait_all_tasks_blocked()
        assert [first.record.state.status, second.record.state.status] == ["running", "exited"]
        assert second.record.manually_stopped and len(h.launched) == 1

    boot(tmp_path, monkeypatch, test)


def test_container_is_shown_as_stopped_if_its_start_at_daemon_start_fails(tmp_path, monkeypatch):
    async def test(h, left):
        container = ran_before(h, restart_policy=ALWAYS)
        h.launch_error = OSError(28, "No space left on device")
        await restore.restore(h.ports)
        await wait_all_tasks_blocked()
        assert not container.record.state.running and "No space" in container.record.state.error
        assert container.owed_start is None

    boot(tmp_path, monkeypatch, test)


def test_shutdown_cancels_pending_starts_of_containers(tmp_path, monkeypatch):
    async def test(h, left):
        ran_before(h, restart_policy=ALWAYS)
        waiting = ran_before(h, "web", SICK, restart_policy=ALWAYS, network_mode=f"container:{WELL}")
        h.launching = trio.Event()
        await restore.restore(h.ports)
        await wait_all_tasks_blocked()
        with trio.move_on_after(10):
            await restore.shutdown(h.ports, leave_running=True)
        assert waiting.record.state.status == "exited" and not waiting.record.manually_stopped

    boot(tmp_path, monkeypatch, test)


def test_daemon_crash_before_an_announced_start_is_not_recorded_as_an_exit(tmp_path, monkeypatch):
    """After the start was announced, the row was written for another reason."""

    async def test(h, left):
        container = ran_before(h, code=7, restart_policy=ALWAYS)
        container.record.state = msgspec.structs.replace(container.record.state, finished_ns=5)
        h.launching = trio.Event()
        await restore.restore(h.ports)
        await h.ports.rows.save(container)
        row = decode(h.engine.store.rows[WELL])
        assert row.state.restarting
        again = h.add("again", "e" * 64)
        again.record.state = row.state
        await adoption.recover(h.ports, again, trio.Event(), trio.Lock())
        state = again.record.state
        assert (state.status, state.exit_code, state.finished_ns) == ("exited", 7, 5)
        assert "die" not in h.engine.actions()

    boot(tmp_path, monkeypatch, test)


def test_daemon_starts_a_container_before_the_containers_that_share_its_network(tmp_path, monkeypatch):
    async def test(h, left):
        keys = [letter * 64 for letter in "fedba"]
        for key, other in zip(keys, [*keys[1:], None], strict=True):
            mode = f"container:{other}" if other else "bridge"
            ran_before(h, f"c{key[0]}", key, restart_policy=ALWAYS, network_mode=mode)
        order = []
        launch = h.launch

        async def recorded(containers, container, image=None):
            order.append(container.id)
            return await launch(containers, container, image)

        monkeypatch.setattr("orlop_engine.containers.launch.launch", recorded)
        await restore.restore(h.ports)
        await wait_all_tasks_blocked()
        assert order == keys[::-1] and needs.needed(h.index, h.engine.networks, h.index.by_id[keys[0]].record) == {keys[1]}

    boot(tmp_path, monkeypatch, test)


# --- shutdown -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [0, 1, 12])
def test_shutdown_logs_once_which_containers_it_waits_for(tmp_path, monkeypatch, caplog, slow):
    async def test(h, left):
        for number in range(slow):
            container = h.add(f"slow{number:02}", f"{number:064x}")
            container.record.config.stop_timeout = None if number else 45
            await h.containers.start(container)
        quick = h.add("quick", "f" * 64)
        await h.containers.start(quick)
        for run in h.launched:
            if run is quick.run:
                monkeypatch.setattr(run.monitor, "signal", lambda signum, monitor=run.monitor: ended(monitor), raising=False)
        with caplog.at_level(logging.INFO):
            await restore.shutdown(h.ports, leave_running=False)
        said = [record.message for record in caplog.records if "waiting for containers" in record.message]
        if not slow:
            assert said == []
        else:
            assert len(said) == 1 and "slow00 (45 s)" in said[0] and "quick" not in said[0]
            assert ("and 2 more" in said[0], "slow01 (10 s)" in said[0]) == (slow == 12, slow == 12)

    async def ended(monitor):
        monitor.exit(0)

    boot(tmp_path, monkeypatch, test)


def test_hanging_monitor_does_not_delay_the_cleanup_of_other_containers(tmp_path, monkeypatch):
    async def test(h, left):
        both = [h.add(name, key) for name, key in (("hangs", SICK), ("ends", WELL))]
        for container in both:
            await h.containers.start(container)
            os.makedirs(h.paths.run_dir(container.id))
        for run in h.launched:
            run.exited.set(Exited(0, 1))
        await wait_all_tasks_blocked()
        h.launched[1].monitor.gone.set()
        await restore.shutdown(h.ports, leave_running=True)
        assert both[0].run is not None and both[1].run is None

    boot(tmp_path, monkeypatch, test)


def test_start_is_refused_after_a_shutdown_has_begun(tmp_path, monkeypatch):
    async def test(h, left):
        h.ports.state.closing = True
        with pytest.raises(Unavailable):
            await h.containers.start(h.container)
        with pytest.raises(Conflict):
            await h.containers.kill(h.container, "")

    boot(tmp_path, monkeypatch, test)


def test_networks_are_restored_only_after_the_daemon_serves_requests(tmp_path, monkeypatch):
    """The import of the network driver takes a tenth of a second, and the first answer must not wait for it."""
    restored = []

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:

            async def networks(sandboxes):
                restored.append(sandboxes)

            monkeypatch.setattr(h.engine.networks, "restore", networks, raising=False)
            h.engine.serving = trio.Event()
            await restore.restore(h.ports)
            await wait_all_tasks_blocked()
            assert not restored
            h.engine.serving.set()
            await wait_all_tasks_blocked()
            assert len(restored) == 1

    run_fast(main)


def test_stop_at_daemon_start_waits_until_the_containers_monitor_answers(tmp_path, monkeypatch):
    """A frozen process does not see SIGTERM. The stop can thaw the process only after the container's monitor has
    answered."""

    async def test(h, left):
        slow, monitor = left.add("slow", SICK, sick=True)
        sent = []

        async def signal(signum):
            sent.append(signum)
            monitor.run = slow.run
            monitor.exit(0)

        monitor.signal = signal
        await restore.restore(h.ports)
        await trio.sleep(3)
        assert (sent, left.signals) == ([], [])
        monitor.answers.set()
        await trio.sleep(1)
        assert sent == [15]

    boot(tmp_path, monkeypatch, test, live_restore=False)
