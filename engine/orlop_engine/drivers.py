"""The drivers in use. A driver is found by its name when it is first needed, created once, and kept until the daemon
ends.

Each driver has a gate (see `calls`), even if the driver cannot be loaded. Callers get an object whose calls go through this
gate. If a driver hangs, raises a wrong exception, or lacks a method, only operations that use this driver fail, with a
message that names the driver.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar, cast

import trio

from orlop_engine.calls import DEADLINE, STOPPING, Gate, guard
from orlop_engine.config import Config, RuntimeEntry, defaults
from orlop_sdk import (
    DeadlineExceeded,
    DeferredSync,
    InvalidParameter,
    LayerRebase,
    LayerStream,
    LogDriver,
    NetworkAudit,
    NetworkContext,
    NetworkDriver,
    NotFound,
    OrlopError,
    Runtime,
    RuntimeCheckpoints,
    RuntimeContext,
    RuntimeFeatures,
    Storage,
    StorageAudit,
    StorageContext,
    Unavailable,
    VolumeContext,
    VolumeDriver,
    VolumeMounts,
    discovery,
)

__all__ = ["Drivers", "used_network_drivers"]

T = TypeVar("T")
_Key = tuple[str, str]
_Made = tuple[discovery.Factory, object]
_Check = Callable[[Gate, object], T]

_log = logging.getLogger("orlop.drivers")
_SWITCH = 0.0005  # seconds; the default is 0.005


def _storage(gate: Gate, made: object) -> Storage:
    return cast("Storage", guard(gate, made, Storage, StorageAudit, LayerStream, LayerRebase, DeferredSync))


def _log_driver(gate: Gate, made: object) -> LogDriver:
    return cast("LogDriver", guard(gate, made, LogDriver))


def _network(gate: Gate, made: object) -> NetworkDriver:
    return cast("NetworkDriver", guard(gate, made, NetworkDriver, NetworkAudit))


def _volume(gate: Gate, made: object) -> VolumeDriver:
    return cast("VolumeDriver", guard(gate, made, VolumeDriver, VolumeMounts))


def _runtime(gate: Gate, made: object) -> Runtime:
    return cast("Runtime", guard(gate, made, Runtime, RuntimeFeatures, RuntimeCheckpoints))


def _file_name(name: str) -> str:
    """The name of a driver's directory. DISTRIBUTION:NAME has a colon, which separates paths in mount options."""
    return name.replace(":", "@")


def _directory(root: str, kind: str, name: str, mode: int) -> str:
    """Create the private directory of a driver."""
    path = os.path.join(root, defaults.DIRECTORIES.get((kind, name)) or os.path.join(f"{kind}-drivers", _file_name(name)))
    for each in (os.path.dirname(path), path):
        os.makedirs(each, mode, exist_ok=True)
    return path


def used_network_drivers(exec_root: str) -> set[str]:
    """The names of the network drivers that daemons with this exec-root have loaded since the machine started. These drivers
    may have objects on the host, even if no network with the driver exists, because a daemon died before it stored one."""
    directory = os.path.join(exec_root, "network-drivers")
    if not os.path.isdir(directory):
        return set()
    return {name.replace("@", ":") for name in os.listdir(directory)}


