"""Requests for networks."""

from __future__ import annotations

from msgspec import UNSET, UnsetType, field

from orlop_sdk.base import WireBase

from .containers import EndpointSettings

__all__ = [
    "IPAM",
    "ConfigReference",
    "ConnectRequest",
    "CreateRequest",
    "DisconnectRequest",
    "IPAMConfig",
]


class IPAMConfig(WireBase, omit_defaults=True):
    """One subnet."""

    subnet: str = ""
    ip_range: str = field(default="", name="IPRange")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None


class IPAM(WireBase):
    driver: str = "default"
    options: dict[str, str] | None = None
    config: list[IPAMConfig] | None = None


class ConfigReference(WireBase):
    network: str = ""


class CreateRequest(WireBase):
    """The body of `POST /networks/create`. Defaults: IPv4 enabled, IPv6 disabled."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    check_duplicate: bool = False
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference | None = None
    ipam: IPAM | None = field(default=None, name="IPAM")
    enable_ipv4: bool | UnsetType | None = field(default=UNSET, name="EnableIPv4")
    enable_ipv6: bool | UnsetType | None = field(default=UNSET, name="EnableIPv6")
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class ConnectRequest(WireBase):
    container: str = ""
    endpoint_config: EndpointSettings | None = None


class DisconnectRequest(WireBase):
    container: str = ""
    force: bool = False
