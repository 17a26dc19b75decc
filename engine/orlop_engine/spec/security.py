"""Parse `HostConfig.SecurityOpt`: the confinement that a request asks for. This module does no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orlop_sdk import InvalidParameter

__all__ = ["Security", "parse"]

_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")


@dataclass(frozen=True, slots=True)
class Security:
    """The parsed options. None and "" mean the daemon's default. `seccomp` is "unconfined", "builtin" or the JSON text of
    a profile; `apparmor` is the name of a profile; `labels` are the values of SELinux's `label=` options."""

    no_new_privileges: bool | None = None
    seccomp: str = ""
    apparmor: str = ""
    labels: tuple[str, ...] = ()
    unmasked: bool = False
    writable_cgroups: bool = False


def _switch(value: str, option: str) -> bool:
    if value.lower() not in _TRUE + _FALSE:
        raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
    return value.lower() in _TRUE


def parse(options: Sequence[str]) -> Security:
    """Parse the options. If an option is repeated, the last one wins; labels accumulate. ":" is Docker's older form of
    "="."""
    fields: dict[str, object] = {}
    labels: list[str] = []
    for option in options:
        name, sign, value = option.partition("=")
        if not sign:
            name, sign, value = option.partition(":")
        if not sign and name not in ("no-new-privileges", "writable-cgroups"):
            raise InvalidParameter(f'invalid --security-opt 1: "{option}"')
        match name:
            case "no-new-privileges" | "writable-cgroups":
                fields[name.replace("-", "_")] = _switch(value, option) if sign else True
            case "seccomp" | "apparmor":
                fields[name] = value
            case "label":
                labels.append(value)
            case "systempaths" if value == "unconfined":
                fields["unmasked"] = True
            case _:
                raise InvalidParameter(f'invalid --security-opt 2: "{option}"')
    return Security(labels=tuple(labels), **fields)  # type: ignore[arg-type]
