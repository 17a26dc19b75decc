"""Finds the endpoints for a repository: the registry and its mirrors, whether TLS is required, and the proxy to use.

The rules are the same as in dockerd; for `hosts.toml`, the same as in containerd. This module reads `certs.d` and resolves
names. It keeps no state.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import trio

from orlop_engine.config import Config
from orlop_sdk import DriverError

from .endpoints import ALL, PULL, Endpoint, HostSettings
from .references import DEFAULT_DOMAIN, LEGACY_DOMAIN, Reference
from .registry_tls import CERTS_D, host_directory

if TYPE_CHECKING:
    from .hosts_file import HostsFile

__all__ = [
    "CERTS_D",
    "Endpoint",
    "HostRules",
    "Proxies",
    "Timeouts",
    "proxy_for",
    "resolve",
    "split_host",
]

HUB = "registry-1.docker.io"
_MAX_HOSTS_FILE = 64 << 10
_NO_SETTINGS = HostSettings()


class Proxies(Protocol):
    """The `proxies` of daemon.json; missing values are taken from the environment."""

    @property
    def http_proxy(self) -> str: ...
    @property
    def https_proxy(self) -> str: ...
    @property
    def no_proxy(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts in seconds. `ping` limits the wait for the first answer (15, as in Docker), and `small` the wait for a
    manifest or token. `finish` limits the wait for the answer to a complete upload; before its answer, the registry verifies
    and maybe copies the blob. `stall` is the longest time without a received byte. A mirror that did not answer is skipped
    for the time `outage`."""

    connect: float = 30.0
    ping: float = 15.0
    stall: float = 60.0
    small: float = 120.0
    finish: float = 600.0
    outage: float = 60.0


