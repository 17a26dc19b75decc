"""Parsing the output of ps, and `docker top`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from engine_fixture import asynced
from trio.testing import MockClock

from orlop_engine.containers import processes
from orlop_engine.containers.paths import ContainerPaths
from orlop_engine.containers.processes import parse
from orlop_sdk import Conflict, DriverError, Outcome


def test_threads_are_listed_after_their_process() -> None:
    """With the option `m`, the lines of threads have no pid. They belong to the process in the last line that has a pid."""
    output = (
        "  PID TTY STAT TIME COMMAND\n 1 ? - 0:00 init\n - - S 0:00 -\n 7 ? - 0:00 sleep  40\n - - S 0:00 -\n 8 ? - 0:00 x\n"
    )
    found = parse(output, [7])
    assert found.rows == [["7", "?", "-", "0:00", "sleep 40"], ["-", "-", "S", "0:00", "-"]]


def test_blanks_in_the_last_column_are_collapsed_as_by_dockerd() -> None:
    assert parse("PID CMD\n5   \\_ a  b\n\n", [5]).rows == [["5", "\\_ a b"]]


def _running() -> tuple[Any, Any]:
    """The `Ports`, and a container that is running according to its record."""
    record = SimpleNamespace(state=SimpleNamespace(running=True, restarting=False), runtime=("runc", ""))
    runtime = SimpleNamespace(processes=lambda _: None)
    ports = SimpleNamespace(drivers=SimpleNamespace(runtime=asynced(runtime)), paths=ContainerPaths("/data", "/exec"))
    return ports, SimpleNamespace(id="c", record=record, run=None)


@pytest.mark.parametrize(
    ("listed", "error"),
    [(b"null", Conflict), (b"[]", Conflict), (b"{}", DriverError), (DriverError("container does not exist"), DriverError)],
)
def test_empty_process_list_means_that_the_container_has_ended(
    monkeypatch: pytest.MonkeyPatch, listed: bytes | Exception, error: type[Exception]
) -> None:
    """runc writes `null` when no process is left, and the exit is not recorded yet."""

    async def check(*_: Any, **__: Any) -> Outcome:
        if isinstance(listed, Exception):
            raise listed
        return Outcome(0, listed)

    monkeypatch.setattr(processes.commands, "check", check)
    monkeypatch.setattr(processes, "task", lambda *_: None)
    with pytest.raises(error):
        trio.run(processes.processes, *_running(), "-ef")


@pytest.mark.parametrize(("ends", "error"), [(True, Conflict), (False, DriverError)])
def test_failed_process_list_is_a_conflict_if_the_container_exits_within_a_moment(
    monkeypatch: pytest.MonkeyPatch, ends: bool, error: type[Exception]
) -> None:
    """A failure of the runtime is reported, unless the container exits within a moment."""

    async def check(*_: Any, **__: Any) -> Outcome:
        raise DriverError("container does not exist")

    monkeypatch.setattr(processes.commands, "check", check)
    monkeypatch.setattr(processes, "task", lambda *_: None)
    ports, container = _running()

    async def main() -> None:
        container.run = SimpleNamespace(finished=trio.Event())
        async with trio.open_nursery() as nursery:
            if ends:
                nursery.start_soon(_set_later, container.run.finished)
            with pytest.raises(error):
                await processes.processes(ports, container, "-ef")

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def _set_later(event: trio.Event) -> None:
    await trio.sleep(0.1)
    event.set()


def test_process_list_for_restricted_clients_contains_only_processes_of_the_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, ...]] = []
    answers = {"refused": Outcome(1, b"", b"ps: -q cannot be combined"), "ended": Outcome(1, b"UID PID CMD\n")}

    async def ps(*arguments: str) -> Outcome:
        asked.append(arguments)
        return answers[state] if arguments[-1].startswith("-q") else Outcome(0, b"UID PID CMD\nroot 7 all of the host's\n")

    async def check(*_: Any, **__: Any) -> Outcome:
        return Outcome(0, b"[7]")

    monkeypatch.setattr(processes, "_ps", ps)
    monkeypatch.setattr(processes.commands, "check", check)
    monkeypatch.setattr(processes, "task", lambda *_: None)
    ports, container = _running()

    async def listed(apart: bool) -> Any:
        return (await processes.processes(ports, container, "-ef", apart=apart)).rows

    state = "refused"
    assert trio.run(listed, False) == [["root", "7", "all of the host's"]]
    asked.clear()
    with pytest.raises(DriverError, match="-q cannot be combined"):
        trio.run(listed, True)
    state = "ended"
    assert trio.run(listed, True) == []
    assert asked == [("-ef", "-q7")] * 2


def test_output_of_ps_without_a_pid_column_is_an_error() -> None:
    with pytest.raises(DriverError, match="Couldn't find PID field in ps output"):
        parse("CMD\nsleep\n", [1])
