"""`orlop network ls`, `create`, `rm`, `connect`, `disconnect`."""

from __future__ import annotations

from orlop_cli import _config
from orlop_cli._command import SILENT, command, each, fail, flag, many, option
from orlop_cli.create.values import pairs, strict_pairs
from orlop_cli.daemon.client import filters_json, segment
from orlop_cli.tables.format import print_rows
from orlop_cli.tables.row import Row
from orlop_cli.values.times import go_text

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session


HEADERS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
    "CreatedAt": "CREATED AT",
}

RAW = {"network_id": "ID", "name": "Name", "driver": "Driver", "scope": "Scope"}


class Network(Row):
    """One network of the list."""

    FIELDS = tuple(sorted(HEADERS))

    def __init__(self, data: dict[str, Any], trunc: bool) -> None:
        self._data, self._trunc = data, trunc

    def ID(self) -> str:  # noqa: N802 - the placeholders' names
        return str(self._data["Id"][:12] if self._trunc else self._data["Id"])

    def Name(self) -> str:  # noqa: N802
        return str(self._data["Name"])

    def Driver(self) -> str:  # noqa: N802
        return str(self._data["Driver"])

    def Scope(self) -> str:  # noqa: N802
        return str(self._data["Scope"])

    def IPv6(self) -> str:  # noqa: N802
        return str(bool(self._data.get("EnableIPv6"))).lower()

    def Internal(self) -> str:  # noqa: N802
        return str(bool(self._data.get("Internal"))).lower()

    def Labels(self) -> str:  # noqa: N802
        return ",".join(f"{key}={value}" for key, value in sorted((self._data.get("Labels") or {}).items()))

    def Label(self, name: str) -> str:  # noqa: N802
        return str((self._data.get("Labels") or {}).get(name, ""))

    def CreatedAt(self) -> str:  # noqa: N802
        return go_text(str(self._data.get("Created", "")))


@command("ls", "List networks", examples=["orlop network ls -f driver=bridge"])
@many("-f", "--filter", "filters", metavar="filter", help='Provide filter values (e.g. "driver=bridge")')
@option("--format", "form", metavar="string", help="'table', 'table TEMPLATE', 'json', 'raw', or a Go template")
@flag("--no-trunc", help="Do not truncate the output")
@flag("-q", "--quiet", help="Only display network IDs")
def ls(
    session: Session, args: tuple[str, ...], filters: tuple[str, ...], form: str | None, no_trunc: bool, quiet: bool
) -> None:
    form = form or (None if quiet else _config.text("networksFormat"))
    found = session.engine.get("/networks", {"filters": filters_json(filters)})
    listed = [Network(item, not no_trunc) for item in sorted(found, key=lambda item: str(item["Name"]))]
    print_rows(listed, ("ID", "Name", "Driver", "Scope"), HEADERS, form, "ID" if quiet else "", RAW)


@command(
    "create",
    "Create a network",
    usage="NETWORK",
    least=1,
    most=1,
    examples=["orlop network create back", "orlop network create --subnet 10.9.0.0/24 --gateway 10.9.0.1 --internal db"],
)
@flag("--attachable", help="Enable manual container attachment")
@many("--aux-address", metavar="map", help="Auxiliary IPv4 or IPv6 addresses used by Network driver")
@option("--config-from", metavar="string", help="The network from which to copy the configuration")
@flag("--config-only", help="Create a configuration only network")
@option("-d", "--driver", metavar="string", default="bridge", help="Driver to manage the Network (default bridge)")
@many("--gateway", metavar="ip", help="IPv4 or IPv6 Gateway for the subnet")
@flag("--ingress", help="Create swarm routing-mesh network")
@flag("--internal", help="Restrict external access to the network")
@many("--ip-range", metavar="cidr", help="Allocate container ip from a sub-range")
@option("--ipam-driver", metavar="string", default="default", help="IP Address Management Driver")
@many("--ipam-opt", metavar="map", help="Set IPAM driver specific options")
@flag("--ipv6", default=None, help="Enable IPv6 networking")
@many("--label", help="Set metadata on a network")
@many("-o", "--opt", metavar="map", help="Set driver specific options")
@option("--scope", metavar="string", help="Control the network's scope")
@many("--subnet", metavar="cidr", help="Subnet in CIDR format that represents a network segment")
def create(session: Session, args: tuple[str, ...], **options: Any) -> None:
    body: dict[str, Any] = {
        "Name": args[0],
        "Driver": options["driver"],
        "Internal": options["internal"],
        "Attachable": options["attachable"],
        "Options": strict_pairs(options["opt"], "driver option"),
        "Labels": pairs(options["label"]),
        "CheckDuplicate": True,
        "IPAM": {
            "Driver": options["ipam_driver"],
            "Options": strict_pairs(options["ipam_opt"], "IPAM option"),
            "Config": pools(options["subnet"], options["ip_range"], options["gateway"], options["aux_address"]),
        },
    }
    if options["ipv6"] is not None:
        body["EnableIPv6"] = options["ipv6"]
    if options["scope"]:
        body["Scope"] = options["scope"]
    if options["config_from"]:
        body["ConfigFrom"] = {"Network": options["config_from"]}
    body.update({"Ingress": True} if options["ingress"] else {}, **({"ConfigOnly": True} if options["config_only"] else {}))
    print(session.engine.post("/networks/create", body=body)["Id"])


