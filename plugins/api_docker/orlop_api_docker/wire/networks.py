"""Networks in answers of the API."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import UNSET, UnsetType, field

from orlop_engine.networks.records import AttachedEndpoint, NetworkRecord, Sandbox
from orlop_engine.types.networks import IPAM, ConfigReference, IPAMConfig
from orlop_sdk.base import WireBase, rfc3339

__all__ = ["CreateResponse", "NetworkContainer", "NetworkView", "PruneResponse", "network_status", "network_view"]

_MOST = (1 << 64) - 1  # the largest unsigned integer in Go, used for IPv6 subnets, which have more addresses


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


class SubnetStatus(WireBase):
    """The numbers of used and free addresses of a subnet."""

    ips_in_use: int = field(name="IPsInUse")
    dynamic_ips_available: int = field(name="DynamicIPsAvailable")


class IPAMStatus(WireBase):
    subnets: dict[str, SubnetStatus]


class NetworkStatus(WireBase):
    ipam: IPAMStatus = field(name="IPAM")


class NetworkView(WireBase):
    """A network: an item of a list, or the answer of inspect."""

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
    containers: dict[str, NetworkContainer] | UnsetType = UNSET
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    status: NetworkStatus | UnsetType = UNSET


class PruneResponse(WireBase):
    networks_deleted: list[str] | None = None


def _container(sandbox: Sandbox, attached: AttachedEndpoint) -> NetworkContainer:
    texts = {6 if ":" in each.address else 4: each.address for each in attached.endpoint.addresses}
    return NetworkContainer(
        name=sandbox.container_name,
        endpoint_id=attached.endpoint.id,
        mac_address=attached.state.mac,
        ipv4_address=texts.get(4, ""),
        ipv6_address=texts.get(6, ""),
    )


def network_view(record: NetworkRecord, members: Collection[tuple[Sandbox, AttachedEndpoint]] | None = None) -> NetworkView:
    """Without `members`, the answer has no `Containers`."""
    return NetworkView(
        name=record.name,
        id=record.id,
        created=rfc3339(record.created_ns),
        driver=record.driver,
        enable_ipv4=record.ipv4,
        enable_ipv6=record.ipv6,
        ipam=IPAM(
            driver=record.ipam_driver,
            options=record.ipam_options,
            config=[
                IPAMConfig(
                    subnet=each.subnet,
                    ip_range=each.ip_range,
                    gateway=each.gateway,
                    auxiliary_addresses=dict(each.auxiliary) or None,
                )
                for each in (record.template if record.config_only else record.subnets)
            ]
            or None,
        ),
        internal=record.internal,
        attachable=record.attachable,
        config_from=ConfigReference(record.config_from),
        config_only=record.config_only,
        containers=(
            UNSET if members is None else {sandbox.container_id: _container(sandbox, each) for sandbox, each in members}
        ),
        options=dict(record.options),
        labels=dict(record.labels),
    )


def network_status(usage: Mapping[str, tuple[int, int]]) -> NetworkStatus:
    """`usage`: subnet -> (addresses in use, addresses free to be chosen)."""
    subnets = {
        name: SubnetStatus(ips_in_use=min(used, _MOST), dynamic_ips_available=min(free, _MOST))
        for name, (used, free) in usage.items()
    }
    return NetworkStatus(ipam=IPAMStatus(subnets=subnets))
