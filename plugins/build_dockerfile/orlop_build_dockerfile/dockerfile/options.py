"""The options of a build, from the client's FrontendAttrs (buildkit frontend/dockerui)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from .goformat import csv_fields, parse_bool, parse_int
from .interface import DockerfileError, Request
from .lint import LintConfig, parse_lint_options
from .platforms import Platform, parse_platform

__all__ = ["Options", "Ulimit", "read_options"]

_MODES = {"": "default", "default": "default", "pull": "pull", "local": "local"}
_ULIMITS = set("core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split())


class Ulimit(msgspec.Struct, frozen=True):
    name: str
    soft: int
    hard: int


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`targets` is empty if no platform was requested. `no_cache` contains names of stages; "" means all stages."""

    raw: Mapping[str, str]
    build_args: Mapping[str, str]
    labels: Mapping[str, str]
    target: str
    targets: tuple[Platform, ...]
    build_platform: Platform
    multi_platform: bool
    resolve_mode: str
    extra_hosts: tuple[tuple[str, str], ...]
    shm_size: int
    ulimits: tuple[Ulimit, ...]
    devices: tuple[str, ...]
    network: str
    no_cache: frozenset[str]
    cgroup_parent: str
    hostname: str
    cache_namespace: str
    epoch: int | None
    lint: LintConfig | None
    local_sessions: Mapping[str, str]

    def ignores_cache(self, stage: str) -> bool:
        return "" in self.no_cache or (bool(stage) and stage.lower() in self.no_cache)

    @property
    def created(self) -> str | None:
        """SOURCE_DATE_EPOCH as a time."""
        if self.epoch is None:
            return None
        return datetime.fromtimestamp(self.epoch, UTC).isoformat().replace("+00:00", "Z")


def read_options(request: Request) -> Options:
    """Read the options. Raises `DockerfileError` with BuildKit's message."""
    raw = request.options
    try:
        return _read(request, raw)
    except ValueError as error:
        raise DockerfileError(str(error)) from None


def _prefixed(raw: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in raw.items() if key.startswith(prefix)}


def _read(request: Request, raw: Mapping[str, str]) -> Options:
    build_platform = parse_platform(request.platforms[0] if request.platforms else "linux/amd64").normalized()
    targets = _platforms(raw.get("platform", ""), build_platform)
    mode = raw.get("image-resolve-mode", "")
    if mode not in _MODES:
        raise ValueError(f"invalid image-resolve-mode: {mode}")
    check = raw.get("build-arg:BUILDKIT_DOCKERFILE_CHECK")
    return Options(
        raw=raw,
        build_args=_prefixed(raw, "build-arg:"),
        labels=_prefixed(raw, "label:"),
        target=raw.get("target", ""),
        targets=targets,
        build_platform=build_platform,
        multi_platform=_multi_platform(raw, len(targets) > 1),
        resolve_mode=_MODES[mode],
        extra_hosts=_extra_hosts(raw.get("add-hosts", "")),
        shm_size=_shm_size(raw.get("shm-size", "")),
        ulimits=tuple(_ulimit(field) for field in _fields(raw.get("ulimit", ""), "failed to parse ulimit")),
        devices=tuple(_fields(raw.get("device", ""), "failed to parse devices")),
        network=_network(raw.get("force-network-mode", "")),
        no_cache=frozenset(raw["no-cache"].lower().split(",")) if "no-cache" in raw else frozenset(),
        cgroup_parent=raw.get("cgroup-parent", ""),
        hostname=raw.get("build-arg:BUILDKIT_SANDBOX_HOSTNAME") or raw.get("hostname", ""),
        cache_namespace=raw.get("build-arg:BUILDKIT_CACHE_MOUNT_NS", ""),
        epoch=_epoch(raw.get("build-arg:SOURCE_DATE_EPOCH", "")),
        lint=None if check is None else _lint(check),
        local_sessions=_prefixed(raw, "local-sessionid:"),
    )


def _lint(text: str) -> LintConfig:
    try:
        return parse_lint_options(text)
    except ValueError as error:
        raise ValueError(f"failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: {error}") from None


def _platforms(text: str, default: Platform) -> tuple[Platform, ...]:
    if not text:
        return ()
    out = []
    for item in text.split(","):
        try:
            out.append(parse_platform(item, default).normalized())
        except ValueError as error:
            raise ValueError(f"failed to parse target platform {item}: {error}") from None
    return tuple(dict.fromkeys(out))


def _multi_platform(raw: Mapping[str, str], several: bool) -> bool:
    text = raw.get("build-arg:BUILDKIT_MULTI_PLATFORM") or raw.get("multi-platform", "")
    if not text:
        return several
    value = parse_bool(text)
    if value is None:
        raise ValueError(f"invalid boolean value for multi-platform: {text}")
    if several and not value:
        raise ValueError("conflicting config: returning multiple target platforms is not allowed")
    return value


def _fields(text: str, what: str) -> list[str]:
    try:
        return csv_fields(text) if text else []
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def _extra_hosts(text: str) -> tuple[tuple[str, str], ...]:
    what = "failed to parse additional hosts"
    out = []
    for field in _fields(text, what):
        host, equals, address = field.lower().partition("=")
        if not equals:
            raise ValueError(f"{what}: invalid key-value pair {field}")
        try:
            out.append((host, str(ipaddress.ip_address(address))))
        except ValueError:
            raise ValueError(f"{what}: failed to parse IP {address}") from None
    return tuple(out)


def _shm_size(text: str) -> int:
    try:
        return parse_int(text, 10, 64, signed=True) if text else 0
    except ValueError as error:
        raise ValueError(f"failed to parse shm size: {error}") from None


def _ulimit(text: str) -> Ulimit:
    what = "failed to parse ulimit"
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{what}: invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise ValueError(f"{what}: invalid ulimit type: {name}")
    limits = value.split(":")
    if len(limits) > 2:
        raise ValueError(f"{what}: too many limit value arguments - {value}, can only have up to two, `soft[:hard]`")
    try:
        soft = parse_int(limits[0], 10, 64, signed=True)
        hard = parse_int(limits[1], 10, 64, signed=True) if len(limits) == 2 else soft
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    if hard != -1 and (soft > hard or soft == -1):
        raise ValueError(f"{what}: ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return Ulimit(name, soft, hard)


def _network(text: str) -> str:
    if text not in ("", "none", "host", "sandbox"):
        raise ValueError(f"invalid netmode {text}")
    return "" if text == "sandbox" else text


def _epoch(text: str) -> int | None:
    if not text:
        return None
    try:
        value = parse_int(text, 10, 64, signed=True)
        datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"invalid SOURCE_DATE_EPOCH: {text}: {error}") from None
    return value
