"""Settings that must not change if containers keep running while the daemon restarts (live-restore).

The file `<exec-root>/data-root` contains the path of the data root to which the containers below this exec-root belong.
A starting daemon checks this file before any cleanup, because a daemon with another data root does not know these
containers, and would remove them.

Settings that only affect new containers (cgroup driver and parent, default runtime, address pools, log driver, MTU) may
change.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Iterator, Sequence

from orlop_engine.config import Config, defaults
from orlop_engine.networks.ipam import AddressPool, parse_subnet
from orlop_engine.processes import runs
from orlop_kernel.config import ConfigError
from orlop_sdk import NetworkSpec, Subnet, linux

from .container import Container
from .paths import ContainerPaths
from .record import ContainerRecord

__all__ = ["check", "check_at_start"]

_LINK = "com.docker.network.bridge.name"
_SHOWN = 3


def _who(records: Sequence[ContainerRecord]) -> str:
    names = [record.name for record in records[:_SHOWN]]
    more = len(records) - len(names)
    listed = ", ".join(names) + (f" and {more} more" if more else "")
    return f"{len(records)} running container{'s' if len(records) != 1 else ''} ({listed})"


def _conflict(records: Sequence[ContainerRecord], uses: str, now: str) -> ConfigError:
    return ConfigError(
        f"{_who(records)} {uses}, but {now}: this setting cannot change while they run; "
        "restore the former value, and stop these containers before you change it"
    )


def _living(index: Iterable[Container], paths: ContainerPaths) -> list[ContainerRecord]:
    records = [item.record for item in index if item.record.state.running]
    return [record for record in records if runs.monitor_lives(paths.run_dir(record.id))]


def _storage(living: Sequence[ContainerRecord], config: Config) -> Iterator[ConfigError]:
    driver = config.effective_storage_driver
    others = [record for record in living if record.storage_driver != driver]
    if others:
        yield _conflict(others, f"use storage driver {others[0].storage_driver}", f"storage-driver is {driver}")


def _runtimes(living: Sequence[ContainerRecord], config: Config) -> Iterator[ConfigError]:
    known = config.all_runtimes()
    others = [record for record in living if record.host_config.runtime not in known]
    if others:
        yield _conflict(others, f"use runtime {others[0].host_config.runtime}", "runtimes does not contain this name")


def _bridge(living: Sequence[ContainerRecord], config: Config) -> Iterator[ConfigError]:
    """The bridge and the addresses must not change. The configuration is compared with the network that each container
    got at its start."""
    found: dict[tuple[str, str], list[ContainerRecord]] = {}
    for record in living:
        for attached in record.sandbox.endpoints if record.sandbox else ():
            is_default = attached.network.name == defaults.DEFAULT_NETWORK
            if is_default and (reason := next(_differences(attached.network, config), None)):
                found.setdefault(reason, []).append(record)
    for (uses, now), records in found.items():
        yield _conflict(records, uses, now)


def _differences(network: NetworkSpec, config: Config) -> Iterator[tuple[str, str]]:
    """Yields a pair for each setting that conflicts with this network. The first item is a property of the network that its
    containers rely on; the second item is the setting, which contradicts this property."""
    link = network.options.get(_LINK, config.bridge_name)
    if config.bridge_name != link:
        yield f"are on bridge {link}", f"bridge is {config.bridge_name or 'none'}"
    for subnet in network.subnets:
        key, text = _says_subnet(config, 6 if ":" in subnet.subnet else 4)
        if key != "bip" and not config.ipv6:
            yield f"have addresses of {subnet.subnet}", "ipv6 is false"
        elif text and not _same(key, text, subnet):
            yield f"have addresses of {subnet.subnet} with gateway {subnet.gateway}", f"{key} is {text}"


def _says_subnet(config: Config, version: int) -> tuple[str, str]:
    """The key of daemon.json that sets the subnet, and the key's value."""
    if version == 4:
        return "bip", config.bip
    return ("bip6", config.bip6) if config.bip6 else ("fixed-cidr-v6", config.fixed_cidr_v6)