class Drivers:
    """The drivers that daemon.json and requests select. `loaded` lists the factories for `info`; `gates` contains the
    state of each installed driver that was requested at least once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.loaded: dict[_Key, discovery.Factory] = {}
        self.gates: dict[_Key, Gate] = {}
        self._storages: dict[str, Storage] = {}
        self._logs: dict[str, LogDriver] = {}
        self._networks: dict[str, NetworkDriver] = {}
        self._volumes: dict[str, VolumeDriver] = {}
        self._runtimes: dict[str, Runtime] = {}
        self._making: dict[_Key, trio.Lock] = {}
        self._stopping = False

    def degraded(self) -> Iterator[str]:
        """A message for each driver whose calls fail immediately because it did not answer, or failed."""
        return (gate.describe() for _, gate in sorted(self.gates.items()) if gate.degraded)

    def _gate(self, kind: str, name: str) -> Gate:
        gate = self.gates.get((kind, name))
        if gate is None:
            label = f'runtime "{name}"' if kind == "runtime" else f'{kind} driver "{name}"'
            gate = self.gates[kind, name] = Gate(label)
            if self._stopping:
                gate.stop()
        return gate

    @contextmanager
    def _forgotten_if_unknown(self, kind: str, name: str) -> Iterator[Gate]:
        """Remove the gate if no driver with this name is installed. Clients choose the names, so without this the number of
        gates grows without bound."""
        try:
            yield self._gate(kind, name)
        except NotFound:
            self.gates.pop((kind, name), None)
            self._making.pop((kind, name), None)
            raise

    async def _make(self, kind: str, name: str, made: dict[str, T], work: Callable[[], _Made], check: _Check[T]) -> T:
        """Create a driver on a thread, because its imports (pyroute2: 0.1 s) must not delay all requests, and may
        hang."""
        if name not in made:
            with self._forgotten_if_unknown(kind, name) as gate:
                lock = self._making.setdefault((kind, name), trio.Lock())
                with trio.move_on_after(gate.seconds):
                    await lock.acquire()
                if lock.statistics().owner is not trio.lowlevel.current_task():
                    raise DeadlineExceeded(f"cannot use {gate.label}: it was not loaded in {gate.seconds:g} s")
                try:
                    if name not in made:
                        self._keep(kind, name, made, await gate.make(partial(_checked, gate, work, check)))
                finally:
                    lock.release()
        return made[name]

    def _keep(self, kind: str, name: str, made: dict[str, T], found: tuple[discovery.Factory, T]) -> None:
        self.loaded[kind, name], made[name] = found

    def meant(self, kind: str, name: str, made_with: str) -> str:
        """The name of the driver to load. `made_with` is the `origin` of the driver with which a container or volume was
        created, "" if unknown. If another distribution has registered the same name since then, `name` alone would mean its
        driver, or be refused."""
        if not made_with:
            return name
        loaded = self.loaded.get((kind, name))
        if loaded is not None and loaded.origin == made_with:
            return name
        return name if discovery.origin(kind, name) == made_with else made_with

    # --- kinds --------------------------------------------------------------------------------------------------------

    def storage(self, name: str) -> Storage:
        """The storage driver. It is created when the daemon starts."""

        def work() -> _Made:
            factory = _find("storage", name)
            root = os.path.join(self.config.data_root, _file_name(name))
            os.makedirs(root, mode=0o710, exist_ok=True)
            return factory, factory.make(StorageContext(root, self.config.storage_options(factory.name)))

        if name not in self._storages:
            with self._forgotten_if_unknown("storage", name) as gate:
                made = gate.make_blocking(partial(_checked, gate, work, _storage), DEADLINE)
                self._keep("storage", name, self._storages, made)
        return self._storages[name]

    async def log(self, name: str, made_with: str = "") -> LogDriver:
        """A log driver. Raises `InvalidParameter` for an unknown name, because the name comes from a request. `made_with`:
        see `meant`."""
        meant = self.meant("log", name, made_with)
        try:
            return await self._make("log", meant, self._logs, lambda: _plain("log", meant, made_with), _log_driver)
        except NotFound as error:
            if made_with:
                raise InvalidParameter(str(error)) from None
            # The log lists the installed drivers. The answer contains only Docker's message, because clients compare the
            # whole message
            _log.info("%s", error)
            raise InvalidParameter(f'error looking up logging plugin {name}: plugin "{name}" not found') from None

    async def network(self, name: str) -> NetworkDriver:
        def work() -> _Made:
            factory = _find("network", name)
            config = self.config
            context = NetworkContext(
                instance=config.instance,
                default_bridge=config.bridge_name,
                state_dir=_directory(config.exec_root, "network", name, 0o700),
                mtu=config.mtu,
                iptables=config.iptables,
                ip_forward=config.ip_forward,
            )
            return factory, factory.make(context)

        return await self._make("network", name, self._networks, work, _network)

    async def volume(self, name: str, made_with: str = "") -> VolumeDriver:
        """`made_with`: see `meant`. The driver's directory depends on `name`, so that the driver finds its volumes."""
        meant = self.meant("volume", name, made_with)

        def work() -> _Made:
            factory = _find("volume", meant, made_with)
            root = _directory(self.config.data_root, "volume", name, 0o710)
            return factory, factory.make(VolumeContext(root))

        return await self._make("volume", meant, self._volumes, work, _volume)

    async def runtime(self, name: str, made_with: str = "") -> Runtime:
        """A runtime of daemon.json. Its `runtimeType` names the driver; without a `runtimeType`, the driver for runc's
        command line is used. `made_with`: see `meant`. It is ignored if `runtimeType` has another name now."""
        if name in self._runtimes and (not made_with or self.loaded["runtime", name].origin == made_with):
            return self._runtimes[name]
        entry = self.config.all_runtimes().get(name)
        if entry is None:
            known = ", ".join(sorted(self.config.all_runtimes()))
            raise InvalidParameter(f"unknown or invalid runtime name: {name} (configured: {known})")
        wanted = entry.runtime_type or defaults.RUNTIME_DRIVER
        key, driver = name, wanted
        if _plain_name(made_with) != _plain_name(wanted):
            made_with = ""
        elif discovery.origin("runtime", wanted) != made_with:
            key, driver = f"{name} of {made_with}", made_with

        def work() -> _Made:
            return self._make_runtime(name, entry, _find("runtime", driver, made_with))

        try:
            return await self._make("runtime", key, self._runtimes, work, _runtime)
        except NotFound as error:  # after a 404, clients pull the container's image
            raise InvalidParameter(f'cannot use runtime "{name}": {error}') from None

    def _make_runtime(self, name: str, entry: RuntimeEntry, factory: discovery.Factory) -> _Made:
        path = shutil.which(entry.path) if entry.path else ""
        if path is None:
            raise InvalidParameter(
                f'cannot use runtime "{name}": {entry.path} is not installed (not an executable on PATH); '
                "install it or name its path under runtimes in daemon.json"
            )
        root = os.path.join(self.config.exec_root, f"runtime-{name}")
        os.makedirs(root, mode=0o700, exist_ok=True)
        systemd = self.config.cgroup_driver == "systemd"
        return factory, factory.make(RuntimeContext(name, path, root, tuple(entry.runtime_args), systemd))

    def reconfigure(self, config: Config) -> None:
        """Use a reloaded configuration. Runtimes are looked up again."""
        self.config = config
        self._runtimes.clear()
        for key in [key for key in self.gates if key[0] == "runtime"]:
            del self.gates[key]

    def stop(self) -> None:
        """The daemon is stopping, and does not wait for drivers that hang."""
        self._stopping = True
        for gate in self.gates.values():
            gate.stop()

    async def close(self) -> None:
        """Close every network driver, even if another one fails or hangs."""

        async def close(driver: NetworkDriver) -> None:
            try:
                await driver.close()
            except OrlopError as error:
                _log.warning("%s", error)

        for gate in self.gates.values():
            gate.seconds = min(gate.seconds, STOPPING)
        async with trio.open_nursery() as nursery:
            for driver in self._networks.values():
                nursery.start_soon(close, driver)


