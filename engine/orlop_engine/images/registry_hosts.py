"""Finds the endpoints of a repository's registry, and how far they are trusted: mirrors, insecure registries, certificates,
proxies.

The rules are dockerd's (formats: registry, host). Reads `certs.d` and resolves names; keeps no state.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import trio

from orlop_kernel.trust import client_context
from orlop_sdk import InvalidParameter

from .references import DEFAULT_DOMAIN, Reference

__all__ = [
    "CERTS_D",
    "Endpoint",
    "HostRules",
    "Proxies",
    "Timeouts",
    "proxy_for",
    "resolve",
    "split_host",
    "tls_context",
]

HUB = "registry-1.docker.io"
CERTS_D = ("/etc/orlop/certs.d", "/etc/docker/certs.d")


class Proxies(Protocol):
    """`proxies` of daemon.json, completed from the environment."""

    @property
    def http_proxy(self) -> str: ...
    @property
    def https_proxy(self) -> str: ...
    @property
    def no_proxy(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts in seconds. `ping`: for the first answer (Docker's 15); `stall`: without a byte; `small`: for a manifest or
    token."""

    connect: float = 30.0
    ping: float = 15.0
    stall: float = 60.0
    small: float = 120.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint. `url` has no trailing slash; `verify`: TLS is required and its certificate is verified."""

    url: str
    verify: bool
    mirror: bool = False

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


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
        pass  # the connection will report the error better
    return []


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")  # RFC 6761


@dataclass(frozen=True, slots=True)
class HostRules:
    """`registry-mirrors` and `insecure-registries` of daemon.json."""

    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()

    @property
    def networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """The subnets in `insecure`."""
        found = []
        for entry in self.insecure:
            with suppress(ValueError):  # a host name
                found.append(ipaddress.ip_network(entry, strict=False))
        return found

    async def is_insecure(self, host: str) -> bool:
        """Whether a registry may be used without TLS: by name (with and without the port), or by CIDRs that contain all of
        its addresses. Always for loopback, but only by address or `localhost`: other names are resolved by DNS, and whoever
        can forge DNS answers must not be able to disable TLS."""
        name, _ = split_host(host, 443)
        if host in self.insecure or name in self.insecure or _is_loopback(name):
            return True
        networks = self.networks
        addresses = [ipaddress.ip_address(address) for address in await resolve(name)] if networks else []
        return bool(addresses) and all(any(address in network for network in networks) for address in addresses)

    async def endpoints(self, reference: Reference) -> list[Endpoint]:
        """The endpoints to pull from, in order of preference."""
        if reference.domain == DEFAULT_DOMAIN:
            result = []
            for mirror in self.mirrors:
                secure = not await self.is_insecure(urlsplit(mirror).netloc)
                result.append(Endpoint(mirror.rstrip("/"), secure, mirror=True))
            return [*result, Endpoint(f"https://{HUB}", True)]
        if await self.is_insecure(reference.domain):
            return [Endpoint(f"https://{reference.domain}", False), Endpoint(f"http://{reference.domain}", False)]
        return [Endpoint(f"https://{reference.domain}", True)]


def _load(context: ssl.SSLContext, directory: str) -> None:
    names = sorted(os.listdir(directory))
    for name in names:
        path = os.path.join(directory, name)
        stem, extension = os.path.splitext(path)
        if extension == ".crt":
            context.load_verify_locations(path)
        elif extension == ".cert":
            if os.path.basename(stem) + ".key" not in names:
                raise InvalidParameter(f"missing key {os.path.basename(stem)}.key for client certificate {name}")
            context.load_cert_chain(path, stem + ".key")
        elif extension == ".key" and os.path.basename(stem) + ".cert" not in names:
            raise InvalidParameter(f"missing client certificate {os.path.basename(stem)}.cert for key {name}")


def tls_context(host: str, verify: bool, roots: Sequence[str] = CERTS_D) -> ssl.SSLContext:
    """Trusts the system's authorities and those of `certs.d/<host>`. Without `verify`, any server is trusted, but client
    certificates are still presented."""
    context = client_context(verify=verify)
    for root in roots:
        directory = os.path.join(root, host)
        if not os.path.isdir(directory):
            continue
        try:
            _load(context, directory)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(f"cannot read certificates in {directory}: {error}") from error
        break
    return context


def _is_exempt(host: str, no_proxy: str) -> bool:
    """Go's rules: loopback never uses a proxy; NO_PROXY has names, .suffixes, addresses, CIDRs, or `*`."""
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
