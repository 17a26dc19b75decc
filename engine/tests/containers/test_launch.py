"""Launch: the requests to the monitor, the commits while the runtime starts, and the reports of the runtime's failures."""

from functools import partial
from types import SimpleNamespace

import pytest
import trio
from engine_fixture import ID, RealLaunch, engine_fixture, no_threads, run_fast
from trio.testing import wait_all_tasks_blocked

from orlop_engine.containers import attach, launch
from orlop_engine.containers.mount_plan import MountPlan
from orlop_engine.containers.record import decode
from orlop_engine.containers.state import Phase, State
from orlop_engine.processes.monitor_client import StartFailed
from orlop_engine.types.containers import LogConfig
from orlop_monitor.protocol import Attach, Failed, Started
from orlop_sdk import Conflict, DriverError, InvalidParameter, Unavailable
from orlop_sdk.idmaps import IdMap, IdRange

OTHER = "d" * 64
FAILED = "failed to create task for container"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run a test with a launch in which only the monitor is replaced by a fake."""

    def run(test, **host):
        async def main():
            async with engine_fixture(tmp_path, None, **host) as h:
                no_threads(monkeypatch)
                await test(h, RealLaunch(h, monkeypatch))

        run_fast(main)

    return run


# --- steps ----------------------------------------------------------------------------------------------------------------


def test_start_is_recorded_while_the_runtime_starts_the_container(start):
    """After a crash, the next daemon adopts the container if the container's row contains the pid of the monitor."""

    async def test(h, real):
        rows = []

        async def slowly(message):
            await wait_all_tasks_blocked()
            row = decode(h.engine.store.rows[ID])
            rows.append((row.started_before, row.monitor_pid))
            return Started(77, 1, 10**9)

        real.hang = slowly
        await h.containers.start(h.container)
        assert rows == [(True, real.monitors[0].pid)]
        real.monitors[0].exit()

    start(test)


def test_start_that_cannot_be_recorded_is_undone(start):
    async def test(h, real):
        h.engine.store.full = True
        with pytest.raises(Unavailable, match="no space left"):
            await h.containers.start(h.container)
        assert real.monitors[0].gone.is_set() and h.container.run is None
        assert (h.container.record.state.phase, h.container.record.started_before) == (Phase.CREATED, False)

    start(test)


@pytest.mark.parametrize("option", [{"privileged": True}, {"network_mode": "host"}, {"pid_mode": "host"}])
def test_start_refuses_options_that_conflict_with_a_user_namespace(start, option):
    """`userns-remap` may have been set after the container was created."""

    async def test(h, real):
        object.__setattr__(h.ports, "ids", IdMap((IdRange(0, 1000, 10),), (IdRange(0, 1000, 10),)))
        with pytest.raises(InvalidParameter, match="user namespaces"):
            await h.containers.start(h.container)
        assert not real.monitors and h.container.run is None

    start(test, **option)


def test_sockets_of_published_ports_are_passed_to_the_monitor(start, monkeypatch):
    async def test(h, real):
        closed, served = [], []

        async def serve(forwards, sockets):
            served.append((forwards, len(sockets), list(closed)))

        made = real.launch

        async def launched(*of, **more):
            monitor, plan = await made(*of, **more)
            monitor.serve = serve
            return monitor, plan

        monkeypatch.setattr(launch.MonitorClient, "launch", launched)
        sockets = [SimpleNamespace(close=partial(closed.append, name)) for name in "ab"]
        h.engine.networks.plan_made = SimpleNamespace(sockets=sockets, forwards=["f"])
        await h.containers.start(h.container)
        assert served == [(["f"], 2, [])] and closed == ["a", "b"], "closed here once the monitor has them"
        real.monitors[0].exit()

    start(test)


def test_dns_names_can_be_resolved_before_the_container_runs(start, monkeypatch):
    async def test(h, real):
        order = []

        async def answer(ports, container):
            order.append("names")

        async def begin(message):
            order.append("runs")
            return Started(77, 1, 10**9)

        monkeypatch.setattr(launch.netfiles, "answer_names", answer)
        real.hang = begin
        h.engine.networks.plan_made = SimpleNamespace(sockets=[], forwards=[])
        await h.containers.start(h.container)
        assert order == ["names", "runs"]
        real.monitors[0].exit()

    start(test)


def test_missing_apparmor_profile_prevents_the_start(start, monkeypatch):
    async def refuse(host):
        raise InvalidParameter("no such profile")

    async def test(h, real):
        monkeypatch.setattr(launch.apparmor_profile, "ensure_profile", refuse)
        with pytest.raises(InvalidParameter, match="no such profile"):
            await h.containers.start(h.container)
        assert not real.monitors

    start(test)


