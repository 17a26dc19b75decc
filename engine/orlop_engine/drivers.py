"""The drivers in use: found by name on first need, made once, kept for the daemon's life.

Every driver call that may reach the machine goes through `Deadlines`, so that a driver that hangs, or raises what it should
not, makes one operation fail with a message and nothing else.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import shutil
from collections.abc import Callable
from typing import Any, cast

import trio

from orlop_kernel.config import Config
from orlop_kernel.failures import as_orlop_error
from orlop_sdk import (
    DeadlineExceeded,
    DriverError,
    InvalidParameter,
    LogDriver,
    NetworkContext,
    NetworkDriver,
    NotFound,
    OrlopError,
    Runtime,
    RuntimeContext,
    Storage,
    StorageContext,
    VolumeContext,
    VolumeDriver,
    discovery,
)

__all__ = ["DRIVER_DEADLINE", "Drivers"]

_log = logging.getLogger("orlop.drivers")

DRIVER_DEADLINE = 60.0


class DeadlineProxy:
    """Stands in front of a driver object: the same methods; those that are coroutines have a deadline and raise nothing but
    `OrlopError`."""

    def __init__(self, driver: Any, label: str, seconds: float = DRIVER_DEADLINE) -> None:
        self._driver, self._label, self._seconds = driver, label, seconds

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._driver, name)
        if inspect.iscoroutinefunction(found):
            found = self._bounded(name, found)
            setattr(self, name, found)
        return found

    def _bounded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        async def bounded(*args: Any, **kwargs: Any) -> Any:
            what = f"cannot {name.replace('_', ' ')}: {self._label}"
            with trio.move_on_after(self._seconds):
                try:
                    return await call(*args, **kwargs)
                except OrlopError:
                    raise
                except Exception as error:
                    raise as_orlop_error(error, f"{what} failed") from error
            raise DeadlineExceeded(f"{what} gave no answer in {self._seconds:g} s")

        return bounded


def _directory(root: str, name: str, own: dict[str, str], others: str, mode: int) -> str:
    """A driver's, made, that no other lists or sweeps: one in the tree may have its `own`."""
    path = os.path.join(root, own.get(name) or os.path.join(others, name))
    for each in (os.path.dirname(path), path):
        os.makedirs(each, mode, exist_ok=True)
    return path


def _build(factory: discovery.Factory, context: Callable[[], Any] | None, what: str) -> Any:
    try:
        return factory.make(context()) if context else factory.make()
    except (OSError, ValueError) as error:
        raise DriverError(f"cannot use {what}: {error}") from error


class Drivers:
    """What daemon.json and requests select. `loaded` lists the factories for `info`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.loaded: dict[tuple[str, str], discovery.Factory] = {}
        self._made: dict[tuple[str, str], Any] = {}

    def _make(self, kind: str, name: str, context: Callable[[], Any] | None, label: str) -> Any:
        found = self._made.get((kind, name))
        if found is None:
            factory = discovery.find(kind, name)
            found = DeadlineProxy(_build(factory, context, f'{kind} driver "{name}"'), label)
            self.loaded[kind, name] = factory
            self._made[kind, name] = found
        return found

    def storage(self, name: str) -> Storage:
        def context() -> StorageContext:
            root = os.path.join(self.config.data_root, name)
            os.makedirs(root, mode=0o710, exist_ok=True)
            return StorageContext(root, self.config.storage_options(name))

        return cast("Storage", self._make("storage", name, context, f'storage driver "{name}"'))

    def log(self, name: str) -> LogDriver:
        """A log driver; `InvalidParameter` for an unknown name, as it comes from requests."""
        try:
            return cast("LogDriver", self._make("log", name, None, f'log driver "{name}"'))
        except NotFound as error:
            _log.info("%s", error)  # says which there are; clients compare Docker's sentence as a whole
            raise InvalidParameter(f'error looking up logging plugin {name}: plugin "{name}" not found') from None

    async def network(self, name: str) -> NetworkDriver:
        def context() -> NetworkContext:
            config = self.config
            state = _directory(config.exec_root, name, {"bridge": "network"}, "network-drivers", 0o700)
            return NetworkContext(
                instance=config.instance,
                default_bridge=config.bridge_name,
                state_dir=state,
                mtu=config.mtu,
                iptables=config.iptables,
                ip_forward=config.ip_forward,
            )

        if ("network", name) not in self._made:
            # On a thread: what drivers import (pyroute2, 0.1 s) must not hold up every request.
            await trio.to_thread.run_sync(self._preload, "network", name)
        return cast("NetworkDriver", self._make("network", name, context, f'network driver "{name}"'))

    @staticmethod
    def _preload(kind: str, name: str) -> None:
        try:
            discovery.find(kind, name)
        except OrlopError:
            pass  # said by who needs it, in its own place

    async def volume(self, name: str) -> VolumeDriver:
        def context() -> VolumeContext:
            return VolumeContext(_directory(self.config.data_root, name, {"local": "volumes"}, "volume-drivers", 0o710))

        return cast("VolumeDriver", self._make("volume", name, context, f'volume driver "{name}"'))

    def runtime(self, name: str) -> Runtime:
        """A runtime of daemon.json. Its `runtimeType` names the driver; without one it has runc's command line, and that
        driver's."""
        entry = self.config.all_runtimes().get(name)
        if entry is None:
            known = ", ".join(sorted(self.config.all_runtimes()))
            raise InvalidParameter(f"unknown or invalid runtime name: {name} (configured: {known})")

        def context() -> RuntimeContext:
            path = shutil.which(entry.path) if entry.path else ""
            if path is None:
                raise InvalidParameter(
                    f'cannot use runtime "{name}": {entry.path} is not installed (not an executable on PATH); '
                    "install it or name its path under runtimes in daemon.json"
                )
            root = os.path.join(self.config.exec_root, f"runtime-{name}")
            os.makedirs(root, mode=0o700, exist_ok=True)
            return RuntimeContext(name, path, root, tuple(entry.runtime_args), self.config.cgroup_driver == "systemd")

        found = self._made.get(("runtime", name))
        if found is None:
            factory = discovery.find("runtime", entry.runtime_type or "runc")
            found = _build(factory, context, f'runtime "{name}"')
            self.loaded["runtime", name] = factory
            self._made["runtime", name] = found
        return cast("Runtime", found)

    def reconfigure(self, config: Config) -> None:
        """Take a reloaded configuration; runtimes are looked up anew."""
        self.config = config
        for key in [key for key in self._made if key[0] == "runtime"]:
            del self._made[key]

    async def close(self) -> None:
        for (kind, _), driver in self._made.items():
            if kind == "network":
                await driver.close()