def _checked(gate: Gate, work: Callable[[], _Made], check: _Check[T]) -> tuple[discovery.Factory, T]:
    factory, made = work()
    gate.origin = factory.origin
    gate.is_own = not _is_foreign(factory)
    if not gate.is_own:
        from orlop_engine.driver_loop import DriverLoop  # imported here, because most daemons do not need it

        gate.loop = gate.loop or DriverLoop(gate.label)
    return factory, check(gate, made)


def _is_foreign(factory: discovery.Factory) -> bool:
    return factory.distribution not in defaults.DISTRIBUTIONS


def _plain_name(name: str) -> str:
    """The name without DISTRIBUTION."""
    return name.rpartition(":")[2]


def _find(kind: str, name: str, made_with: str = "") -> discovery.Factory:
    """Load a driver. If another author wrote it, the interpreter's switch interval is shortened: otherwise a driver that
    computes could keep the GIL for 5 ms, and delay each step of the event loop by this time. `made_with`: see
    `Drivers.meant`."""
    try:
        factory = discovery.find(kind, name)
    except NotFound as error:
        if not made_with:
            raise
        distribution, _, plain = made_with.rpartition(":")
        if discovery.is_finder(kind, distribution):  # it is installed, and looked for the driver outside of Python
            raise Unavailable(str(error)) from None
        raise NotFound(
            f'cannot use {kind} driver "{plain}": the driver that was used at creation '
            f"is of the distribution {distribution}, which is not installed"
        ) from None
    if _is_foreign(factory):
        sys.setswitchinterval(_SWITCH)
    return factory


def _plain(kind: str, name: str, made_with: str) -> _Made:
    factory = _find(kind, name, made_with)
    return factory, factory.make()