def _same(key: str, text: str, subnet: Subnet) -> bool:
    if key == "fixed-cidr-v6":
        pool = AddressPool(parse_subnet(text))
        return (str(pool.subnet), pool.gateway) == (subnet.subnet, subnet.gateway)
    interface = ipaddress.ip_interface(text)
    return str(interface.network) == subnet.subnet and interface.ip == ipaddress.ip_address(subnet.gateway)


def _rules(living: Sequence[ContainerRecord], config: Config) -> Iterator[ConfigError]:
    """Containers with published ports need firewall rules. If the setting `iptables` is false, the network driver removes
    these rules."""
    published = [record for record in living if record.sandbox and record.sandbox.iptables and record.sandbox.ports]
    if published and not config.iptables:
        yield _conflict(published, "have published ports, which need firewall rules", "iptables is false")


def _roots(living: Sequence[ContainerRecord], running: Config, config: Config) -> Iterator[ConfigError]:
    """The data root and the exec root must not change. This is checked only on reload. At start, `check_at_start` detects a
    changed data root by the file `data-root`, and a changed exec root by missing run directories."""
    for key, old, new in (
        ("data-root", running.data_root, config.data_root),
        ("exec-root", running.exec_root, config.exec_root),
    ):
        if os.path.realpath(old) != os.path.realpath(new) and living:
            yield _conflict(living, f"use {key} {old}", f"{key} is {new}")


def check(index: Iterable[Container], paths: ContainerPaths, running: Config, config: Config) -> None:
    """Raise `ConfigError` when running containers are incompatible with this configuration. Keys that a reload applies
    immediately are checked for all running containers. The other keys take effect when the daemon restarts. They are checked
    only with live-restore, because without it no container survives the restart."""
    living = _living(index, paths)
    checks = (_storage, _runtimes, _bridge, _rules) if config.live_restore else (_runtimes,)
    found = [error for each in checks for error in each(living, config)]
    if config.live_restore:
        found += _roots(living, running, config)
    if found:
        raise ConfigError(*(problem for error in found for problem in error.problems))


def check_at_start(index: Iterable[Container], paths: ContainerPaths, config: Config) -> None:
    """Like `check`, but called when the daemon starts, before containers are restored. Also raises an error if a running
    container belongs to another data root or exec root: this daemon would not find it, or would remove it. This is checked
    even without live-restore, because the daemon cannot stop a container that it has no row for."""
    _check_data_root(paths, config)
    lost = [
        item.record
        for item in index
        if item.record.state.running and not os.path.isdir(paths.run_dir(item.id)) and _runs_elsewhere(item.record)
    ]
    if lost:
        raise _conflict(lost, "were started under another exec-root", f"exec-root is {config.exec_root}")
    if config.live_restore:
        check(index, paths, config, config)


def _runs_elsewhere(record: ContainerRecord) -> bool:
    """Whether the container runs under another exec-root. The pid and the start time must match. The name of the process's
    cgroup must contain the container's id, because after a reboot another process may have the same pid and start time."""
    if not record.state.pid or not linux.is_process(record.state.pid, record.state.pid_start_time):
        return False
    try:
        with open(f"/proc/{record.state.pid}/cgroup") as file:
            return record.id in file.read()
    except OSError:
        return False


def _check_data_root(paths: ContainerPaths, config: Config) -> None:
    mark, mine = os.path.join(config.exec_root, "data-root"), os.path.realpath(config.data_root)
    try:
        with open(mark) as file:
            theirs = file.read().strip()
    except FileNotFoundError:
        theirs = mine
    if theirs != mine:
        living = [name for name in os.listdir(paths.runs_root) if runs.monitor_lives(os.path.join(paths.runs_root, name))]
        if living:
            raise ConfigError(
                f"{len(living)} running container{'s' if len(living) != 1 else ''} of data-root {theirs} "
                f"use{'s' if len(living) == 1 else ''} exec-root {config.exec_root}, but data-root is {mine}: "
                f"start with --data-root {theirs} and stop the containers first, or set another exec-root"
            )
    with open(mark, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(f"{mine}\n")
