"""The conformance suite of an installed driver, as a pytest class. Only the process of `run` imports this module."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from orlop_sdk import (
    LogDriver,
    NetworkDriver,
    Runtime,
    RuntimeContext,
    StorageContext,
    discovery,
    linux,
)
from orlop_sdk.testing import (
    LogSuite,
    LogWriterSuite,
    NetworkMain,
    NetworkSuite,
    RuntimeSuite,
    StorageSuite,
    VolumeSuite,
    in_own_network,
)

__all__ = ["suite"]

Options = Sequence[tuple[str, str]]


def suite(kind: str, name: str, options: Options = (), path: str = "") -> type:
    """A subclass of the kind's suite for the driver `name`. Loads the driver; errors are raised as by `discovery.find`."""
    return _SUITES[kind](discovery.find(kind, name), options, path)


def _log(found: discovery.Factory, needed: Options, _: str) -> type:
    readable = found.make().capabilities.readable
    base: type[LogWriterSuite] = LogSuite if readable else LogWriterSuite

    class TestDriver(base):  # type: ignore[valid-type, misc]
        name = found.name

        @pytest.fixture
        def driver(self) -> LogDriver:
            made: LogDriver = found.make()
            return made

        @pytest.fixture
        def options(self) -> dict[str, str]:
            return dict(needed)

    return TestDriver


def _storage(found: discovery.Factory, options: Options, _: str) -> type:
    class TestDriver(StorageSuite):
        @pytest.fixture
        def factory(self) -> Callable[[StorageContext], Any]:
            return found.make

        @pytest.fixture
        def context(self, tmp_path: Path) -> StorageContext:
            (tmp_path / "storage").mkdir(0o710)
            return StorageContext(str(tmp_path / "storage"), tuple(options))

    return TestDriver


def _volume(found: discovery.Factory, _options: Options, _: str) -> type:
    class TestDriver(VolumeSuite):
        @pytest.fixture
        def factory(self) -> Any:
            return found.make

    return TestDriver


def _sandbox(found: discovery.Factory) -> str:
    """The value of `sandbox` in the capabilities of a network driver."""
    values: list[str] = []

    async def ask() -> None:
        driver: NetworkDriver = found.make(NetworkSuite().context())
        values.append(driver.capabilities.sandbox)
        await driver.close()

    in_own_network(ask)
    return values[0]


def _network(found: discovery.Factory, _options: Options, _: str) -> type:
    separate = _sandbox(found) == "new"

    class TestDriver(NetworkSuite):
        real = separate

        @pytest.fixture
        def factory(self) -> Any:
            return found.make

        def host(self, main: NetworkMain) -> None:
            if separate:
                in_own_network(main)
            else:
                trio.run(main)

        def look(self, netns: str) -> set[str] | None:
            return _addresses(netns) if separate else None

    return TestDriver


def _addresses(netns: str) -> set[str]:
    with open(netns, "rb") as file, linux.in_network_namespace(file.fileno()):
        argv = ("ip", "-4", "-o", "address", "show", "up")
        text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return {line.split()[3] for line in text.splitlines()}


def _runtime(found: discovery.Factory, _options: Options, path: str) -> type:
    class TestDriver(RuntimeSuite):
        @pytest.fixture
        def driver(self, tmp_path: Path) -> Runtime:
            os.mkdir(tmp_path / "state")
            made: Runtime = found.make(RuntimeContext(found.name, path, str(tmp_path / "state")))
            return made

    return TestDriver


_SUITES: dict[str, Callable[[discovery.Factory, Options, str], type]] = {
    "log": _log,
    "network": _network,
    "runtime": _runtime,
    "storage": _storage,
    "volume": _volume,
}
