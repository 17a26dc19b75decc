"""Validate a create request, with Docker's messages. The functions do no I/O and get the facts about the host as an
argument."""

from __future__ import annotations

import ipaddress
import re

from msgspec import UNSET

from orlop_engine.config import defaults
from orlop_engine.networks.files import parse_extra_host
from orlop_engine.spec import capabilities, security
from orlop_engine.spec.host import Host
from orlop_engine.types.containers import ContainerConfig, HostConfig
from orlop_sdk import InvalidParameter

from . import limits, restarts
from .signals import parse_signal

__all__ = ["check"]

# "_" is not valid in host names (RFC 952), but people use it in container names, and Docker accepts any text.
_HOSTNAME = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?)*\Z")
_HOSTNAME_LIMIT = 64  # the kernel's limit: uname(2)
_NO_LINKS = "can't be used with links. This would result in undefined behavior"
_DEVICE_RULE = re.compile(r"[acb] (\d{1,10}|\*):(\d{1,10}|\*) [rwm]{1,3}\Z")


def check(config: ContainerConfig, host: HostConfig, facts: Host) -> list[str]:
    """Refuse invalid requests. Settings that this host does not support are reset. Returns a warning about each such
    setting."""
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
        parse_extra_host(entry)
    for server in host.dns or ():
        _check_server(server)
    for name in host.annotations or ():
        if not name:
            raise InvalidParameter("invalid Annotations: the empty string is not permitted as an annotation key")
    if host.cgroup:
        raise InvalidParameter("the field Cgroup is not supported: set CgroupParent instead")
    _check_security(host, facts)
    warnings = limits.check(host, facts)
    if host.network_mode == defaults.HOST_NETWORK and host.port_bindings:
        warnings.append("Published ports are discarded when using host network mode")
    return warnings


def _check_server(server: str) -> None:
    """Refuse an invalid address of a DNS server already at create. With Docker, only the start fails."""
    try:
        ipaddress.ip_address(server)
    except ValueError:
        raise InvalidParameter(f"bad nameserver address {server}: unable to parse IP") from None


def _words(value: list[str] | str | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def _check_config(config: ContainerConfig) -> None:
    if config.hostname and (len(config.hostname) > _HOSTNAME_LIMIT or not _HOSTNAME.match(config.hostname)):
        raise InvalidParameter(f"invalid hostname: {config.hostname}")
    if len(config.domainname.encode()) > _HOSTNAME_LIMIT or any(char.isspace() for char in config.domainname):
        raise InvalidParameter(f"invalid domainname: {config.domainname}")
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
            ("StartInterval", health.start_interval),
        ):
            if value and value < 1_000_000:
                raise InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")
        if health.retries < 0:
            raise InvalidParameter("Retries in Healthcheck cannot be negative")


def _check_network_mode(config: ContainerConfig, host: HostConfig) -> None:
    """A container that shares another container's network cannot configure the network. Like Docker, check only the request.
    Ports that the image exposes are allowed."""
    kind, _, other = host.network_mode.partition(":")
    if kind != "container":
        return
    if not other:
        raise InvalidParameter("Invalid network mode: invalid container format container:<name|id>")
    for given, what in (
        (config.hostname, "hostname and the network mode"),
        (host.links, f"container type network {_NO_LINKS}"),
        (host.dns, "dns and the network mode"),
        (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (host.port_bindings or host.publish_all_ports, "port publishing and the container type network mode"),
        (config.exposed_ports, "port exposing and the container type network mode"),
    ):
        if given:
            raise InvalidParameter(f"conflicting options: {what}")


def _check_modes(config: ContainerConfig, host: HostConfig) -> None:
    _check_network_mode(config, host)
    if host.uts_mode not in ("", "host"):
        raise InvalidParameter(f"invalid UTS mode: {host.uts_mode}")
    if host.uts_mode == "host" and config.hostname:
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    if host.network_mode == defaults.HOST_NETWORK and host.links:
        raise InvalidParameter(f"conflicting options: host type networking {_NO_LINKS}")
    if host.userns_mode not in ("", "host"):
        raise InvalidParameter(f"invalid user namespace mode: {host.userns_mode}")
    if host.cgroupns_mode not in ("", "host", "private"):
        raise InvalidParameter(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    for name, value in (("IPC", host.ipc_mode), ("PID", host.pid_mode)):
        allowed = ("", "host", "none", "private", "shareable") if name == "IPC" else ("", "host")
        if value not in allowed and not (value.startswith("container:") and value != "container:"):
            raise InvalidParameter(f"invalid {name} mode: {value}")


def _check_security(host: HostConfig, facts: Host) -> None:
    asked = security.parse(host.security_opt or ())
    if asked.apparmor not in ("", "unconfined") and not facts.apparmor:
        raise InvalidParameter(f'cannot use AppArmor profile "{asked.apparmor}": AppArmor is not enabled on this host')
    for label in asked.labels:
        if label != "disable":
            raise InvalidParameter(
                f"cannot use label={label}: SELinux labels are not supported (only label=disable is accepted)"
            )
    if asked.writable_cgroups and (facts.cgroup_version != 2 or host.cgroupns_mode == "host"):
        raise InvalidParameter("option writable-cgroups needs cgroup v2 and a private cgroup namespace")
