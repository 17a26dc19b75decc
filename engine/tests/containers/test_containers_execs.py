"""Execs that end before their start is reported, execs that fail to start, and execs that ended long ago."""

import json
import os
from functools import partial

import pytest
import trio
from engine_fixture import ID, engine_fixture, run_fast
from trio.testing import wait_all_tasks_blocked

from orlop_engine.execs import Execs
from orlop_engine.processes.monitor_client import StartFailed
from orlop_engine.types.containers import ExecConfig
from orlop_monitor.protocol import Attach, ExecExited, Failed, Started, Status
from orlop_sdk import DeadlineExceeded, DriverError, NotFound, users

# --- execs ----------------------------------------------------------------------------------------------------------


def executing(h, monkeypatch):
    monkeypatch.setattr(Execs, "_identity", lambda *of: None)
    monkeypatch.setattr(Execs, "_process", lambda *of: b"{}")
    os.makedirs(h.paths.run_dir(ID), exist_ok=True)
    return h.engine.execs


def test_exec_may_end_before_the_monitor_reports_its_start(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            execs = executing(h, monkeypatch)

            async def exec_(message):
                execs.exited(h.container, ExecExited(message.exec_id, 5, 1))  # before the answer to the start
                return Started(78, 1, 1), None

            h.run.monitor.exec = exec_
            made = execs.create(h.container, ExecConfig(cmd=["true"]))
            await execs.start(made, detach=True, console_size=None)
            assert [action.partition(":")[0] for action in h.engine.actions()][-3:] == [
                "exec_create",
                "exec_start",
                "exec_die",
            ]
            found = execs.get(made)
            assert (found.running, found.exit_code, found.pid) == (False, 5, 78)

    run_fast(main)


def test_an_exec_waits_for_the_adoption_of_its_container(tmp_path, monkeypatch):
    """The adoption removes the files of execs that the monitor does not know."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            execs = executing(h, monkeypatch)
            h.run.monitor.exec = started
            h.run.settled = trio.Event()
            made = execs.create(h.container, ExecConfig(cmd=["true"]))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(execs.start, made, detach=True, console_size=None))
                await wait_all_tasks_blocked()
                assert not any(name.startswith("exec-") for name in os.listdir(h.paths.run_dir(ID)))
                h.run.settled.set()
            assert any(name.startswith("exec-") for name in os.listdir(h.paths.run_dir(ID)))

    run_fast(main)


def test_exec_fails_and_ends_if_its_files_cannot_be_written(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            execs = executing(h, monkeypatch)
            made = execs.create(h.container, ExecConfig(cmd=["true"]))
            os.rmdir(h.paths.run_dir(ID))
            with pytest.raises(DriverError, match="cannot run the exec"):
                await execs.start(made, detach=True, console_size=None)
            assert not execs.get(made).running and not h.container.execs

    run_fast(main)


@pytest.mark.parametrize(("kept", "quiet"), [(False, False), (None, True)])
def test_exec_uses_the_no_new_privileges_setting_of_the_containers_start(tmp_path, monkeypatch, kept, quiet):
    """The default may have changed by a reload. If the row of an older daemon lacks the setting, the
    current default is used. An exec does not need the init program."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch, init=True) as h:
            await h.containers.start(h.container)
            monkeypatch.setenv("PATH", "/nowhere")
            monkeypatch.setattr(Execs, "_identity", lambda *of: users.Identity(0, 0, (), "/"))
            h.container.record.no_new_privileges = kept
            h.engine.config.no_new_privileges = True
            made = h.engine.execs.create(h.container, ExecConfig(cmd=["sh"]))
            found = json.loads(h.engine.execs._process(h.engine.execs.get(made), None))
            assert (found["args"], found["noNewPrivileges"]) == (["sh"], quiet)

    run_fast(main)


def test_ended_execs_are_forgotten_after_a_while(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            execs = executing(h, monkeypatch)

            async def exec_(message):
                return Started(78, 1, 1), None

            h.run.monitor.exec = exec_
            tasks = len(h.engine.nursery.child_tasks)
            for _ in range(20):
                made = execs.create(h.container, ExecConfig(cmd=["true"]))
                await execs.start(made, detach=True, console_size=None)
                execs.exited(h.container, ExecExited(made, 0, 1))
            assert execs.get(made).exit_code == 0
            assert len(h.engine.nursery.child_tasks) == tasks
            await trio.sleep(601)
            execs.create(h.container, ExecConfig(cmd=["true"]))
            assert len(execs.index) == 1

    run_fast(main)


def test_exec_is_shown_as_removable_when_it_is_about_to_be_forgotten(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            execs = executing(h, monkeypatch)
            h.run.monitor.exec = started
            made = execs.create(h.container, ExecConfig(cmd=["sh", "-c", "x"], privileged=True, user="1", detach_keys="a,b"))
            await execs.start(made, detach=True, console_size=None)
            found = execs.get(made)
            assert (execs.is_expiring(found), found.pid) == (False, 78)
            execs.exited(h.container, ExecExited(made, 0, 1))
            assert not execs.is_expiring(found)
            await trio.sleep(301)
            assert execs.is_expiring(found)
            del h.index.by_id[h.container.id]
            with pytest.raises(NotFound, match="No such exec instance"):
                execs.get(made)

    run_fast(main)


async def started(message):
    return Started(78, 1, 1), None


def test_execs_that_the_monitor_does_not_know_are_recorded_as_ended(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            execs = executing(h, monkeypatch)
            h.run.monitor.exec = started
            lost, unreported_exits, kept, idle = (
                execs.create(h.container, ExecConfig(cmd=["sleep", "9"])) for _ in range(4)
            )
            for made in (lost, unreported_exits, kept):
                await execs.start(made, detach=True, console_size=None)
            await trio.sleep(1)
            asked_at = trio.current_time()
            await trio.sleep(1)
            late = execs.create(h.container, ExecConfig(cmd=["sleep", "9"]))
            await execs.start(late, detach=True, console_size=None)
            execs.reconcile(
                h.container, Status("running", 1, execs={kept: 78}, unreported_exits={unreported_exits: 3}), asked_at
            )
            assert (execs.get(unreported_exits).running, execs.get(unreported_exits).exit_code) == (False, 3)
            assert (execs.get(lost).running, execs.get(lost).exit_code) == (False, 255)
            assert h.engine.actions()[-1] == "exec_die"
            assert execs.get(kept).running and execs.get(late).running
            assert execs.get(idle).exit_code is None
            assert h.container.execs == {kept, late, idle}

    run_fast(main)


@pytest.mark.parametrize(
    ("wanted", "attach"),
    [
        ({}, None),
        ({"tty": True}, None),
        ({"attach_stderr": True, "tty": True}, Attach(stderr=True, stdin_once=True, framed=True)),
        ({"attach_stdin": True}, Attach(stdin=True, stdin_once=True, framed=True)),
    ],
)
def test_exec_attaches_only_the_requested_streams(tmp_path, monkeypatch, wanted, attach):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            execs, seen = executing(h, monkeypatch), []

            async def exec_(message):
                seen.append(message)
                return await started(message)

            h.run.monitor.exec = exec_
            made = execs.create(h.container, ExecConfig(cmd=["true"], **wanted))
            await execs.start(made, detach=False, console_size=None, framed=True)
            assert seen[0].attach == attach
            assert seen[0].stdin == bool(attach and attach.stdin)

    run_fast(main)


def test_error_about_a_hanging_runtime_contains_the_command_and_the_deadline(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            execs = executing(h, monkeypatch)

            async def exec_(message):
                raise StartFailed("run the exec", Failed("the runtime failed", status=-9, timed_out=True))

            h.run.monitor.exec = exec_
            made = execs.create(h.container, ExecConfig(cmd=["true"]))
            with pytest.raises(DeadlineExceeded, match="OCI runtime exec failed: true: no answer within 120 s"):
                await execs.start(made, detach=True, console_size=None)
            assert (execs.get(made).running, execs.get(made).exit_code) == (False, 126)

    run_fast(main)
