"""`POST /auth`: whether a registry takes these credentials, found out by asking it. Keeps nothing: clients store them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orlop_engine.types.system import AuthConfig
from orlop_kernel.config import Config
from orlop_sdk import InvalidParameter, Unauthorized

if TYPE_CHECKING:
    from orlop_engine.images.destinations import Refuse

__all__ = ["check_login", "registry_host"]


def registry_host(address: str) -> str:
    """The registry that a client's server address means: Docker Hub's has an old URL for a name."""
    host = urlsplit(address if "://" in address else f"//{address}").netloc.rpartition("@")[2]
    return "docker.io" if host in ("", "index.docker.io", "registry-1.docker.io") else host


async def check_login(config: Config, auth: AuthConfig, refuse: Refuse | None = None) -> None:
    """Return when the registry accepts them. `Unauthorized` when it does not, `DriverError` when it cannot be asked.
    `refuse`: see `engine.images.destinations`."""
    # The HTTP client is 90 ms of imports: for the first login or pull, not for every start
    from orlop_engine.images.destinations import for_registry
    from orlop_engine.images.references import parse
    from orlop_engine.images.registry import Registry
    from orlop_engine.images.registry_auth import Credentials
    from orlop_engine.images.registry_errors import RegistryError
    from orlop_engine.images.registry_hosts import HostRules

    host = registry_host(auth.serveraddress)
    try:
        reference = parse(f"{host}/login")
    except InvalidParameter:
        raise InvalidParameter(f'cannot log in to "{auth.serveraddress}": not the address of a registry') from None
    credentials = Credentials(auth.username, auth.password, auth.identitytoken, auth.registrytoken)
    failure: RegistryError | None = None
    rules = HostRules((), tuple(config.insecure_registries))
    for endpoint in await rules.endpoints(reference):
        allowed = for_registry(refuse, rules, endpoint.host)
        connecting = Registry.connect(endpoint, reference, credentials, proxies=config.proxies, destinations=allowed)
        try:
            async with (
                connecting as registry,
                registry._request("GET", "/v2/", {}),
            ):
                return
        except RegistryError as error:
            failure = error
            if error.answered:
                break
    assert failure is not None
    if failure.code == "UNAUTHORIZED" or failure.status == 401:
        raise Unauthorized(f'Get "https://{host}/v2/": {failure}') from failure
    raise failure