def test_container_that_shares_another_containers_network_gets_the_same_host_name(start):
    """Both containers share /etc/hosts."""

    async def test(h, real):
        other = h.add("db", OTHER)
        other.record.state, other.record.config.hostname = State(Phase.RUNNING, pid=5), "dbhost"
        h.engine.networks.sandbox_kind = lambda mode: mode
        await h.containers.start(h.container)
        assert h.container.record.config.hostname == "dbhost"
        real.monitors[0].exit()

    start(test, network_mode=f"container:{OTHER}")


def test_clients_that_attached_before_the_start_get_their_streams(start):
    async def test(h, real):
        got = []

        async def client():
            got.append(await attach.join(h.container, Attach()))

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(client)
            await wait_all_tasks_blocked()
            await h.containers.start(h.container)
        run = h.container.run
        assert [joined.run for joined in got] == [run, run] and not h.container.attach_waiters
        assert len(real.monitors[0].attached) == 2
        real.monitors[0].exit()

    start(test)


def test_stream_of_a_client_that_disconnects_during_the_start_is_closed(start, monkeypatch):
    async def test(h, real):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attach.join, h.container, Attach())
            await wait_all_tasks_blocked()
            made = real.launch

            async def launched(*of, **more):
                monitor, plan = await made(*of, **more)
                attach_ = monitor.attach

                async def slowly(request):
                    nursery.cancel_scope.cancel()
                    await trio.sleep(1)
                    return await attach_(request)

                monitor.attach = slowly
                return monitor, plan

            monkeypatch.setattr(launch.MonitorClient, "launch", launched)
            h.ports.background.start(h.containers.start, h.container)
            await trio.sleep_forever()
        await trio.sleep(2)
        (theirs,) = real.monitors[0].attached
        assert await theirs.receive_some() == b"" and h.container.record.state.running
        real.monitors[0].exit()

    start(test)


# --- failures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed", "text"),
    [
        (Failed("", timed_out=True), f"{FAILED}: failed to create shim task: true: no answer within 120 s"),
        (Failed("no such device"), f"{FAILED}: no such device"),
        (Failed("", status=1), f"{FAILED}: failed to create shim task: it failed"),
        (Failed("", log=b"{}"), f"{FAILED}: failed to create shim task: it failed"),
        (Failed("", stderr=b"?"), f"{FAILED}: failed to create shim task: it failed"),
    ],
)
def test_error_about_a_failed_start_contains_the_message_of_the_runtime(start, failed, text):
    async def test(h, real):
        real.start_error = StartFailed("it failed", failed)
        with pytest.raises(DriverError, match=text):
            await h.containers.start(h.container)
        assert h.container.run is None and real.clean == [ID], "the monitor has deleted it"

    start(test)


def test_kill_during_a_start_that_fails_is_answered_at_once(start):
    async def test(h, real):
        begun, now = trio.Event(), []

        async def fail(message):
            begun.set()
            await trio.sleep(1)
            raise Unavailable("its monitor ended")

        async def kill():
            await begun.wait()
            with pytest.raises(Conflict, match="is not running"):
                await h.containers.kill(h.container, "")
            now.append(trio.current_time())

        real.hang = fail
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            with pytest.raises(Unavailable):
                await h.containers.start(h.container)
        assert now == [began + 1]

    start(test)


def test_forced_removal_during_a_start_that_fails_does_not_wait(start):
    async def test(h, real):
        async def fail(message):
            await trio.sleep(1)
            raise Unavailable("its monitor ended")

        real.hang = fail
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing, h)
            await wait_all_tasks_blocked()
            await h.containers.remove(h.container, True, False)
        assert trio.current_time() == began + 1 and not h.engine.store.rows

    async def failing(h):
        with pytest.raises(Unavailable):
            await h.containers.start(h.container)

    start(test)


# --- the request ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["none", "local"])
def test_launch_request_to_the_monitor_contains_mounts_and_log_settings(tmp_path, monkeypatch, driver):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.container.record.host_config.log_config = LogConfig(driver)
            plan = MountPlan(
                [
                    {"type": "bind", "source": "/host", "destination": "/in"},
                    {"type": "tmpfs", "source": "tmpfs", "destination": "/tmp"},
                ]
            )
            request = partial(launch._wanted, h.ports, h.container, await h.engine.drivers.runtime("runc"), "new")
            made = request(plan)
            assert (made.keep, made.stage, made.stubs, made.bound) == (("/host",), "", (), False)
            assert (made.log and (made.log.driver, made.log.options)) == (None if driver == "none" else (driver, {}))
            assert request(MountPlan([], trees=("tree",))).stage == h.paths.stage(ID)

    run_fast(main)
