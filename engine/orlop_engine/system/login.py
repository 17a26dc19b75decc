"""Checks credentials by asking the registry. Clients store the credentials; the daemon stores nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orlop_engine.config import Config
from orlop_sdk import InvalidParameter, Unauthorized

if TYPE_CHECKING:
    from orlop_engine.images.destinations import Refuse
    from orlop_engine.images.registry_auth import Credentials

__all__ = ["check_login", "registry_host"]


def registry_host(address: str) -> str:
    """The registry host for the server address that a client sends. For Docker Hub, clients send an old URL."""
    host = urlsplit(address if "://" in address else f"//{address}").netloc.rpartition("@")[2]
    return "docker.io" if host in ("", "index.docker.io", "registry-1.docker.io") else host


async def check_login(config: Config, server: str, credentials: Credentials, refuse: Refuse | None = None) -> None:
    """Check that the registry accepts the credentials. Raises `Unauthorized` if the registry refuses the credentials, and
    `DriverError` if the registry cannot be reached. `refuse`: see `engine.images.destinations`."""
    # Imported here, because importing the HTTP client takes 90 ms, and only logins and pulls need it
    from orlop_engine.images.connector import load_http

    await load_http()
    from orlop_engine.images.destinations import for_registry
    from orlop_engine.images.references import parse
    from orlop_engine.images.registry import Registry
    from orlop_engine.images.registry_errors import RegistryError
    from orlop_engine.images.registry_hosts import HostRules

    host = registry_host(server)
    try:
        reference = parse(f"{host}/login")
    except InvalidParameter:
        raise InvalidParameter(f'cannot log in to "{server}": not the address of a registry') from None
    failure: RegistryError | None = None
    rules = HostRules.of(config)
    for endpoint in await rules.login_endpoints(reference):
        allowed = for_registry(refuse, rules, endpoint.host)
        connecting = Registry.connect(endpoint, reference, credentials, proxies=config.proxies, destinations=allowed)
        try:
            async with connecting as registry, registry.request("GET", "/v2/", {}):
                return
        except RegistryError as error:
            failure = error
            if error.answered:
                break
    assert failure is not None
    if failure.code == "UNAUTHORIZED" or failure.status == 401:
        raise Unauthorized(f'Get "https://{host}/v2/": {failure}') from failure
    raise failure
