"""Start, restart and rename: refusals, events, recorded values, and Docker's exit codes for a failed start."""

from types import SimpleNamespace

import pytest
import trio
from engine_fixture import ID, SANDBOX, engine_fixture, no_threads, run_fast
from trio.testing import wait_all_tasks_blocked

from orlop_engine.containers import emulation
from orlop_engine.containers.record import decode
from orlop_engine.containers.state import Phase
from orlop_engine.types.containers import Healthcheck, RestartPolicy
from orlop_sdk import Conflict, DriverError, InvalidParameter, NotFound

OTHER = "d" * 64


def row(h):
    return decode(h.engine.store.rows[h.container.id])


# --- start ----------------------------------------------------------------------------------------------------------


def test_start_records_the_pid_of_the_container(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await wait_all_tasks_blocked()
            assert (row(h).state.phase, row(h).state.pid) == (Phase.RUNNING, 77)

    run_fast(main)


def test_start_waits_until_the_starting_daemon_has_started_a_needed_container(tmp_path, monkeypatch):
    """A starting daemon is about to start a container that the new container needs. The start of the new container waits for
    that start."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch, network_mode=f"container:{OTHER}") as h:
            h.add("db", OTHER).owed_start = tried = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(h.containers.start, h.container)
                await trio.sleep(1)
                assert not h.launched
                tried.set()
            assert len(h.launched) == 1

    run_fast(main)


def test_container_that_is_being_removed_is_not_started(tmp_path, monkeypatch):
    """A forced removal has begun, and the container still runs."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            with h.container.publish() as draft:
                draft.removing = True
            with pytest.raises(Conflict, match="is marked for removal and cannot be started"):
                await h.containers.start(h.container)

    run_fast(main)


@pytest.mark.parametrize("operation", ["start", "restart"])
def test_start_by_a_user_resets_the_restart_delay_and_the_restart_count(tmp_path, monkeypatch, operation):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, restart_policy=RestartPolicy(name="on-failure")) as h:
            h.container.restart_delay = 3.0
            with h.container.publish() as draft:
                draft.restart_count = 5
            await (h.containers.start(h.container) if operation == "start" else h.containers.restart(h.container, "", None))
            assert (h.container.restart_delay, h.container.record.restart_count) == (0, 0)

    run_fast(main)


