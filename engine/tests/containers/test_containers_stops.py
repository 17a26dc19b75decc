"""Stop, kill and pause: waiting, cleanup, and recovery at the next start of the daemon."""

import msgspec
import pytest
import trio
from engine_fixture import ID, SANDBOX, TRUE, FakeMonitor, FakeRuntime, engine_fixture, run_fast, surviving_monitor
from trio.testing import wait_all_tasks_blocked

from orlop_engine import commands
from orlop_engine.containers import exits, restarts, restore
from orlop_engine.containers.record import decode
from orlop_engine.containers.state import Phase, State
from orlop_engine.files import commit
from orlop_engine.types.containers import EndpointSettings, RestartPolicy
from orlop_sdk import Conflict, DriverError, NotModified, Unavailable

ALWAYS = RestartPolicy(name="always")


def kept(h, key=ID):
    """The row as the next daemon reads it."""
    return decode(h.engine.store.rows[key])


@pytest.fixture
def froze(monkeypatch):
    """A list of the runtime's commands that were run. If `froze.hangs` is set, the runtime does not return."""

    class Asked(list):
        hangs = False

    asked = Asked()

    async def check(command, what):
        asked.append(what.split()[0])
        if asked.hangs:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(commands, "check", check)
    monkeypatch.setattr(FakeRuntime, "pause", lambda runtime, task: TRUE)
    return asked


# --- waiting for a container that does not exit ---------------------------------------------------------------------


