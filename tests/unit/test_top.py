"""What is made of the output of ps."""

from __future__ import annotations

import pytest

from orlop_kernel.engine.top import parse
from orlop_kernel.spi import DriverError


def test_threads_follow_their_process() -> None:
    """With `m` the lines of threads have no pid: those behind a process of the container are its."""
    output = (
        "  PID TTY STAT TIME COMMAND\n 1 ? - 0:00 init\n - - S 0:00 -\n 7 ? - 0:00 sleep  40\n - - S 0:00 -\n 8 ? - 0:00 x\n"
    )
    found = parse(output, [7])
    assert found.processes == [["7", "?", "-", "0:00", "sleep 40"], ["-", "-", "S", "0:00", "-"]]


def test_the_last_column_has_single_blanks_as_dockerds() -> None:
    assert parse("PID CMD\n5   \\_ a  b\n\n", [5]).processes == [["5", "\\_ a b"]]


def test_no_pid_no_list() -> None:
    with pytest.raises(DriverError, match="Couldn't find PID field in ps output"):
        parse("CMD\nsleep\n", [1])
