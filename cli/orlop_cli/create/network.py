"""Networks of a new container: converts --network (also in its long form), aliases and addresses to NetworkMode and
EndpointsConfig."""

from __future__ import annotations

from orlop_cli.create.values import bad, csv_fields

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    Json = dict[str, Any]


_BUILTIN = ("default", "bridge", "host", "none")


def user_defined(name: str) -> bool:
    """Whether the network is user-defined. Only such networks have aliases and fixed addresses."""
    return name not in _BUILTIN and not name.startswith("container:")


def parse(text: str) -> tuple[str, Json]:
    """Convert `name` or `name=n,alias=a,ip=1.2.3.4,...` to (name, endpoint settings)."""
    if "=" not in text:
        return text, {}
    name = ""
    endpoint: Json = {}
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        if not equals or not value:
            raise bad(f"invalid field {field!r} in --network: expected key=value")
        if key == "name":
            name = value
        else:
            _apply(endpoint, key.lower(), value)
    if not name:
        raise bad("network name is required in --network")
    return name, endpoint


def _apply(endpoint: Json, key: str, value: str) -> None:
    if key == "alias":
        endpoint.setdefault("Aliases", []).append(value)
    elif key == "ip":
        endpoint.setdefault("IPAMConfig", {})["IPv4Address"] = value
    elif key == "ip6":
        endpoint.setdefault("IPAMConfig", {})["IPv6Address"] = value
    elif key == "link-local-ip":
        endpoint.setdefault("IPAMConfig", {}).setdefault("LinkLocalIPs", []).append(value)
    elif key == "mac-address":
        endpoint["MacAddress"] = value
    elif key == "driver-opt":
        name, equals, text = value.partition("=")
        if not equals:
            raise bad(f"invalid driver-opt {value!r} in --network: expected key=value")
        endpoint.setdefault("DriverOpts", {})[name] = text
    elif key == "gw-priority":
        endpoint["GwPriority"] = _integer(value)
    else:
        raise bad(f"invalid field key {key!r} in --network")


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise bad(f"invalid gw-priority: {text}") from None


def build(options: Json, version: tuple[int, int]) -> tuple[str, dict[str, Json]]:
    """Returns (NetworkMode, EndpointsConfig). The flags for a single network (--ip, --network-alias, ...) apply to the first
    network."""
    parsed = [parse(text) for text in options["network"]] or [("default", {})]
    first, endpoint = parsed[0]
    _single(first, endpoint, options, version)
    endpoints: dict[str, Json] = {}
    for name, settings in parsed:
        if name in endpoints:
            raise bad(f'network "{name}" is specified multiple times')
        endpoints[name] = settings
    if len({user_defined(name) for name in endpoints}) > 1:
        raise bad("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
    if len(endpoints) == 1 and not endpoint:
        endpoints = {}  # the daemon creates the default endpoint; old daemons accept no other endpoint
    return first, endpoints


def _single(name: str, endpoint: Json, options: Json, version: tuple[int, int]) -> None:
    for alias in options["network_alias"]:
        _apply(endpoint, "alias", alias)
    for address in options["link_local_ip"]:
        _apply(endpoint, "link-local-ip", address)
    for key in ("ip", "ip6"):
        if options[key]:
            _apply(endpoint, key, options[key])
    if options["link"] and user_defined(name):
        endpoint["Links"] = list(options["link"])
    if options["mac_address"] and version >= (1, 44):
        endpoint["MacAddress"] = options["mac_address"]
    if endpoint.get("Aliases") and not user_defined(name):
        raise bad("network-scoped aliases are only supported for user-defined networks")


def needed_version(options: Json) -> tuple[tuple[int, int], str] | None:
    """The API version that these networks need, if it is newer than BASE_API."""
    parsed = [parse(text) for text in options["network"]]
    if any("GwPriority" in endpoint for _, endpoint in parsed):
        return (1, 48), "gw-priority"
    if len(parsed) > 1:
        return (1, 44), "multiple networks"
    if any("MacAddress" in endpoint for _, endpoint in parsed):
        return (1, 44), "mac-address"
    return None
