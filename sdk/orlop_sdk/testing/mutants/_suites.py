"""A pytest class for each mutant of one kind, and a class for the driver without a fault. `__main__` starts pytest with this
module, and passes the kind in an environment variable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orlop_sdk import RuntimeContext
from orlop_sdk.testing import log, log_services, network, runtime, storage, volume
from orlop_sdk.testing.mutants import mutants
from orlop_sdk.testing.mutants._log_service import ADDRESS, Lines, lines

__all__ = ["KIND", "SOUND", "suite"]

KIND = "ORLOP_MUTANTS"
SOUND = "TestSound"


def _log(make: Callable[[], Any]) -> type:
    class Suite(log.LogSuite):
        name = "fake"

        @pytest.fixture
        def driver(self) -> Any:
            return make()

    return Suite


def _log_service(make: Callable[[], Any]) -> type:
    class Suite(log_services.LogServiceSuite):
        name = "lines"

        @pytest.fixture
        def driver(self) -> Any:
            return make()

        @pytest.fixture
        def service(self) -> Iterator[log_services.RecordingService]:
            with closing(log_services.RecordingService("tcp", lines)) as service:
                service.options = {ADDRESS: service.address}
                yield service

    return Suite


def _network(make: Callable[..., Any]) -> type:
    class Suite(network.NetworkSuite):
        @pytest.fixture
        def factory(self) -> Any:
            return make

    return Suite


def _runtime(make: Callable[[str], Any]) -> type:
    class Suite(runtime.RuntimeSuite):
        @pytest.fixture
        def driver(self, tmp_path: Path) -> Any:
            (tmp_path / "state").mkdir()
            return make(str(tmp_path / "state"))

    return Suite


def _storage(make: Callable[..., Any]) -> type:
    class Suite(storage.StorageSuite):
        @pytest.fixture
        def factory(self) -> Any:
            return make

    return Suite


def _volume(make: Callable[..., Any]) -> type:
    class Suite(volume.VolumeSuite):
        @pytest.fixture
        def factory(self) -> Any:
            return make

    return Suite


_SUITES: dict[str, tuple[Callable[..., type], Callable[..., Any]]] = {
    "log": (_log, log.FakeLog),
    "log_service": (_log_service, Lines),
    "network": (_network, network.FakeNetwork),
    "runtime": (_runtime, lambda state: runtime.FakeRuntime(RuntimeContext("fake", "fake", state))),
    "storage": (_storage, storage.FakeStorage),
    "volume": (_volume, volume.FakeVolume),
}


def suite(kind: str) -> type:
    """The suite of the driver without a fault."""
    make, sound = _SUITES[kind]
    return make(sound)


class _Impatient:
    @pytest.fixture(autouse=True)
    def short_deadlines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Shorten the deadlines, because some mutants miss them. Tests of the driver without a fault have the usual
        deadlines, because the machine may be busy."""
        monkeypatch.setattr(log, "PATIENCE", 0.5)
        monkeypatch.setattr(log, "PROMPT", 1.0)
        monkeypatch.setattr(log_services, "_PATIENCE", 1.0)
        monkeypatch.setattr(log_services, "_QUICK", 1.0)
        monkeypatch.setattr(runtime, "_HEARD", 2.0)


def _collect() -> None:
    kind = os.environ.get(KIND, "")
    if not kind:
        return
    globals()[SOUND] = suite(kind)
    for number, mutant in enumerate(mutants(kind)):
        made = _SUITES[kind][0](mutant.make)
        globals()[f"Test{number}"] = type(made.__name__, (_Impatient, made), {})


_collect()
