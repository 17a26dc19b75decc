"""Recovery, when the daemon starts, from operations that a crash interrupted. `./dev crash` tests this end to end."""

import os
from types import SimpleNamespace

import pytest
from engine_fixture import ID, FakeMonitor, engine_fixture, run_fast, surviving_monitor
from trio.testing import wait_all_tasks_blocked

from orlop_engine.containers import restore, run_cleanup, volumes
from orlop_engine.containers.record import MountRecord
from orlop_kernel.store import Delete
from orlop_monitor.protocol import ExecExited
from orlop_sdk import Conflict, DriverError, NotFound


@pytest.mark.parametrize("known", [0, FakeMonitor.pid + 1])
def test_running_container_is_killed_at_daemon_start_if_its_row_does_not_contain_the_run(tmp_path, monkeypatch, known):
    """The run's network is not in the row, and no client was told that the container runs."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.container.record.monitor_pid = known
            monitor = surviving_monitor(h, monkeypatch)
            await restore.restore(h.ports)
            await wait_all_tasks_blocked()
            assert monitor.gone.is_set() and h.container.run is None
            assert h.container.record.state.status == "created"
            assert h.engine.actions() == [] and os.listdir(h.paths.runs_root) == []

    run_fast(main)


@pytest.mark.parametrize("known", [None, FakeMonitor.pid])
def test_running_container_is_adopted_at_daemon_start_if_its_row_contains_the_run(tmp_path, monkeypatch, known):
    """The row of an older daemon has no monitor pid; it is treated as a row that contains the run."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.container.record.monitor_pid = known
            monitor = surviving_monitor(h, monkeypatch)
            await restore.restore(h.ports)
            assert not monitor.gone.is_set() and h.container.record.state.running

    run_fast(main)


def test_running_container_is_adopted_after_a_change_of_the_cgroup_driver(tmp_path, monkeypatch):
    """The container's cgroup parent is no slice, which the new cgroup driver refuses for new containers."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch, cgroup_parent="/mine") as h:
            h.engine.config.cgroup_driver = "systemd"
            monitor = surviving_monitor(h, monkeypatch)
            await restore.restore(h.ports)
            await wait_all_tasks_blocked()
            assert h.container.run.settled.is_set()
            monitor.run = h.container.run
            monitor.exit(3)
            await wait_all_tasks_blocked()
            assert h.container.record.state.exit_code == 3

    run_fast(main)


def test_anonymous_volumes_of_removed_containers_are_removed(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            mounts = [
                MountRecord("volume", "/named", name="named"),
                MountRecord("bind", "/bind", "/"),
                *(MountRecord("volume", f"/{name}", name=name, anonymous=True) for name in ("made", "absent", "shared")),
            ]
            intents, cleared = volumes.note(ID, mounts)
            rows = {put.key: put.value for put in intents}
            rows |= {"volumes:hangs": b'["hangs"]', "volumes:damaged": b"?", "another kind": b"[]"}
            errors = {"absent": NotFound("no"), "shared": Conflict("in use"), "hangs": DriverError("no answer")}
            asked, aside, committed = [], [], []

            async def remove(name):
                asked.append(name)
                if name in errors:
                    raise errors[name]

            async def quarantine(table, key, reason):
                aside.append(key)

            async def commit(operations):
                committed.extend(operations)

            h.engine.volumes = SimpleNamespace(remove=remove)
            h.engine.store = SimpleNamespace(load=lambda table: rows.items(), quarantine=quarantine, commit=commit)
            await volumes.discard_orphans(h.ports)
            assert asked == ["made", "absent", "shared", "hangs"]  # the named volume is kept, because it belongs to the user
            assert committed == cleared == [Delete("intents", f"volumes:{ID}")] and aside == ["volumes:damaged"]
            assert volumes.note(ID, mounts[:2]) == ([], [])

    run_fast(main)


@pytest.mark.parametrize(
    "file, text, frozen",
    [
        ("freezer.state", "FROZEN\n", True),
        ("freezer.state", "FREEZING\n", True),
        ("freezer.state", "THAWED\n", False),
        ("cgroup.freeze", "1\n", True),
        ("cgroup.freeze", "0\n", False),
        ("tasks", "", False),
    ],
)
def test_adopted_container_is_shown_as_paused_if_its_cgroup_is_frozen(tmp_path, monkeypatch, file, text, frozen):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            monitor = surviving_monitor(h, monkeypatch, cgroup=str(tmp_path / "cgroup"))
            (tmp_path / "cgroup").mkdir()
            (tmp_path / "cgroup" / file).write_text(text)
            await restore.restore(h.ports)
            await wait_all_tasks_blocked()
            assert h.container.record.state.paused == frozen and not monitor.gone.is_set()

    run_fast(main)


def test_files_of_execs_of_the_last_daemon_are_removed(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            surviving_monitor(h, monkeypatch, execs={"a" * 64: 100})
            run_dir = h.paths.run_dir(ID)
            for name in ("a" * 16, "b" * 16):
                for suffix in ("json", "pid", "log"):
                    open(f"{run_dir}/exec-{name}.{suffix}", "w").close()
            await restore.restore(h.ports)
            await wait_all_tasks_blocked()
            assert {name[5:21] for name in os.listdir(run_dir) if name.startswith("exec-")} == {"a" * 16}
            h.engine.execs.exited(h.container, ExecExited("a" * 64, 0, 1))
            assert not any(name.startswith("exec-") for name in os.listdir(run_dir))

    run_fast(main)


@pytest.mark.parametrize("left", ["cgroup", "state", ""])
def test_runtime_state_and_cgroup_left_by_a_killed_monitor_are_removed(tmp_path, monkeypatch, left):
    """The monitor reported the exit, and died before the runtime's delete. systemd removes cgroups by itself."""
    cleaned = []

    async def clean(containers, container):
        cleaned.append(container)

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            monkeypatch.setattr(run_cleanup.runtime, "clean", clean)
            monitor = surviving_monitor(h, monkeypatch, cgroup=str(tmp_path / "cgroup"))
            if left == "cgroup":
                (tmp_path / "cgroup").mkdir()
            elif left == "state":
                os.makedirs(f"{h.engine.config.exec_root}/runtime-runc/{h.container.id}")
            monitor.run.monitor = monitor
            monitor.run.finished.set()
            monitor.exit()
            await run_cleanup.clean_up(h.ports, h.container, monitor.run)
            assert cleaned == [h.container] * bool(left)

    run_fast(main)
