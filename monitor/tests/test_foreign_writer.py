"""Third-party log writers that hang, raise or report false values: the monitor's calls end, and lost entries are counted."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from orlop_monitor import foreign_writer
from orlop_monitor.foreign_writer import ForeignWriter, interrupted
from orlop_monitor.logs import LogSink
from orlop_sdk.errors import DriverError
from orlop_sdk.log import LogBlock

BLOCKS = [LogBlock("stdout", b"a\nb\n", 1)]


class Writer:
    """A writer with one fault. `calls` counts the calls of `write`."""

    dropped: Any = 0
    full: Any = False

    def __init__(self, fault: Callable[[], Any] = lambda: None) -> None:
        self.fault = fault
        self.calls = 0

    def write(self, blocks: Sequence[LogBlock]) -> None:
        self.calls += 1
        self.fault()

    def close(self) -> None:
        self.fault()


def hang() -> None:
    time.sleep(100)


def hang_stubbornly() -> None:
    """Hangs, and catches each exception that interrupts the wait."""
    for _ in range(3):
        try:
            time.sleep(100)
        except Exception:
            pass


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_writer, "_CALL", 0.05)
    monkeypatch.setattr(foreign_writer, "_AGAIN", 0.05)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A fake clock for `foreign_writer`. The test sets the time."""
    time_now = [100.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return time_now[0]

    monkeypatch.setattr(foreign_writer, "time", Clock)
    return time_now


@pytest.mark.parametrize("fault", [hang, hang_stubbornly])
def test_hanging_write_is_interrupted(fault: Callable[[], None]) -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(DriverError, match=r'^log driver "mine" did not write in 0.05 s$'):
        ForeignWriter(Writer(fault), 'log driver "mine"').write(BLOCKS)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_hanging_close_is_interrupted() -> None:
    with pytest.raises(DriverError, match="did not close the log"):
        ForeignWriter(Writer(hang), "x").close()


def test_pause_before_the_next_call_of_a_hanging_writer_doubles_up_to_60_seconds(now: list[float]) -> None:
    def slow() -> None:
        now[0] += 0.1

    inner = Writer(slow)
    writer = ForeignWriter(inner, "x")

    def hangs() -> None:
        slow()
        raise DriverError("interrupted")

    inner.fault = hangs
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        with pytest.raises(DriverError, match="interrupted"):
            writer.write(BLOCKS)
        now[0] += pause - 0.01
        calls = inner.calls
        with pytest.raises(DriverError, match=r"^x did not write in 0.05 s$"):
            writer.write(BLOCKS)
        assert inner.calls == calls
        now[0] += 0.02
    inner.fault = lambda: None
    writer.write(BLOCKS)
    inner.fault = hangs
    with pytest.raises(DriverError, match="interrupted"):
        writer.write(BLOCKS)
    with pytest.raises(DriverError, match="did not write"):
        writer.write(BLOCKS)


def test_writer_that_catches_the_interruption_is_not_called_during_the_next_pause() -> None:
    def swallow() -> None:
        try:
            hang()
        except BaseException:
            pass

    inner = Writer(swallow)
    writer = ForeignWriter(inner, "x")
    writer.write(BLOCKS)
    with pytest.raises(DriverError, match="did not write"):
        writer.write(BLOCKS)
    assert inner.calls == 1


def test_writer_properties_that_raise_or_have_a_wrong_type_cause_no_error() -> None:
    class Liar(Writer):
        raises = False

        @property
        def full(self) -> Any:
            if self.raises:
                raise SystemExit(3)
            return "yes"

        dropped = "many"

    inner = Liar()
    writer = ForeignWriter(inner, "x")
    writer.write(BLOCKS)
    assert (writer.full, writer.dropped) == (True, 0)
    inner.raises = True
    assert not writer.full


def test_writer_whose_property_full_hangs_is_treated_as_not_full() -> None:
    class Hangs(Writer):
        slow = False

        @property
        def full(self) -> bool:
            if self.slow:
                hang()
            return True

    inner = Hangs()
    writer = ForeignWriter(inner, "x")
    inner.slow = True
    assert not writer.full


def test_entries_of_a_failed_write_and_entries_that_the_writer_dropped_count_as_lost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    inner = Writer()
    sink = LogSink(ForeignWriter(inner, "x"))
    sink.write("stdout", b"well\n", 1)
    assert (sink.lost, sink.reason) == (0, "")
    inner.dropped = 4
    sink.write("stdout", b"well\n", 1)
    assert (sink.lost, sink.reason) == (4, "")

    def fails() -> None:
        raise ValueError("out of order")

    inner.fault = fails
    sink.write("stdout", b"one\ntwo\n", 1)
    sink.write("stderr", b"three\n", 1)
    assert (sink.lost, sink.reason) == (7, "ValueError: out of order")
    assert capsys.readouterr().err == "log writer: ValueError: out of order\n"


def test_alarm_signal_that_arrives_after_the_call_is_ignored() -> None:
    with interrupted(100, "late"):
        handler = signal.getsignal(signal.SIGALRM)
    assert callable(handler)
    handler(signal.SIGALRM, None)
