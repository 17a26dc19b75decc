"""`GET /info` and `GET /version`. Answers are made from values in memory, without a lock. The first request asks drivers and
programs (the storage driver's status, `programs`). These calls have a deadline, so a driver that hangs delays `docker info`
only briefly."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Protocol

import trio
from msgspec import UNSET, UnsetType

from orlop_engine.config import Config
from orlop_engine.containers import apparmor_profile, devices
from orlop_engine.containers.index import ContainerIndex
from orlop_engine.drivers import Drivers
from orlop_engine.init_programs import find_init
from orlop_engine.system import host
from orlop_engine.system.identity import daemon_id
from orlop_engine.system.programs import Programs
from orlop_engine.types import rfc3339
from orlop_kernel import __version__
from orlop_kernel.config import without_password
from orlop_kernel.events import EventBus
from orlop_sdk import OrlopError, Runtime, Storage, discovery

from . import info_parts
from .wire.system import Component, DeviceInfo, DriverInfo, PluginsInfo, SystemInfo, SystemVersion

__all__ = ["Information"]

_log = logging.getLogger("orlop.system")
_PATIENCE = 3.0
_INDEX = "https://index.docker.io/v1/"
_NO_SWARM = {
    "NodeID": "",
    "NodeAddr": "",
    "LocalNodeState": "inactive",
    "ControlAvailable": False,
    "Error": "",
    "RemoteManagers": None,
}


class Described(Protocol):
    """The parts of an engine that `info` and `version` read."""

    @property
    def config(self) -> Config: ...
    @property
    def drivers(self) -> Drivers: ...
    @property
    def storage(self) -> Storage: ...
    @property
    def storage_name(self) -> str: ...
    @property
    def index(self) -> ContainerIndex: ...
    @property
    def images(self) -> CountedImages: ...
    @property
    def events(self) -> EventBus: ...


class CountedImages(Protocol):
    @property
    def count(self) -> int: ...


class Information:
    """The values that `info` and `version` show; one instance per engine."""

    def __init__(self, engine: Described) -> None:
        self._engine = engine
        self._programs = Programs()
        self._storage_rows: list[tuple[str, str]] | None = None

    @property
    def id(self) -> str:
        return daemon_id(self._engine.config.data_root)

    @cached_property
    def _installed(self) -> dict[str, frozenset[str]]:
        return {kind: frozenset(discovery.installed(kind)) for kind in ("volume", "network", "log")}

    def _plugins(self) -> PluginsInfo:
        """The installed drivers, and those that the daemon uses although no distribution registers their names."""
        used = self._engine.drivers.loaded
        names = {
            kind: sorted({*installed, *(name for key, name in used if key == kind and ":" not in name)})
            for kind, installed in self._installed.items()
        }
        return PluginsInfo(**names, authorization=self._authorization_plugins() or None)

    def _authorization_plugins(self) -> list[str]:
        """The value of the guard's key, or [] if no guard has this key."""
        names = self._engine.config.daemon.items().get("authorization-plugins")
        return list(names) if isinstance(names, tuple) else []

    async def _runtime(self, name: str) -> Runtime | None:
        try:
            return await self._engine.drivers.runtime(name)
        except OrlopError as error:
            _log.warning("cannot read version of runtime %s: %s", name, error)
            return None

    async def _runtime_version(self) -> Mapping[str, str]:
        """The output of the default runtime's `--version`, parsed."""
        runtime = await self._runtime(self._engine.config.effective_runtime)
        return info_parts.parse_runtime_version(await self._programs.runtime_version(runtime) if runtime else "")

    async def _runtime_status(self) -> dict[str, dict[str, str]]:
        """The status of every installed runtime, asked concurrently."""
        found: dict[str, dict[str, str]] = {}

        async def ask(name: str, runtime: Runtime) -> None:
            found[name] = await self._programs.runtime_status(runtime)

        missing = self._missing_runtimes()
        async with trio.open_nursery() as nursery:
            for name in self._engine.config.all_runtimes():
                if name not in missing and (runtime := await self._runtime(name)):
                    nursery.start_soon(ask, name, runtime)
        return found

    async def _storage_status(self) -> list[tuple[str, str]]:
        if self._storage_rows is None:
            try:
                with trio.fail_after(_PATIENCE):
                    self._storage_rows = [(key, value) for key, value in await self._engine.storage.status()]
            except (OrlopError, trio.TooSlowError) as error:
                _log.warning("cannot ask storage driver %s for its status: %s", self._engine.storage_name, error)
                return []
        return self._storage_rows

    async def version(self, newest: str, oldest: str) -> SystemVersion:
        """`GET /version`, with the newest and oldest API version."""
        facts, runtime = host.facts(), await self._runtime_version()
        details = {
            "ApiVersion": newest,
            "Arch": host.architecture(facts.machine),
            "Experimental": str(self._engine.config.experimental).lower(),
            "KernelVersion": facts.kernel,
            "MinAPIVersion": oldest,
            "Os": "linux",
            "PythonVersion": host.python_version(),
        }
        name = self._engine.config.effective_runtime
        return SystemVersion(
            platform={"Name": "Orlop"},
            components=[
                Component(name="Engine", version=__version__, details=details),
                Component(
                    name=name,
                    version=runtime.get("version", "unknown"),
                    details={"GitCommit": runtime.get("commit", ""), "Spec": runtime.get("spec", "")},
                ),
            ],
            version=__version__,
            api_version=newest,
            min_api_version=oldest,
            arch=host.architecture(facts.machine),
            kernel_version=facts.kernel,
        )

    def _drivers(self) -> list[DriverInfo]:
        drivers = self._engine.drivers
        found = []
        for key, factory in sorted(drivers.loaded.items()):
            gate = drivers.gates.get(key)
            degraded = gate.describe() if gate is not None and gate.degraded else UNSET
            found.append(
                DriverInfo(
                    kind=key[0],
                    name=key[1],
                    distribution=factory.distribution,
                    version=factory.version,
                    degraded=degraded,
                )
            )
        return found

    def _missing_runtimes(self) -> list[str]:
        return [name for name, entry in self._engine.config.all_runtimes().items() if shutil.which(entry.path) is None]

    async def _discovered_devices(self) -> list[DeviceInfo] | UnsetType:
        """The CDI devices of this host; UNSET if there are none, as in Docker."""
        found: list[str] = []
        with trio.move_on_after(_PATIENCE):
            directories = self._engine.config.cdi_directories or ()
            found = await trio.to_thread.run_sync(devices.discovered, directories, abandon_on_cancel=True)
        return [DeviceInfo(source="cdi", id=name) for name in found] or UNSET

    async def info(self, version: tuple[int, int]) -> SystemInfo:
        """`GET /info` in the form of an API version."""
        engine, config = self._engine, self._engine.config
        facts, cgroups, counts = host.facts(), host.cgroups(), engine.index.counts()
        forwarding = host.ipv4_forwarding()
        runtime, init = await self._runtime_version(), find_init(config.init_path)
        return SystemInfo(
            id=self.id,
            containers=counts["total"],
            containers_running=counts["running"],
            containers_paused=counts["paused"],
            containers_stopped=counts["stopped"],
            images=engine.images.count,
            driver=engine.storage_name,
            driver_status=await self._storage_status(),
            docker_root_dir=config.data_root,
            plugins=self._plugins(),
            memory_limit=cgroups.memory,
            swap_limit=cgroups.swap,
            cpu_cfs_period=cgroups.cfs_period,
            cpu_cfs_quota=cgroups.cfs_quota,
            cpu_shares=cgroups.shares,
            cpu_set=cgroups.cpuset,
            pids_limit=cgroups.pids,
            ipv4_forwarding=forwarding,
            bridge_nf_iptables=host.bridged_packets_filtered(4) if version < (1, 50) else UNSET,
            bridge_nf_ip6tables=host.bridged_packets_filtered(6) if version < (1, 50) else UNSET,
            oom_kill_disable=cgroups.oom_kill_disable,
            debug=config.debug,
            n_fd=host.open_files(),
            n_goroutines=trio.lowlevel.current_statistics().tasks_living,
            system_time=rfc3339(time.time_ns()),
            logging_driver=config.log_driver,
            cgroup_driver=config.cgroup_driver,
            cgroup_version=cgroups.version,
            n_events_listener=engine.events.listeners,
            kernel_version=facts.kernel,
            operating_system=facts.operating_system,
            os_version=facts.os_version,
            os_type="linux",
            architecture=facts.machine,
            index_server_address=_INDEX,
            registry_config=info_parts.registry(config, version),
            ncpu=facts.cpus,
            mem_total=facts.memory,
            http_proxy=without_password(config.proxies.http_proxy),
            https_proxy=without_password(config.proxies.https_proxy),
            no_proxy=config.proxies.no_proxy,
            name=socket.gethostname(),
            labels=list(config.labels),
            experimental_build=config.experimental,
            server_version=__version__,
            runtimes=info_parts.runtimes(config, await self._runtime_status(), version),
            default_runtime=config.effective_runtime,
            swarm=_NO_SWARM,
            live_restore_enabled=config.live_restore,
            init_binary=os.path.basename(init or config.init_path),
            containerd_commit=info_parts.commit("N/A", version),
            runc_commit=info_parts.commit(runtime.get("commit", ""), version),
            init_commit=info_parts.commit(await self._programs.init_version(init) or "N/A", version),
            security_options=info_parts.security_options(
                config, cgroups, host.seccomp_supported(), apparmor_profile.has_default(), version=version
            ),
            execution_driver="<not supported>" if version < (1, 25) else UNSET,
            product_license="Apache License 2.0",
            default_address_pools=info_parts.address_pools(config),
            firewall_backend={"Driver": "nftables"} if version >= (1, 49) and config.iptables else UNSET,
            cdi_spec_dirs=list(config.cdi_directories or ()),
            discovered_devices=await self._discovered_devices() if version >= (1, 50) else UNSET,
            warnings=info_parts.warnings(config, cgroups, forwarding, self._missing_runtimes(), engine.drivers.degraded()),
            orlop_drivers=self._drivers(),
        )
