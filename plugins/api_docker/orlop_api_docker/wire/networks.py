"""Networks in answers of the API."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import field

from orlop_engine.networks.records import AttachedEndpoint, NetworkRecord, Sandbox
from orlop_engine.types.networks import IPAM, ConfigReference, IPAMConfig
from orlop_sdk.base import WireBase, rfc3339

__all__ = ["CreateResponse", "NetworkContainer", "NetworkView", "PruneResponse", "network_view"]


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


def network_view(record: NetworkRecord, members: Collection[tuple[Sandbox, AttachedEndpoint]] = ()) -> NetworkView:
    """`members` are omitted in lists."""
    containers = {sandbox.container_id: _container(sandbox, attached) for sandbox, attached in members}
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
                for each in record.subnets
            ]
            or None,
        ),
        internal=record.internal,
        attachable=record.attachable,
        containers=containers,
        options=dict(record.options),
        labels=dict(record.labels),
    )
