"""The options of a local volume: validation, storage format, and the mount that they describe. This module does no I/O."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

import msgspec

from orlop_sdk import InvalidParameter, Mount

__all__ = ["Kept", "address_to_resolve", "check_name", "check_options", "kept_options", "mount_of", "with_address"]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_KNOWN = ("type", "o", "device", "size")
_NETWORK = ("nfs", "nfs4", "cifs")


class _Quota(msgspec.Struct):
    size: int = msgspec.field(name="Size", default=0)


class Kept(msgspec.Struct, rename="pascal"):
    """The content of `opts.json`, in Docker's format."""

    mount_type: str = ""
    mount_opts: str = ""
    mount_device: str = ""
    quota: _Quota = msgspec.field(default_factory=_Quota)

    @property
    def needs_mount(self) -> bool:
        """Whether the volume is a mount. As in Docker, a volume with a device or a type is a mount; any other volume is a
        plain directory."""
        return bool(self.mount_device or self.mount_type)

    def options(self) -> dict[str, str]:
        pairs = (("type", self.mount_type), ("o", self.mount_opts), ("device", self.mount_device))
        return {name: value for name, value in pairs if value}


def check_name(name: str) -> None:
    """Raise `InvalidParameter` with Docker's message for an invalid volume name."""
    if len(name) < 2:
        raise InvalidParameter("volume name is too short, names should be at least two alphanumeric characters")
    if not _NAME.fullmatch(name):
        raise InvalidParameter(
            f'"{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. '
            "If you intended to pass a host directory, use absolute path"
        )


def check_options(options: Mapping[str, str]) -> None:
    """Raise `InvalidParameter` for invalid options, by Docker's rules and with its messages. Also, the device of a bind must
    be an absolute path."""
    for name in options:
        if name not in _KNOWN:
            raise InvalidParameter(f'invalid option: "{name}"')
    if options.get("size"):
        raise InvalidParameter("quota size requested but no quota support")
    if not options:
        return
    for name in ("device", "type"):
        if name not in options:
            raise InvalidParameter(f'missing required option: "{name}"')
    device = options["device"]
    if _is_bind(options.get("o", "")) and device and not device.startswith("/"):
        raise InvalidParameter(f'invalid option: "device": {device} is not an absolute path')


def kept_options(options: Mapping[str, str]) -> Kept:
    return Kept(options.get("type", ""), options.get("o", ""), options.get("device", ""))


def _words(options: str) -> list[str]:
    return [word for word in options.split(",") if word]


def _is_bind(options: str) -> bool:
    return bool({"bind", "rbind"} & set(_words(options)))


def address_to_resolve(kept: Kept) -> str:
    """The host name in `addr=` of a network file system. It must be resolved, because the kernel needs an IP address. "" if
    no name must be resolved."""
    if kept.mount_type not in _NETWORK:
        return ""
    for word in _words(kept.mount_opts):
        name, _, value = word.partition("=")
        if name == "addr":
            try:
                ipaddress.ip_address(value)
            except ValueError:
                return value
    return ""


def with_address(kept: Kept, address: str) -> Kept:
    """The options with the host name in `addr=` replaced by `address`."""
    words = [f"addr={address}" if word.startswith("addr=") else word for word in _words(kept.mount_opts)]
    return Kept(kept.mount_type, ",".join(words), kept.mount_device)


def mount_of(kept: Kept) -> Mount:
    """The mount that the options describe."""
    words = tuple(_words(kept.mount_opts))
    if _is_bind(kept.mount_opts):
        return Mount("bind", kept.mount_device, "", words)
    return Mount(kept.mount_type, kept.mount_device or kept.mount_type, "", words)