def test_start_of_a_container_for_another_architecture_needs_an_emulator(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            no_threads(monkeypatch)

            def refuse(architecture):
                raise InvalidParameter(f"no emulator for {architecture}")

            monkeypatch.setattr(emulation, "check", refuse)
            h.container.record.emulated = "arm64"
            with pytest.raises(InvalidParameter, match="no emulator for arm64"):
                await h.containers.start(h.container)
            assert not h.launched and h.container.record.state.phase is Phase.CREATED

    run_fast(main)


def test_health_checks_begin_when_the_container_starts(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.container.record.config.healthcheck = Healthcheck(test=["CMD", "true"])
            await h.containers.start(h.container)
            await wait_all_tasks_blocked()
            assert h.container.health.status == "starting"

    run_fast(main)


def test_start_and_exit_publish_network_events(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.engine.networks.networks_of = lambda sandbox: [SimpleNamespace(id="n", name="net", driver="bridge")]
            h.container.record.sandbox = SANDBOX
            await h.containers.start(h.container)
            h.run.monitor.exit(0)
            await h.run.finished.wait()
            events = [(event.action, event.actor_id) for event in h.engine.told._waiting if event.type == "network"]
            assert events == [("connect", "n"), ("disconnect", "n")]

    run_fast(main)


TASK = "failed to create task for container: "


@pytest.mark.parametrize(
    ("text", "kind", "code", "more"),
    [
        (f'{TASK}exec: "/x": permission denied', InvalidParameter, 126, ""),
        (f'{TASK}exec: "/": is a directory', InvalidParameter, 126, ": permission denied"),
        (
            f"{TASK}mount /a to /b: not a directory",
            InvalidParameter,
            127,
            ": Are you trying to mount a directory onto a file",
        ),
        (f'{TASK}exec: "x": executable file not found in $PATH', InvalidParameter, 127, ""),
        (f"{TASK}stat /x: no such file or directory", InvalidParameter, 127, ""),
        (f"{TASK}it is late", DriverError, 128, ""),
        ("cannot attach it to network n: permission denied", DriverError, 128, ""),
    ],
)
def test_failed_start_has_dockers_exit_code(tmp_path, monkeypatch, text, kind, code, more):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.launch_error = DriverError(text)
            with pytest.raises((InvalidParameter, DriverError)) as caught:
                await h.containers.start(h.container)
            assert type(caught.value) is kind and str(caught.value).startswith(text + more)
            state = h.container.record.state
            assert (state.exit_code, state.error.startswith(text + more)) == (code, True)
            assert len(state.error) == len(text) or more
            assert row(h).state == state, "inspect shows it after a restart of the daemon, too"

    run_fast(main)


def test_container_with_automatic_removal_is_removed_if_its_start_fails(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, auto_remove=True) as h:
            h.launch_error = DriverError("no")
            with pytest.raises(DriverError):
                await h.containers.start(h.container)
            with trio.fail_after(5):
                assert await h.container.removed.get() == 128
            assert not h.engine.store.rows

    run_fast(main)


def test_container_has_no_current_run_after_the_exit(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            h.run.monitor.exit(0)
            await wait_all_tasks_blocked()
            assert h.container.run is None

    run_fast(main)


# --- restart --------------------------------------------------------------------------------------------------------


def test_restart_publishes_an_event_for_each_step(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await h.containers.restart(h.container, "KILL", None)
            assert h.engine.actions() == ["start", "kill", "die", "stop", "start", "restart"]
            h.run.monitor.exit(0)
            await wait_all_tasks_blocked()
            await h.containers.restart(h.container, "", None)
            assert h.engine.actions()[6:] == ["die", "start", "restart"], "nothing was stopped"

    run_fast(main)


def test_second_restart_request_may_shorten_the_timeout_of_the_first(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            await h.containers.start(h.container)
            nursery.start_soon(h.containers.restart, h.container, "", 3600)
            await wait_all_tasks_blocked()
            with trio.fail_after(5):
                await h.containers.restart(h.container, "", 1)
            assert len(h.launched) == 3

    run_fast(main)


# --- rename ---------------------------------------------------------------------------------------------------------


def test_rename_frees_the_old_name(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.rename(h.container, "/new")
            assert h.index.names == {"new": ID} and row(h).name == "new"
            (event,) = [event for event in h.engine.told._waiting if event.type == "container"]
            assert (event.action, event.attributes["oldName"], event.attributes["name"]) == ("rename", "/web", "new")

    run_fast(main)


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        ("", InvalidParameter, "Neither old nor new names may be empty"),
        ("web", InvalidParameter, "Renaming a container with the same name as its current name"),
        ("/web", InvalidParameter, "Renaming a container with the same name as its current name"),
        ("a b", InvalidParameter, "Error when allocating new name: Invalid container name"),
        ("db", Conflict, 'Error when allocating new name: Conflict. The container name "/db" is already in use'),
    ],
)
def test_rename_refuses_invalid_and_used_names(tmp_path, monkeypatch, given, kind, text):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.add("db", OTHER)
            with pytest.raises(kind, match=text):
                await h.containers.rename(h.container, given)
            assert h.index.names == {"web": ID, "db": OTHER} and h.container.name == "web"
            assert not h.engine.actions()

    run_fast(main)


def test_container_that_is_being_removed_is_not_renamed(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            with h.container.publish() as draft:
                draft.removing = True
            with pytest.raises(NotFound):
                await h.containers.rename(h.container, "new")

    run_fast(main)


@pytest.mark.parametrize("kind", ["runtime", "log"])
def test_restart_with_a_missing_driver_leaves_the_container_running(tmp_path, monkeypatch, kind):
    async def missing(*_):
        raise InvalidParameter(f"no {kind} driver")

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            run = h.container.run
            setattr(h.engine.drivers, kind, missing)
            with pytest.raises(
                InvalidParameter, match=f"cannot restart container web, which keeps running: no {kind} driver"
            ):
                await h.containers.restart(h.container, "", 0)
            assert h.container.record.state.running and h.container.run is run

    run_fast(main)
