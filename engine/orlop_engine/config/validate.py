"""Checks the engine's keys. The only I/O is reading the host's cgroup version.

The checks have the same order as in dockerd, and the same messages if dockerd has the check too. Every problem is reported,
together with its keys. `ipaddress` is imported only when there is an address to check.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from orlop_kernel.config import Problem
from orlop_kernel.config.values import key_value
from orlop_sdk.sizes import parse_size

from .defaults import AUTO_RUNTIME, RUNTIME
from .keys import EngineKeys

__all__ = ["validate"]

_DOMAIN = re.compile(r"^(\.|[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?)*\.?)$")
_REGISTRY = re.compile(r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?$")
_LINK = re.compile(r"^[^\s/:]{1,15}$")

Problems = Iterator[Problem]


def _problem(text: str, *keys: str) -> Problem:
    return Problem(text, keys)


def _address(text: str) -> Any:
    import ipaddress

    return ipaddress.ip_address(text)


def _interface(text: str) -> Any:
    import ipaddress

    if "/" not in text:
        raise ValueError("a prefix length is needed, as in 172.17.0.1/16")
    return ipaddress.ip_interface(text)


def _of_family(parser: Callable[[str], Any], version: int) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        found = parser(text)
        if found.version != version:
            raise ValueError(f"not of IPv{version}")
        return found

    return parse


def _unparsable(key: str, text: str, parser: Callable[[str], Any]) -> Problems:
    try:
        parser(text)
    except ValueError as error:
        yield _problem(f'invalid {key} "{text}": {error}', key)


def _labels(config: EngineKeys) -> Problems:
    seen: dict[str, str] = {}
    for label in config.labels:
        key, equals, value = label.partition("=")
        if not equals or not key:
            yield _problem(f"bad attribute format: {label}", "labels")
        elif seen.setdefault(key, value) != value:
            yield _problem(f"conflict labels for {key}={value} and {key}={seen[key]}", "labels")


def _numbers(config: EngineKeys) -> Problems:
    for value, name, key in (
        (config.mtu, "default MTU", "mtu"),
        (config.max_concurrent_downloads, "max concurrent downloads", "max-concurrent-downloads"),
        (config.max_concurrent_uploads, "max concurrent uploads", "max-concurrent-uploads"),
        (config.default_stop_timeout, "default stop timeout", "default-stop-timeout"),
    ):
        if value < 0:
            yield _problem(f"invalid {name}: {value}", key)
    for what, attempts in (("download", config.max_download_attempts), ("upload", config.max_upload_attempts)):
        if attempts <= 0:
            yield _problem(f"invalid max {what} attempts: {attempts}", f"max-{what}-attempts")
    yield from _unparsable("default-shm-size", config.default_shm_size, parse_size)


def _registries(config: EngineKeys) -> Problems:
    if config.image_compression not in ("gzip", "zstd"):
        yield _problem(
            f'invalid image-compression "{config.image_compression}": gzip or zstd is needed', "image-compression"
        )
    for mirror in config.registry_mirrors:
        if re.fullmatch(r"(https?)://([^/?#@]+)(/[^?#]*)?", mirror) is None:
            text = f'invalid mirror: "{mirror}": an http:// or https:// URL without user, query or fragment is needed'
            yield _problem(text, "registry-mirrors")
    for registry in config.insecure_registries:
        if "://" in registry:
            yield _problem(f"insecure registry {registry} should not contain '://'", "insecure-registries")
        elif "/" in registry:
            yield from _unparsable("insecure-registries", registry, _interface)
        elif not _REGISTRY.match(registry):
            yield _problem(f"insecure registry {registry} is not valid: invalid host", "insecure-registries")


def _execution(config: EngineKeys) -> Problems:
    for option in config.exec_opts:
        try:
            key, value = key_value(option)
        except ValueError as error:
            yield _problem(f'invalid exec-opts "{option}": {error}', "exec-opts")
            continue
        if key.lower() != "native.cgroupdriver":
            yield _problem(f"invalid option '{key}' in exec-opts: only native.cgroupdriver is known", "exec-opts")
        elif value.strip() not in ("cgroupfs", "systemd"):
            yield _problem(f"invalid option for native.cgroupdriver: {value.strip()} (cgroupfs or systemd)", "exec-opts")
    if config.default_ipc_mode not in ("private", "shareable"):
        text = f"IPC mode is not supported: {config.default_ipc_mode} (private or shareable)"
        yield _problem(text, "default-ipc-mode")
    if config.default_cgroupns_mode not in ("", "host", "private"):
        text = f"default cgroup namespace mode is invalid: {config.default_cgroupns_mode} (host or private)"
        yield _problem(text, "default-cgroupns-mode")
    parent = config.cgroup_parent
    if parent and config.cgroup_driver == "systemd" and not (parent.endswith(".slice") and len(parent) > 6):
        text = 'cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"'
        yield _problem(text, "cgroup-parent", "exec-opts")
    if config.seccomp_profile not in ("", "builtin", "unconfined") and not os.path.isabs(config.seccomp_profile):
        text = f'invalid seccomp-profile "{config.seccomp_profile}": builtin, unconfined or an absolute path is needed'
        yield _problem(text, "seccomp-profile")
    yield from _runtimes(config)


def _runtimes(config: EngineKeys) -> Problems:
    for name in (RUNTIME, AUTO_RUNTIME):
        if name in config.runtimes:
            yield _problem(f"runtime name '{name}' is reserved", "runtimes")
    for name, entry in config.runtimes.items():
        if entry.runtime_type.startswith("io.containerd."):
            text = (
                f"runtime '{name}': runtimeType {entry.runtime_type} is a shim of containerd, and Orlop does not use shims; "
                "set path to a program with runc's command line, or runtimeType to the name of an installed runtime driver"
            )
            yield _problem(text, "runtimes")
        if not entry.path and not entry.runtime_type:
            yield _problem(f"runtime '{name}': a path is needed", "runtimes")
    if config.effective_runtime not in config.all_runtimes():
        have = ", ".join(sorted(config.all_runtimes()))
        text = f"specified default runtime '{config.default_runtime}' does not exist: known runtimes are: {have}"
        yield _problem(text, "default-runtime", "runtimes")


def _names(config: EngineKeys) -> Problems:
    for server in config.dns:
        yield from _unparsable("dns", server, _address)
    for domain in config.dns_search:
        if not _DOMAIN.match(domain):
            yield _problem(f"{domain} is not a valid domain", "dns-search")
    versions = []
    for text in (*config.host_gateway_ips, *([config.host_gateway_ip] if config.host_gateway_ip else ())):
        try:
            versions.append(_address(text).version)
        except ValueError as error:
            yield _problem(f'invalid host-gateway-ips "{text}": {error}', "host-gateway-ips", "host-gateway-ip")
    if len(versions) != len(set(versions)):
        yield _problem("invalid host-gateway-ips: one IPv4 and one IPv6 address at most", "host-gateway-ips")


def _network(config: EngineKeys) -> Problems:
    if config.bridge and config.bip:
        text = "You specified -b & --bip, mutually exclusive options. Please specify only one"
        yield _problem(text, "bridge", "bip")
    if config.bridge and not _LINK.match(config.bridge):
        text = f'invalid bridge "{config.bridge}": a link name has 1 to 15 characters, no blank, "/" or ":"'
        yield _problem(text, "bridge")
    if 0 < config.mtu < 68:
        yield _problem(f"invalid default MTU: {config.mtu} (at least 68)", "mtu")
    elif 0 < config.mtu < 1280 and config.ipv6:
        yield _problem(f"invalid default MTU: {config.mtu} (IPv6 needs at least 1280)", "mtu", "ipv6")
    if not config.iptables and not config.icc:
        text = (
            "You specified --iptables=false with --icc=false. ICC=false uses iptables to function. "
            "Please set --icc or --iptables to true"
        )
        yield _problem(text, "iptables", "icc")
    if config.firewall_backend not in ("", "nftables"):
        text = f"invalid firewall-backend: {config.firewall_backend}: Orlop makes nftables rules only"
        yield _problem(text, "firewall-backend")
    for key, value, parser in (
        ("bip", config.bip, _of_family(_interface, 4)),
        ("bip6", config.bip6, _of_family(_interface, 6)),
        ("fixed-cidr", config.fixed_cidr, _of_family(_interface, 4)),
        ("fixed-cidr-v6", config.fixed_cidr_v6, _of_family(_interface, 6)),
        ("default-gateway", config.default_gateway, _of_family(_address, 4)),
        ("default-gateway-v6", config.default_gateway_v6, _of_family(_address, 6)),
        ("ip", config.ip, _address),
    ):
        if value:
            yield from _unparsable(key, value, parser)
    for pool in config.default_address_pools:
        try:
            base = _interface(pool.base)
        except ValueError as error:
            yield _problem(f'invalid default-address-pools "{pool.base}": {error}', "default-address-pools")
            continue
        if not base.network.prefixlen <= pool.size <= base.network.max_prefixlen:
            text = f"invalid default-address-pools: size {pool.size} does not fit into {pool.base}"
            yield _problem(text, "default-address-pools")


def validate(config: EngineKeys) -> list[Problem]:
    """All problems of the configured values."""
    checks = (_labels, _numbers, _names, _registries, _execution, _network)
    return [problem for check in checks for problem in check(config)]
