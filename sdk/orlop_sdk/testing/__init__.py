"""For driver authors: a conformance suite and a verified fake for each kind of driver, and a throwaway engine.
Versioned with the contracts.

    from orlop_sdk.testing import StorageSuite

The import of this package imports no other modules. The first access to one of its names imports the name's module, and
thereby pytest and trio. The daemon never uses these names. The docstring of each suite's module says which fixtures a
subclass overrides and which tests need root.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engines import Engine, EngineError, EngineUnavailable, engine
    from .log import FakeLog, LogSuite, LogWriterSuite
    from .log_services import LogServiceSuite, RecordingService
    from .network import Factory as NetworkFactory
    from .network import FakeNetwork, NetworkSuite, in_own_network, own_namespace
    from .network import Main as NetworkMain
    from .runtime import FakeRuntime, RuntimeSuite, busybox_root, oci_process, oci_spec
    from .storage import Factory as StorageFactory
    from .storage import FakeStorage, StorageSuite, unpack_members
    from .volume import Factory as VolumeFactory
    from .volume import FakeVolume, VolumeSuite

__all__ = [
    "Engine",
    "EngineError",
    "EngineUnavailable",
    "FakeLog",
    "FakeNetwork",
    "FakeRuntime",
    "FakeStorage",
    "FakeVolume",
    "LogServiceSuite",
    "LogSuite",
    "LogWriterSuite",
    "NetworkFactory",
    "NetworkMain",
    "NetworkSuite",
    "RecordingService",
    "RuntimeSuite",
    "StorageFactory",
    "StorageSuite",
    "VolumeFactory",
    "VolumeSuite",
    "busybox_root",
    "engine",
    "in_own_network",
    "oci_process",
    "oci_spec",
    "own_namespace",
    "unpack_members",
]

_NAMES = {
    "engines": "Engine EngineError EngineUnavailable engine",
    "log": "FakeLog LogSuite LogWriterSuite",
    "log_services": "LogServiceSuite RecordingService",
    "network": "FakeNetwork NetworkSuite in_own_network own_namespace",
    "runtime": "FakeRuntime RuntimeSuite busybox_root oci_process oci_spec",
    "storage": "FakeStorage StorageSuite unpack_members",
    "volume": "FakeVolume VolumeSuite",
}
_HOME = {name: (module, name) for module, names in _NAMES.items() for name in names.split()} | {
    "NetworkFactory": ("network", "Factory"),
    "NetworkMain": ("network", "Main"),
    "StorageFactory": ("storage", "Factory"),
    "VolumeFactory": ("volume", "Factory"),
}

if (_pytest := sys.modules.get("pytest")) is not None:
    # pytest rewrites asserts in test files, and in modules that are registered before their import. Without the rewriting, a
    # failure of a suite would show no values.
    _suites = (f"{__name__}.{module}" for module in _NAMES)
    _pytest.register_assert_rewrite(*(suite for suite in _suites if suite not in sys.modules))


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, original = _HOME[name]
    value = getattr(import_module(f"{__name__}.{module}"), original)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
