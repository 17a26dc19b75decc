"""Networks in the API: requests to create one, answers of inspect and list (Engine API 1.24 to 1.51)."""

from __future__ import annotations

from msgspec import UNSET, UnsetType, field

from orlop_sdk.base import WireBase

from .containers import EndpointSettings

__all__ = [
    "IPAM",
    "ConfigReference",
    "ConnectRequest",
    "CreateRequest",
    "CreateResponse",
    "DisconnectRequest",
    "IPAMConfig",
    "NetworkContainer",
    "NetworkView",
    "PruneResponse",
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


class CreateResponse(WireBase):
    id: str
    warning: str = ""


class NetworkContainer(WireBase):
    """A running container in an inspect answer."""

    name: str = ""
    endpoint_id: str = field(default="", name="EndpointID")
    mac_address: str = ""
    ipv4_address: str = field(default="", name="IPv4Address")
    ipv6_address: str = field(default="", name="IPv6Address")


class NetworkView(WireBase):
    """An item of list, and the answer of inspect."""

    name: str
    id: str
    created: str
    scope: str = "local"
    driver: str = ""
    enable_ipv4: bool = field(default=True, name="EnableIPv4")
    enable_ipv6: bool = field(default=False, name="EnableIPv6")
    ipam: IPAM = field(default_factory=IPAM, name="IPAM")
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_from: ConfigReference = field(default_factory=ConfigReference)
    config_only: bool = False
    containers: dict[str, NetworkContainer] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


class ConnectRequest(WireBase):
    container: str = ""
    endpoint_config: EndpointSettings | None = None


class DisconnectRequest(WireBase):
    container: str = ""
    force: bool = False


class PruneResponse(WireBase):
    networks_deleted: list[str] | None = None
