"""What a create request may say: each rule in Docker's words. Pure, but for facts of the host."""

from __future__ import annotations

import re
import signal

from msgspec import UNSET

from orlop_kernel.engine.spec import capabilities
from orlop_kernel.engine.spec.host import Host
from orlop_kernel.spi import InvalidParameter
from orlop_kernel.types.containers import ContainerConfig, HostConfig, Resources

from . import restarts

__all__ = ["check", "check_resources", "parse_signal"]

_HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*\Z")
_DEVICE_RULE = re.compile(r"[acb] (\d+|\*):(\d+|\*) [rwm]{1,3}\Z")
_SMALLEST_MEMORY = 6 << 20


def parse_signal(text: str) -> int:
    """A signal by number or name, with or without SIG, in any case."""
    if text.isascii() and text.isdigit():
        number = int(text)
        if 1 <= number <= 64:
            return number
        raise InvalidParameter(f"invalid signal: {text}")
    name = text.upper().removeprefix("SIG")
    if match := re.fullmatch(r"RTMIN(?:\+(\d{1,2}))?|RTMAX(?:-(\d{1,2}))?", name):
        base = signal.SIGRTMIN if name.startswith("RTMIN") else signal.SIGRTMAX
        number = base + int(match[1] or 0) - int(match[2] or 0)
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    found = getattr(signal, f"SIG{name}", None)
    if not isinstance(found, signal.Signals):
        raise InvalidParameter(f"invalid signal: {text}")
    return int(found)


def check(config: ContainerConfig, host: HostConfig, facts: Host) -> list[str]:
    """Refuse what cannot be right; return warnings for what this host cannot do (and is set to nothing)."""
    _check_config(config)
    restarts.check(host.restart_policy, host.auto_remove)
    _check_modes(config, host)
    capabilities.effective(_words(host.cap_add), _words(host.cap_drop), host.privileged)
    if host.isolation not in ("", "default"):
        raise InvalidParameter(f"invalid isolation '{host.isolation}' on linux")
    for rule in host.device_cgroup_rules or ():
        if not _DEVICE_RULE.match(rule):
            raise InvalidParameter(f"invalid device cgroup rule: '{rule}'")
    if host.shm_size < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidParameter(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    for entry in host.extra_hosts or ():
        if ":" not in entry and "=" not in entry:
            raise InvalidParameter(f'bad format for add-host: "{entry}"')
    return check_resources(host, facts)


def _words(value: list[str] | str | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def _check_config(config: ContainerConfig) -> None:
    if config.hostname and (len(config.hostname) > 63 or not _HOSTNAME.match(config.hostname)):
        raise InvalidParameter(f"invalid hostname: {config.hostname}")
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidParameter(f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path")
    for entry in config.env or ():
        if not entry or entry.startswith("="):
            raise InvalidParameter(f"invalid environment variable: {entry}")
        if "\0" in entry:
            raise InvalidParameter("invalid environment variable: it contains a NUL")
    if config.stop_signal is not UNSET and config.stop_signal:
        parse_signal(config.stop_signal)
    health = config.healthcheck
    if health is not UNSET:
        for name, value in (
            ("Interval", health.interval),
            ("Timeout", health.timeout),
            ("StartPeriod", health.start_period),
        ):
            if value and value < 1_000_000:
                raise InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")
        if health.retries < 0:
            raise InvalidParameter("Retries in Healthcheck cannot be negative")


def _check_modes(config: ContainerConfig, host: HostConfig) -> None:
    mode = host.network_mode
    if mode.startswith("container:"):
        if not mode.removeprefix("container:"):
            raise InvalidParameter("invalid container format container:<name|id>")
        for given, what in (
            (config.hostname, "hostname and the network mode"),
            (host.links, "links and network mode"),
            (host.dns, "dns and the network mode"),
            (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
            (host.port_bindings or host.publish_all_ports, "port publishing and the container type network mode"),
        ):
            if given:
                raise InvalidParameter(f"conflicting options: {what}")
    if host.uts_mode not in ("", "host"):
        raise InvalidParameter(f"invalid UTS mode: {host.uts_mode}")
    if host.uts_mode == "host" and config.hostname:
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    if host.userns_mode not in ("", "host"):
        raise InvalidParameter(f"invalid user namespace mode: {host.userns_mode}")
    if host.cgroupns_mode not in ("", "host", "private"):
        raise InvalidParameter(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    for name, value in (("IPC", host.ipc_mode), ("PID", host.pid_mode)):
        allowed = ("", "host", "none", "private", "shareable") if name == "IPC" else ("", "host")
        if value not in allowed and not (value.startswith("container:") and value != "container:"):
            raise InvalidParameter(f"invalid {name} mode: {value}")
    if host.readonly_rootfs and host.privileged:
        return
    for option in host.security_opt or ():
        _check_security_opt(option)


def _check_security_opt(option: str) -> None:
    if option in ("no-new-privileges", "writable-cgroups"):
        return
    name, sign, value = option.partition("=")
    if not sign:
        name, sign, value = option.partition(":")
    if not sign or name not in ("no-new-privileges", "seccomp", "apparmor", "label", "systempaths", "writable-cgroups"):
        raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
    if name == "no-new-privileges" and value.lower() not in ("true", "false", "1", "0"):
        raise InvalidParameter(f'invalid --security-opt 2: "{option}"')


def check_resources(given: Resources, facts: Host, *, update: bool = False) -> list[str]:
    """Limits in Docker's words. Changes what Docker fills in: MemorySwap. `update`: the limits that are not given stay."""
    memory, swap = given.memory, given.memory_swap
    if memory and memory < _SMALLEST_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if swap > 0 and not memory and not update:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
    if 0 < swap < memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if memory and not swap and not update:
        given.memory_swap = 2 * memory
    if given.memory_swappiness is not None and not -1 <= given.memory_swappiness <= 100:
        raise InvalidParameter(f"Invalid value: {given.memory_swappiness}, valid memory swappiness range is 0-100")
    if memory and given.memory_reservation > memory:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit, see usage")
    if given.nano_cpus:
        if given.cpu_period or given.cpu_quota:
            raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
        if not 0 < given.nano_cpus <= facts.cpus * 1_000_000_000:
            raise InvalidParameter(
                f"range of CPUs is from 0.01 to {facts.cpus:.2f}, as there are only {facts.cpus} CPUs available"
            )
    if given.cpu_period and not 1000 <= given.cpu_period <= 1_000_000:
        raise InvalidParameter("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if given.cpu_quota and 0 < given.cpu_quota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if given.cpu_shares < 0:
        raise InvalidParameter(f"invalid CPU shares ({given.cpu_shares}): value must be a positive integer")
    if given.blkio_weight and not 10 <= given.blkio_weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    warnings = []
    if given.memory_swappiness is not None and given.memory_swappiness >= 0 and facts.cgroup_version == 2:
        warnings.append("Your kernel does not support memory swappiness capabilities. Memory swappiness discarded.")
        given.memory_swappiness = None
    if given.oom_kill_disable and facts.cgroup_version == 2:
        warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
        given.oom_kill_disable = None
    return warnings
