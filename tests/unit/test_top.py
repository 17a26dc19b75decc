"""What is made of the output of ps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from orlop_kernel.engine import top
from orlop_kernel.engine.top import parse
from orlop_kernel.spi import DriverError, Outcome


def test_threads_follow_their_process() -> None:
    """With `m` the lines of threads have no pid: those behind a process of the container are its."""
    output = (
        "  PID TTY STAT TIME COMMAND\n 1 ? - 0:00 init\n - - S 0:00 -\n 7 ? - 0:00 sleep  40\n - - S 0:00 -\n 8 ? - 0:00 x\n"
    )
    found = parse(output, [7])
    assert found.processes == [["7", "?", "-", "0:00", "sleep 40"], ["-", "-", "S", "0:00", "-"]]


def test_the_last_column_has_single_blanks_as_dockerds() -> None:
    assert parse("PID CMD\n5   \\_ a  b\n\n", [5]).processes == [["5", "\\_ a b"]]


def test_ps_is_not_asked_about_all_of_the_host_for_who_may_not_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    answers = {"refused": Outcome(1, b"", b"ps: -q cannot be combined"), "ended": Outcome(1, b"UID PID CMD\n")}

    async def ps(*arguments: str) -> Outcome:
        asked.append(arguments)
        return answers[state] if arguments[-1].startswith("-q") else Outcome(0, b"UID PID CMD\nroot 7 all of the host's\n")

    async def check(*_: Any, **__: Any) -> Outcome:
        return Outcome(0, b"[7]")

    monkeypatch.setattr(top, "_ps", ps)
    monkeypatch.setattr(top.process, "check", check)
    monkeypatch.setattr(top, "task", lambda *_: None)
    record = SimpleNamespace(
        state=SimpleNamespace(running=True, restarting=False), host_config=SimpleNamespace(runtime="runc")
    )
    runtime = SimpleNamespace(processes=lambda _: None)
    room: Any = SimpleNamespace(engine=SimpleNamespace(drivers=SimpleNamespace(runtime=lambda _: runtime)))
    container: Any = SimpleNamespace(id="c", record=record)

    async def listed(apart: bool) -> Any:
        return (await top.processes(room, container, "-ef", apart=apart)).processes

    state = "refused"
    assert trio.run(listed, False) == [["root", "7", "all of the host's"]]
    asked.clear()
    with pytest.raises(DriverError, match="-q cannot be combined"):
        trio.run(listed, True)
    state = "ended"
    assert trio.run(listed, True) == []
    assert asked == [("-ef", "-q7")] * 2


def test_no_pid_no_list() -> None:
    with pytest.raises(DriverError, match="Couldn't find PID field in ps output"):
        parse("CMD\nsleep\n", [1])