def split_host(host: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    return parts.hostname or "", parts.port or default_port


async def resolve(name: str) -> list[str]:
    """The addresses of a host name or literal address; [] if there are none within five seconds."""
    try:
        return [name] if ipaddress.ip_address(name) else []
    except ValueError:
        pass
    try:
        with trio.move_on_after(5):
            found = await trio.socket.getaddrinfo(name, None, type=trio.socket.SOCK_STREAM)
            return [str(entry[4][0]).partition("%")[0] for entry in found]
    except OSError:
        pass  # the connection to this host will fail later, and its error message is better
    return []


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")  # RFC 6761


@dataclass(frozen=True, slots=True)
class HostRules:
    """The `registry-mirrors` and `insecure-registries` of daemon.json, and the directories with `hosts.toml` files."""

    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Config, certificates: Sequence[str] = CERTS_D) -> HostRules:
        return cls(tuple(config.registry_mirrors), tuple(config.insecure_registries), tuple(certificates))

    @property
    def networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """The subnets in `insecure`."""
        found = []
        for entry in self.insecure:
            with suppress(ValueError):  # a ValueError means that the entry is a host name, not a subnet
                found.append(ipaddress.ip_network(entry, strict=False))
        return found

    async def is_insecure(self, host: str) -> bool:
        """Whether a registry may be used without TLS. This is allowed if its name is listed (with or without the port), or
        if listed CIDRs contain all of its addresses. It is always allowed for a loopback address and for `localhost`. It is
        not allowed for other names that resolve to a loopback address, because an attacker who can forge DNS answers must
        not be able to disable TLS."""
        name, _ = split_host(host, 443)
        if host in self.insecure or name in self.insecure or _is_loopback(name):
            return True
        networks = self.networks
        addresses = [ipaddress.ip_address(address) for address in await resolve(name)] if networks else []
        return bool(addresses) and all(any(address in network for network in networks) for address in addresses)

    async def own_endpoints(self, reference: Reference, settings: HostSettings = _NO_SETTINGS) -> list[Endpoint]:
        """The endpoints of the registry itself; the endpoint with TLS comes first."""
        hub = reference.domain == DEFAULT_DOMAIN
        host = HUB if hub else reference.domain
        insecure = not hub and not settings.ca and await self.is_insecure(host)
        secure = Endpoint(f"https://{host}", not insecure and not settings.skip_verify, settings=settings)
        if not insecure or settings.skip_verify:
            return [secure]
        return [secure, replace(secure, url=f"http://{host}")]

    async def login_endpoints(self, reference: Reference) -> list[Endpoint]:
        """The endpoints at which a client's credentials for the registry are checked. Mirrors are not among them."""
        own = [endpoint for endpoint in await self.endpoints(reference) if not endpoint.mirror]
        return own or await self.own_endpoints(reference)

    async def endpoints(self, reference: Reference) -> list[Endpoint]:
        """The endpoints for a repository, in order of preference: `registry-mirrors`, the hosts of `hosts.toml`, the
        registry. Raises `DriverError` if `hosts.toml` is invalid."""
        result: list[Endpoint] = []
        if reference.domain == DEFAULT_DOMAIN:
            for mirror in self.mirrors:
                secure = not await self.is_insecure(urlsplit(mirror).netloc)
                result.append(Endpoint(mirror.rstrip("/"), secure, True, PULL, configured=True))
        file = await trio.to_thread.run_sync(self._hosts_file, reference.domain)
        if file is None:
            return [*result, *await self.own_endpoints(reference)]
        for settings in file.hosts:
            result += await self._configured(reference, settings)
        if file.server.url:
            return [*result, *await self._configured(reference, file.server)]
        return [*result, *await self.own_endpoints(reference, replace(file.server, capabilities=ALL))]

    async def _configured(self, reference: Reference, settings: HostSettings) -> list[Endpoint]:
        """The endpoints of a host in `hosts.toml`. As in containerd, if an http:// URL has TLS settings, TLS is tried
        first."""
        scheme, _, rest = settings.url.partition("://")
        host = rest.partition("/")[0]
        if host in (DEFAULT_DOMAIN, LEGACY_DOMAIN):
            rest = HUB + rest.removeprefix(host)  # these hosts only serve web pages
        mirror = rest.partition("/")[0] != (HUB if reference.domain == DEFAULT_DOMAIN else reference.domain)
        verify = not settings.skip_verify and (bool(settings.ca) or not await self.is_insecure(host))

        def endpoint(scheme: str) -> Endpoint:
            return Endpoint(
                f"{scheme}://{rest}",
                verify and scheme == "https",
                mirror,
                settings.capabilities,
                settings,
                reference.domain if mirror else "",
                configured=True,
            )

        plain = [endpoint("http")] if scheme == "http" else []
        secure = [endpoint("https")] if scheme == "https" or settings.has_tls_settings else []
        return [*secure, *plain]

    def _hosts_file(self, domain: str) -> HostsFile | None:
        directory = host_directory(domain, self.certificates, default=True)
        path = os.path.join(directory, "hosts.toml")
        if not directory or not os.path.exists(path):
            return None
        from .hosts_file import parse  # imported here, because tomllib is rarely needed

        try:
            with open(path, "rb") as file:
                data = file.read(_MAX_HOSTS_FILE + 1)
            if len(data) > _MAX_HOSTS_FILE:
                raise DriverError(f"{path}:1: larger than {_MAX_HOSTS_FILE >> 10} KiB")
            return parse(data.decode(), path)
        except (OSError, UnicodeDecodeError) as error:
            raise DriverError(f"cannot use {path}: {error}") from error


def _is_exempt(host: str, no_proxy: str) -> bool:
    """Whether to connect to a host without the proxy, by Go's rules: loopback addresses never use a proxy; NO_PROXY
    contains names, .suffixes, addresses, CIDRs, or `*`."""
    name = host.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        address = None
    if name == "localhost" or (address is not None and address.is_loopback):
        return True
    for entry in filter(None, (part.strip().lower() for part in no_proxy.split(","))):
        if entry == "*":
            return True
        if address is not None:
            try:
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
            except ValueError:
                continue
        elif name == entry.lstrip(".") or name.endswith("." + entry.lstrip("*").lstrip(".")):
            return True
    return False


def proxy_for(url: str, proxies: Proxies) -> str | None:
    """The proxy for a URL, or None."""
    parts = urlsplit(url)
    proxy = proxies.https_proxy if parts.scheme == "https" else proxies.http_proxy
    if not proxy or _is_exempt(parts.hostname or "", proxies.no_proxy):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