def pools(
    subnets: tuple[str, ...], ranges: tuple[str, ...], gateways: tuple[str, ...], aux: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The value of IPAM.Config. Every range, gateway and auxiliary address is assigned to the subnet that contains it."""
    import ipaddress

    try:
        nets = {text: ipaddress.ip_network(text, strict=False) for text in subnets}
        found: dict[str, dict[str, Any]] = {text: {"Subnet": text} for text in subnets}
        for text in ranges:
            _put(found[_home(nets, ipaddress.ip_network(text, strict=False).network_address, text)], "IPRange", text)
        for text in gateways:
            _put(found[_home(nets, ipaddress.ip_address(text), text)], "Gateway", text)
        for item in aux:
            name, _, text = item.partition("=")
            pool = found[_home(nets, ipaddress.ip_address(text), text)]
            pool.setdefault("AuxiliaryAddresses", {})[name] = text
    except ValueError as error:
        fail(f"invalid subnet or address: {error}")
    return list(found.values())


def _home(nets: dict[str, Any], address: Any, text: str) -> str:
    for name, net in nets.items():
        if address in net:
            return name
    return fail(f"no matching subnet for {text}")


def _put(pool: dict[str, Any], key: str, text: str) -> None:
    if key in pool:
        fail(f"cannot configure multiple values of {key} ({text}, {pool[key]}) on the same subnet ({pool['Subnet']})")
    pool[key] = text


@command(
    "rm", "Remove one or more networks", usage="NETWORK [NETWORK...]", least=1, most=None, examples=["orlop network rm back"]
)
@flag("-f", "--force", help="Do not error if the network does not exist")
def rm(session: Session, args: tuple[str, ...], force: bool) -> None:
    from orlop_cli._errors import ApiError

    def one(name: str) -> str:
        try:
            session.engine.delete(f"/networks/{segment(name)}")
        except ApiError as error:
            if not (force and error.status == 404):
                raise
            return SILENT
        return name

    each(args, one)


@command(
    "connect",
    "Connect a container to a network",
    usage="NETWORK CONTAINER",
    least=2,
    most=2,
    examples=["orlop network connect --alias db back postgres"],
)
@many("--alias", help="Add network-scoped alias for the container")
@many("--driver-opt", help="driver options for the network")
@option("--ip", metavar="ip", help="IPv4 address (e.g., 172.30.100.104)")
@option("--ip6", metavar="ip", help="IPv6 address (e.g., 2001:db8::33)")
@many("--link", help="Add link to another container")
@many("--link-local-ip", metavar="ip", help="Add a link-local address for the container")
def connect(session: Session, args: tuple[str, ...], **options: Any) -> None:
    addresses = {
        "IPv4Address": options["ip"] or "",
        "IPv6Address": options["ip6"] or "",
        "LinkLocalIPs": list(options["link_local_ip"]),
    }
    endpoint = {
        "IPAMConfig": addresses,
        "Aliases": list(options["alias"]),
        "Links": list(options["link"]),
        "DriverOpts": strict_pairs(options["driver_opt"], "driver option"),
    }
    body = {"Container": args[1], "EndpointConfig": endpoint}
    session.engine.post(f"/networks/{segment(args[0])}/connect", body=body)


@command(
    "disconnect",
    "Disconnect a container from a network",
    usage="NETWORK CONTAINER",
    least=2,
    most=2,
    examples=["orlop network disconnect back postgres"],
)
@flag("-f", "--force", help="Force the container to disconnect from a network")
def disconnect(session: Session, args: tuple[str, ...], force: bool) -> None:
    body = {"Container": args[1], "Force": force}
    session.engine.post(f"/networks/{segment(args[0])}/disconnect", body=body)
