"""The container-wide `MacAddress`. Before API 1.44, it was the only MAC address of a request. From 1.44 on, it is deprecated
and applies to the network of `NetworkMode`. Since 1.52, it is refused. The rules are the same as Docker's.
"""

from __future__ import annotations

from msgspec import UNSET

from orlop_engine.types.containers import CreateRequest, EndpointSettings, HostConfig
from orlop_sdk import InvalidParameter

__all__ = ["DEPRECATED", "settle"]

DEPRECATED = "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."


def settle(request: CreateRequest, version: tuple[int, int]) -> list[str]:
    """Set the MAC address of the request's main network, in its endpoint and in `mac_address`, which inspect shows. Returns
    warnings."""
    asked, main, endpoints = request.mac_address or "", _main_network(request), _endpoints(request)
    if version < (1, 44):
        if asked and not main:
            raise InvalidParameter("conflicting options: mac-address and the network mode")
        for settings in endpoints.values():
            settings.mac_address = asked
        return []
    if asked and version >= (1, 52):
        raise InvalidParameter(
            "the container-wide MacAddress is not supported by API v1.52 and newer: set MacAddress of a network in "
            "NetworkingConfig.EndpointsConfig"
        )
    own = endpoints.get(main)
    if asked and main and endpoints:
        if own is None:
            raise InvalidParameter(
                "if a container-wide MAC address is supplied, HostConfig.NetworkMode must match the identity of a network "
                "in NetworkSettings.Networks"
            )
        if own.mac_address not in ("", asked):
            raise InvalidParameter(
                "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be "
                "left empty"
            )
        own.mac_address = asked
    request.mac_address = ((own.mac_address if own else asked) if main else "") or UNSET
    return [DEPRECATED] if asked else []


def _main_network(request: CreateRequest) -> str:
    """The name or ID of the main network; "" for the modes host, none and container, which have no address."""
    mode = _name((request.host_config or HostConfig()).network_mode)
    alone = mode in ("host", "none") or mode.startswith("container:") or request.network_disabled is True
    return "" if alone else mode


def _name(network: str) -> str:
    return "bridge" if network in ("", "default") else network


def _endpoints(request: CreateRequest) -> dict[str, EndpointSettings]:
    """Endpoint settings by network name. Null settings in the request are replaced by empty settings."""
    given = request.networking_config.endpoints_config if request.networking_config else None
    for key, settings in (given or {}).items():
        if given is not None and settings is None:
            given[key] = EndpointSettings()
    return {_name(key): settings for key, settings in (given or {}).items() if settings is not None}
