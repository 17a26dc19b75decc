"""What may stand in a configuration once file and flags are merged. Pure but for reading the host's cgroup version.

In dockerd's order and, where known, its words. Imports `ipaddress` only when there is an address to look at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from .errors import ConfigError
from .model import BUILTIN_RUNTIME, Config
from .policy import REFUSED
from .values import key_value, parse_size

__all__ = ["LOG_LEVELS", "validate"]

LOG_LEVELS = ("panic", "fatal", "error", "warn", "info", "debug", "trace")

_DOMAIN = re.compile(r"^(\.|[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?)*\.?)$")
_REGISTRY = re.compile(r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?$")
_LINK = re.compile(r"^[^\s/:]{1,15}$")


def _fail(text: str) -> None:
    raise ConfigError(text)


def _address(text: str) -> Any:
    import ipaddress

    return ipaddress.ip_address(text)


def _interface(text: str) -> Any:
    import ipaddress

    if "/" not in text:
        raise ValueError("a prefix length is needed, as in 172.17.0.1/16")
    return ipaddress.ip_interface(text)


def _parsed(key: str, text: str, parser: Callable[[str], Any]) -> Any:
    try:
        return parser(text)
    except ValueError as error:
        raise ConfigError(f'invalid {key} "{text}": {error}') from None


def _refused(config: Config, defaults: Config) -> None:
    for key, reason in REFUSED.items():
        field = key.replace("-", "_")
        value = getattr(config, field)
        if value != getattr(defaults, field):
            _fail(f"cannot use {key}: {reason}")


def _daemon(config: Config) -> None:
    if config.log_level not in LOG_LEVELS:
        _fail(f"invalid logging level: {config.log_level} (one of {', '.join(LOG_LEVELS)})")
    if config.log_format not in ("text", "json"):
        _fail(f"invalid log format: {config.log_format} (text or json)")
    seen: dict[str, str] = {}
    for label in config.labels:
        key, equals, value = label.partition("=")
        if not equals or not key:
            _fail(f"bad attribute format: {label}")
        if seen.setdefault(key, value) != value:
            _fail(f"conflict labels for {key}={value} and {key}={seen[key]}")
    for key in ("data_root", "exec_root"):
        if not os.path.isabs(getattr(config, key)):
            _fail(f'invalid {key.replace("_", "-")} "{getattr(config, key)}": an absolute path is needed')
    version = re.fullmatch(r"1\.(\d+)", config.min_api_version)
    if version is None or int(version[1]) < 24:
        _fail(f'invalid API version "{config.min_api_version}": minimum supported API version is 1.24, without a "v"')


def _numbers(config: Config) -> None:
    for value, name in (
        (config.mtu, "default MTU"),
        (config.max_concurrent_downloads, "max concurrent downloads"),
        (config.max_concurrent_uploads, "max concurrent uploads"),
        (config.default_stop_timeout, "default stop timeout"),
    ):
        if value < 0:
            _fail(f"invalid {name}: {value}")
    if config.max_download_attempts <= 0:
        _fail(f"invalid max download attempts: {config.max_download_attempts}")
    _parsed("default-shm-size", config.default_shm_size, parse_size)


def _hosts(config: Config) -> None:
    """Scheme and form; whether a tcp address may be served without TLS is decided where it is bound."""
    for host in config.hosts:
        scheme, separator, rest = host.partition("://")
        if separator and scheme not in ("unix", "tcp", "fd"):
            _fail(f"invalid bind address ({host}): unsupported protocol: {scheme} (unix, tcp or fd)")
        if scheme == "unix" and separator and not os.path.isabs(rest or "/run/orlop.sock"):
            _fail(f"invalid bind address ({host}): an absolute path is needed")
        if scheme == "tcp" or not separator:
            port = (rest if separator else host).rpartition(":")[2]
            if port and not (port.isdigit() and int(port) < 65536):
                _fail(f"invalid bind address ({host}): invalid port {port}")
    if config.uses_tls and not (config.tlscert and config.tlskey):
        _fail("invalid TLS configuration: tlscert and tlskey are needed")
    if config.uses_tls and not config.tlscacert:
        _fail("invalid TLS configuration: tlscacert is needed: clients are always verified")


def _registries(config: Config) -> None:
    for mirror in config.registry_mirrors:
        match = re.fullmatch(r"(https?)://([^/?#@]+)(/[^?#]*)?", mirror)
        if match is None:
            _fail(f'invalid mirror: "{mirror}": an http:// or https:// URL without user, query or fragment is needed')
    for registry in config.insecure_registries:
        if "://" in registry:
            _fail(f"insecure registry {registry} should not contain '://'")
        if "/" in registry:
            _parsed("insecure-registries", registry, _interface)
        elif not _REGISTRY.match(registry):
            _fail(f"insecure registry {registry} is not valid: invalid host")


def _execution(config: Config) -> None:
    for option in config.exec_opts:
        key, value = _parsed("exec-opts", option, key_value)
        if key.lower() != "native.cgroupdriver":
            _fail(f"invalid option '{key}' in exec-opts: only native.cgroupdriver is known")
        if value.strip() not in ("cgroupfs", "systemd"):
            _fail(f"invalid option for native.cgroupdriver: {value.strip()} (cgroupfs or systemd)")
    if config.default_ipc_mode not in ("private", "shareable"):
        _fail(f"IPC mode is not supported: {config.default_ipc_mode} (private or shareable)")
    if config.default_cgroupns_mode not in ("", "host", "private"):
        _fail(f"default cgroup namespace mode is invalid: {config.default_cgroupns_mode} (host or private)")
    parent = config.cgroup_parent
    if parent and config.cgroup_driver == "systemd" and not (parent.endswith(".slice") and len(parent) > 6):
        _fail('cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"')
    _runtimes(config)


def _runtimes(config: Config) -> None:
    if BUILTIN_RUNTIME in config.runtimes:
        _fail(f"runtime name '{BUILTIN_RUNTIME}' is reserved")
    for name, entry in config.runtimes.items():
        if entry.runtime_type.startswith("io.containerd."):
            _fail(
                f"runtime '{name}': runtimeType {entry.runtime_type} is a containerd shim, and Orlop uses no containerd; "
                "name a program with runc's command line by path, or an installed runtime driver by runtimeType"
            )
        if not entry.path and not entry.runtime_type:
            _fail(f"runtime '{name}': a path is needed")
    if config.default_runtime not in config.all_runtimes():
        have = ", ".join(sorted(config.all_runtimes()))
        _fail(f"specified default runtime '{config.default_runtime}' does not exist: known runtimes are: {have}")


def _names(config: Config) -> None:
    for server in config.dns:
        _parsed("dns", server, _address)
    for domain in config.dns_search:
        if not _DOMAIN.match(domain):
            _fail(f"{domain} is not a valid domain")
    gateways = (*config.host_gateway_ips, *([config.host_gateway_ip] if config.host_gateway_ip else ()))
    versions = [_parsed("host-gateway-ips", text, _address).version for text in gateways]
    if len(versions) != len(set(versions)):
        _fail("invalid host-gateway-ips: one IPv4 and one IPv6 address at most")


def _network(config: Config) -> None:
    if config.bridge and config.bip:
        _fail("You specified -b & --bip, mutually exclusive options. Please specify only one")
    if config.bridge and not _LINK.match(config.bridge):
        _fail(f'invalid bridge "{config.bridge}": a link name has 1 to 15 characters, no blank, "/" or ":"')
    if not config.iptables and not config.icc:
        _fail(
            "You specified --iptables=false with --icc=false. ICC=false uses iptables to function. "
            "Please set --icc or --iptables to true"
        )
    if config.firewall_backend not in ("", "nftables"):
        _fail(f"invalid firewall-backend: {config.firewall_backend}: Orlop makes nftables rules only")
    for key, parser in (
        ("bip", _interface),
        ("bip6", _interface),
        ("fixed_cidr", _interface),
        ("fixed_cidr_v6", _interface),
        ("default_gateway", _address),
        ("default_gateway_v6", _address),
    ):
        if value := getattr(config, key):
            _parsed(key.replace("_", "-"), value, parser)
    if config.ip != "0.0.0.0":
        _parsed("ip", config.ip, _address)
    for pool in config.default_address_pools:
        base = _parsed("default-address-pools", pool.base, _interface)
        if not base.network.prefixlen <= pool.size <= base.network.max_prefixlen:
            _fail(f"invalid default-address-pools: size {pool.size} does not fit into {pool.base}")


def validate(config: Config) -> None:
    """Raise `ConfigError` with the first thing that is wrong."""
    _refused(config, Config())
    for check in (_daemon, _numbers, _names, _hosts, _registries, _execution, _network):
        check(config)
