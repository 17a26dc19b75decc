"""Log drivers that raise, hang or return nonsense when a log is opened."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from orlop_monitor import logs
from orlop_monitor.foreign_writer import ForeignWriter
from orlop_monitor.protocol import Log
from orlop_sdk import discovery
from orlop_sdk.discovery import Factory
from orlop_sdk.errors import DriverError
from orlop_sdk.log import LogBlock, LogInfo
from orlop_sdk.testing.log import FakeLog

INFO = LogInfo("c", "c", "i", "i", "true", "2026-01-01T00:00:00Z", "/nowhere")
LOG = Log("mine", INFO, {})


class Mine(FakeLog):
    def __init__(self, open_writer: Callable[[], Any]) -> None:
        super().__init__()
        self._open = open_writer

    def open_writer(self, info: Any, options: Any) -> Any:
        return self._open()


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    def use(open_writer: Callable[[], Any]) -> None:
        monkeypatch.setattr(logs, "_factories", {"mine": Factory("log", "mine", lambda: Mine(open_writer), 1, "mine", "1")})

    return use


def test_hanging_open_of_a_log_is_interrupted(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_OPENING", 0.05)
    before = signal.getsignal(signal.SIGALRM)
    driver(lambda: time.sleep(100))
    with pytest.raises(DriverError, match=r'log driver "mine" did not open the log in 0.05 s'):
        logs.open_log(LOG)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize("is_own", [True, False])
def test_only_writers_of_third_party_drivers_have_a_deadline(driver: Any, is_own: bool) -> None:
    driver(lambda: FakeLog().open_writer(INFO, {}))
    sink = logs.open_log(Log("mine", INFO, {}, own=("mine",) if is_own else ("other",)))
    assert isinstance(sink._writers[0], ForeignWriter) is not is_own
    sink.close()


@pytest.mark.parametrize("writer", [None, {}, object()], ids=["None", "dict", "object"])
def test_log_writer_that_lacks_a_method_of_the_protocol_is_refused(driver: Any, writer: object) -> None:
    driver(lambda: writer)
    with pytest.raises(DriverError, match=f"returned {type(writer).__name__}, which lacks `write` of LogWriter"):
        logs.open_log(LOG)


@pytest.mark.parametrize("is_preloaded", [True, False])
def test_driver_that_imports_trio_is_refused(monkeypatch: pytest.MonkeyPatch, is_preloaded: bool) -> None:
    def find(kind: str, name: str) -> Factory:
        sys.modules["trio_of_this_test"] = ModuleType("trio")
        return Factory(kind, name, FakeLog, 1, "mine", "1")

    monkeypatch.setattr(logs, "_TRIO", "trio_of_this_test")
    monkeypatch.setattr(logs, "_factories", {})
    monkeypatch.setattr(logs, "_refused", {})
    monkeypatch.setattr(discovery, "find", find)
    try:
        if is_preloaded:
            logs.preload(["mine"])
        with pytest.raises(DriverError, match='log driver "mine": its module imports trio'):
            logs.open_log(LOG)
    finally:
        del sys.modules["trio_of_this_test"]


def test_system_exit_of_a_log_driver_does_not_end_the_zygote(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def find(kind: str, name: str) -> Factory:
        raise SystemExit(3)

    monkeypatch.setattr(discovery, "find", find)
    logs.preload(["mine"])
    assert "cannot preload log driver mine: 3" in capsys.readouterr().err


def test_system_exit_of_a_log_writer_does_not_end_the_monitor(capsys: Any) -> None:
    class Exits:
        def write(self, blocks: list[LogBlock]) -> None:
            raise SystemExit(3)

        def close(self) -> None:
            raise SystemExit(4)

    sink = logs.LogSink(Exits())  # type: ignore[arg-type]
    sink.write("stdout", b"a\nb\n", 1)
    sink.close()
    assert (sink.lost, sink.reason) == (2, "SystemExit: 3")
    assert "SystemExit: 3" in capsys.readouterr().err