def test_second_stop_request_may_shorten_the_timeout_of_the_first(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            await h.containers.start(h.container)
            nursery.start_soon(h.containers.stop, h.container, "", 3600)
            await wait_all_tasks_blocked()
            with trio.fail_after(2):
                await h.containers.stop(h.container, "", 1)
            await wait_all_tasks_blocked()
            assert h.engine.actions() == ["start", "kill", "kill", "kill", "die", "stop", "stop"]
            with pytest.raises(NotModified):
                await h.containers.stop(h.container, "", 1)

    run_fast(main)


def test_stop_does_not_block_other_operations(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            await h.containers.start(h.container)
            nursery.start_soon(h.containers.stop, h.container, "", -1)
            await wait_all_tasks_blocked()
            with trio.fail_after(1):
                await h.containers.rename(h.container, "other")
                with pytest.raises(Conflict, match="stop the container before removing"):
                    await h.containers.remove(h.container, False, False)
                with pytest.raises(NotModified):
                    await h.containers.start(h.container)
                await h.containers.remove(h.container, True, False)
            assert ID not in h.engine.store.rows

    run_fast(main)


def test_shutdown_shortens_a_stop_in_progress(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, restart_policy=RestartPolicy(name="unless-stopped")) as h:
            h.container.record.config.stop_timeout = 2
            await h.containers.start(h.container)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(h.containers.stop, h.container, "", 3600)
                await wait_all_tasks_blocked()
                with trio.fail_after(3):
                    await restore.shutdown(h.ports, leave_running=False)
            assert not h.container.record.state.running and h.container.record.manually_stopped

    run_fast(main)


@pytest.mark.parametrize("by", ["stop", "shutdown"])
def test_shutdown_shortens_a_restart_in_progress(tmp_path, monkeypatch, by):
    """The restart holds the lock until the container has been started again."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            h.container.record.config.stop_timeout = 1
            await h.containers.start(h.container)

            async def restart():
                try:
                    await h.containers.restart(h.container, "", 3600)
                except Unavailable:
                    assert by == "shutdown"

            nursery.start_soon(restart)
            await wait_all_tasks_blocked()
            with trio.fail_after(5):
                await (
                    h.containers.stop(h.container, "", 1) if by == "stop" else restore.shutdown(h.ports, leave_running=False)
                )
            assert len(h.launched) == (2 if by == "stop" else 1)
            assert all(run.finished.is_set() for run in h.launched)

    run_fast(main)


def test_auto_remove_container_is_removed_after_a_stop(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, auto_remove=True) as h:
            await h.containers.start(h.container)
            await h.containers.stop(h.container, "", 1)
            with trio.fail_after(1):
                await h.container.removed.get()
            assert h.engine.actions()[-3:] == ["die", "stop", "destroy"]

    run_fast(main)


# --- stops and kills against the restart policy ---------------------------------------------------------------------


@pytest.mark.parametrize("by", ["stop", "kill"])
def test_stop_while_an_exit_is_being_recorded_prevents_a_restart(tmp_path, monkeypatch, by):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, restart_policy=ALWAYS) as h, trio.open_nursery() as nursery:
            await h.containers.start(h.container)
            await wait_all_tasks_blocked()
            h.engine.store.slow = trio.Event()
            h.run.monitor.exit(3)
            await wait_all_tasks_blocked()
            assert h.container.record.state.restarting
            if by == "stop":
                nursery.start_soon(h.containers.stop, h.container, "", None)
            else:
                nursery.start_soon(h.containers.kill, h.container, "")
            await wait_all_tasks_blocked()
            h.engine.store.slow.set()
            await trio.sleep(5)
            assert len(h.launched) == 1 and h.container.record.state.status == "exited"
            row = kept(h)
            assert row.manually_stopped and not (row.state.running or row.state.restarting)

    run_fast(main)


def test_kill_during_the_cleanup_after_an_exit_prevents_a_restart(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, restart_policy=ALWAYS) as h:
            await h.containers.start(h.container)
            h.run.exited.set(exits.Exited(3, 10**9))  # the monitor still runs for a moment
            await h.run.finished.wait()
            await trio.sleep(1)
            assert h.container.lock.locked()  # the restart waits for the monitor
            await h.containers.kill(h.container, "")
            h.run.monitor.gone.set()
            await trio.sleep(5)
            assert len(h.launched) == 1 and h.container.record.state.status == "exited"
            assert h.container.record.restart_count == 0

    run_fast(main)


@pytest.mark.parametrize("closing", [False, True])
def test_kill_between_restarts_is_recorded_unless_the_daemon_shuts_down(tmp_path, monkeypatch, closing):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, restart_policy=RestartPolicy(name="unless-stopped")) as h:
            await h.containers.start(h.container)
            h.run.monitor.exit(3)
            await h.run.finished.wait()
            h.ports.state.closing = closing
            await h.containers.kill(h.container, "")
            assert kept(h).manually_stopped is not closing and h.container.stop_requested

    run_fast(main)


# --- pauses by the engine -------------------------------------------------------------------------------------------


def test_container_paused_by_commit_is_resumed_at_shutdown(tmp_path, monkeypatch, froze):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            with trio.move_on_after(1):
                async with commit._still(h.ports, h.container, True):
                    assert h.container.record.state.paused and kept(h).paused_by_engine
                    await trio.sleep_forever()
            await wait_all_tasks_blocked()
            assert froze == ["pause", "unpause"] and not h.container.record.state.paused and not kept(h).paused_by_engine

    run_fast(main)


def test_hanging_resume_delays_the_shutdown_for_a_limited_time(tmp_path, monkeypatch, froze):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            with trio.fail_after(60), trio.move_on_after(1):
                async with commit._still(h.ports, h.container, True):
                    froze.hangs = True
                    await trio.sleep_forever()
            await wait_all_tasks_blocked()
            assert kept(h).paused_by_engine and kept(h).state.paused  # the next daemon will resume the container

    run_fast(main)


def test_container_paused_by_a_user_stays_paused_after_a_commit(tmp_path, monkeypatch, froze):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            async with commit._still(h.ports, h.container, True):
                async with commit._still(h.ports, h.container, True):
                    pass  # the first commit resumes the container
                assert h.container.record.state.paused
                await h.containers.unpause(h.container)
                await h.containers.pause(h.container)
            assert h.container.record.state.paused and froze == ["pause", "unpause", "pause"]

    run_fast(main)


@pytest.mark.parametrize("row", ["before the pause", "after"])
def test_container_paused_by_an_interrupted_commit_is_resumed_when_the_daemon_starts(tmp_path, monkeypatch, froze, row):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            surviving_monitor(h, monkeypatch, cgroup=str(tmp_path / "cgroup"))
            (tmp_path / "cgroup").mkdir()
            (tmp_path / "cgroup" / "cgroup.freeze").write_text("1\n")
            h.container.record.paused_by_engine = True
            if row == "after":
                h.container.record.state = State(Phase.PAUSED, pid=99, started_ns=5)
            await restore.restore(h.ports)
            await wait_all_tasks_blocked()
            assert froze == ["unpause"] and not h.container.record.state.paused and not kept(h).paused_by_engine

    run_fast(main)


def test_failed_pause_leaves_no_frozen_process(tmp_path, monkeypatch):
    """The runtime behaves like runc, whose freeze request to the cgroup stays in force."""
    frozen = []

    async def check(command, what):
        await trio.lowlevel.checkpoint()
        frozen[:] = [True] if what.startswith("pause") else []
        if frozen:
            raise DriverError(f"cannot {what}: unable to freeze")

    monkeypatch.setattr(commands, "check", check)

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            with pytest.raises(DriverError, match="unable to freeze"):
                await h.containers.pause(h.container)
            assert not frozen and not h.container.record.state.paused

    run_fast(main)


# --- start of the daemon --------------------------------------------------------------------------------------------


def wanting(h, *names, **host):
    """Containers that must be started when the daemon starts."""
    made = []
    for number, name in enumerate(names):
        made.append(h.add(name, f"{number:064x}", restart_policy=ALWAYS, **host))
        made[-1].record.started_before = True
    return made


@pytest.mark.parametrize("by", ["links", "network_mode", "ipc_mode", "pid_mode"])
def test_linked_containers_and_owners_of_shared_namespaces_are_started_first(tmp_path, monkeypatch, by):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            web, db = wanting(h, "web", "db")
            setattr(web.record.host_config, by, ["db:data"] if by == "links" else f"container:{db.id}")
            web.record.endpoints = {"bridge": EndpointSettings()} if by == "links" else {}
            order = []

            async def launch(containers, container, image=None):
                await trio.sleep(1 if container is db else 0)
                order.append(container.name)
                return await h.launch(containers, container, image)

            monkeypatch.setattr("orlop_engine.containers.launch.launch", launch)
            await restore.restore(h.ports)
            await trio.sleep(5)
            assert order == ["db", "web"]

    run_fast(main)


@pytest.mark.parametrize("case", ["a ring", "itself", "nobody", "a hung one"])
def test_missing_hanging_or_circular_dependencies_do_not_block_other_starts_at_daemon_start(tmp_path, monkeypatch, case):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            names = "abcdefghij"
            made = wanting(h, *names)
            hosts = [container.record.host_config for container in made]
            if case == "a hung one":  # more containers wait for the hung container than may be started at the same time
                for host in hosts[:-1]:
                    host.network_mode = f"container:{made[-1].id}"
            else:
                wanted = {"a ring": made[1].id, "itself": made[0].id, "nobody": "f" * 64}[case]
                hosts[0].network_mode, hosts[1].links = f"container:{wanted}", ["c:c"]
                hosts[2].pid_mode = f"container:{made[0].id}"
            hung = made[-1] if case == "a hung one" else None

            async def launch(containers, container, image=None):
                if container is hung:
                    await trio.sleep_forever()
                return await h.launch(containers, container, image)

            monkeypatch.setattr("orlop_engine.containers.launch.launch", launch)
            await restore.restore(h.ports)
            await trio.sleep(31 if hung else 1)
            assert len(h.launched) == len(names) - (hung is not None)

    run_fast(main)


def test_container_without_retries_left_is_not_started_when_the_daemon_starts(tmp_path, monkeypatch):
    policy = RestartPolicy(name="on-failure", maximum_retry_count=2)
    tried = [restarts.wants_start_at_boot(policy, True, False, 1, tries) for tries in range(3)]
    assert tried == [True, True, False]
    assert restarts.wants_start_at_boot(RestartPolicy(name="on-failure"), True, False, 1, 99)

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            fresh, spent = wanting(h, "fresh", "spent")
            for container, count in ((fresh, 1), (spent, 2)):
                container.record.host_config.restart_policy = policy
                container.record.restart_count = count
                container.record.state = msgspec.structs.replace(container.record.state, exit_code=1)
            await restore.restore(h.ports)
            await trio.sleep(1)
            assert fresh.record.state.running and not spent.record.state.running
            assert fresh.record.restart_count == 0

    run_fast(main)


@pytest.mark.parametrize("known", [True, False])
def test_running_container_is_adopted_on_a_full_disk(tmp_path, monkeypatch, known):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            monitor = surviving_monitor(h, monkeypatch)
            h.container.record.monitor_pid = FakeMonitor.pid if known else None
            h.engine.store.full = True
            await restore.restore(h.ports)
            assert h.container.record.state.running
            h.container.run.monitor = monitor
            monitor.run = h.container.run
            with trio.fail_after(10):
                await h.containers.stop(h.container, "KILL", 5)
            assert h.container.record.state.status == "exited"
            h.engine.store.full = False
            await trio.sleep(3)
            assert kept(h).state.exit_code == 137

    run_fast(main)


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_rename_updates_the_container_name_in_the_sandbox(tmp_path, monkeypatch, fails):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            told = []
            h.engine.networks.renamed = lambda sandbox, name: msgspec.structs.replace(sandbox, container_name=name)
            h.engine.networks.update_members = lambda sandbox: told.append(sandbox.container_name)
            h.container.record.sandbox, h.engine.store.full = SANDBOX, fails
            if fails:
                with pytest.raises(Unavailable):
                    await h.containers.rename(h.container, "other")
                assert h.container.record.sandbox is SANDBOX and told == []
                return
            await h.containers.rename(h.container, "other")
            assert told == ["other"] == [kept(h).sandbox.container_name]

    run_fast(main)


def test_container_that_exits_during_a_rename_does_not_rejoin_its_networks(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            await h.containers.start(h.container)
            h.container.record.sandbox, told = SANDBOX, []
            h.engine.networks.renamed = lambda sandbox, name: msgspec.structs.replace(sandbox, container_name=name)
            h.engine.networks.update_members = told.append
            await wait_all_tasks_blocked()
            h.engine.store.slow = trio.Event()
            nursery.start_soon(h.containers.rename, h.container, "other")
            await wait_all_tasks_blocked()
            h.run.monitor.exit()
            await wait_all_tasks_blocked()
            h.engine.store.slow.set()
            await wait_all_tasks_blocked()
            assert told == [] and h.container.record.sandbox is None

    run_fast(main)
