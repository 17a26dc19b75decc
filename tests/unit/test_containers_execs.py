"""Execs that end before they have begun, that cannot begin, that have ended long ago."""

import os

import pytest
import trio
from tests.unit.house import ID, house, run_fast

from orlop_kernel.engine.execs import Execs
from orlop_kernel.monitor.protocol import ExecExited, Started
from orlop_kernel.spi import DriverError
from orlop_kernel.types.containers import ExecConfig

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
