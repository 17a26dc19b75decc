"""For a client that is limited by a role or labels: restricts the addresses that the daemon connects to (against SSRF).

Such a client chooses registries and URLs, and the daemon connects to them. The daemon can reach the host's loopback
addresses, private networks and a cloud's metadata service (169.254.169.254). For a restricted client, the daemon therefore
connects only to public addresses and to registries that the administrator has configured. Every connection is checked, also
connections to token services and after redirects. The daemon connects to the address that it has checked, because a second
DNS lookup may return another address.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

from .public_addresses import is_public
from .registry_hosts import HUB, HostRules, resolve, split_host
from .registry_tls import CERTS_D, host_directory

__all__ = ["Destinations", "Refuse", "for_registry", "send"]

Refuse = Callable[[str], Exception]
"""Makes the exception for a refused destination. The argument describes this destination."""

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Destinations:
    """The allowed destinations: public addresses, and the addresses in `networks`."""

    def __init__(self, refuse: Refuse, networks: Sequence[_Network] = ()) -> None:
        self._refuse, self._networks = refuse, networks

    async def addresses(self, host: str) -> list[str]:
        """All addresses of a host; [] if it has none. Raises if one of them is not allowed."""
        found = await resolve(host)
        for text in found:
            known = any(ipaddress.ip_address(text) in network for network in self._networks)
            if not known and not is_public(text):
                raise self._refuse(f"connecting to {host[:255]}, which is neither public nor a configured registry,")
        return found


def for_registry(
    refuse: Refuse | None, rules: HostRules, host: str, certificates: Sequence[str] = CERTS_D
) -> Destinations | None:
    """The allowed destinations for a client's requests to this registry; None allows all. A registry that the
    administrator has configured (a mirror, `insecure-registries`, a directory in `certs.d`) is trusted, including its
    redirects."""
    if refuse is None or host == HUB:
        return None
    name, _ = split_host(host, 443)
    named = host in rules.insecure or name in rules.insecure or host in [urlsplit(url).netloc for url in rules.mirrors]
    if named or host_directory(host, certificates):
        return None
    return Destinations(refuse, rules.networks)


async def send(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    headers: dict[str, str],
    content: bytes | httpx.AsyncByteStream | None = None,
    *,
    destinations: Destinations | None,
    proxied: bool,
    patience: float | None = None,
) -> httpx.Response:
    """Send one request without following redirects. The body of the answer is not read yet. Raises httpx's exceptions.
    `patience` (seconds) is used instead of the HTTP client's read timeout."""
    timeout = client.timeout
    if patience:
        timeout = httpx.Timeout(connect=timeout.connect, read=patience, write=timeout.write, pool=timeout.pool)

    def build(url: str | httpx.URL, headers: dict[str, str], **extensions: Any) -> httpx.Request:
        data = content if isinstance(content, bytes) else None
        request = client.build_request(method, url, headers=headers, content=data, timeout=timeout, extensions=extensions)
        if isinstance(content, httpx.AsyncByteStream):
            request.stream = content  # not passed as `content`, because httpx would then wrap the stream in a generator
        return request

    if destinations is None:
        return await client.send(build(url, headers), stream=True)
    target = httpx.URL(url)
    addresses = await destinations.addresses(target.host)
    if proxied:  # the proxy looks up the name and connects, so the daemon cannot choose the address
        return await client.send(build(url, headers), stream=True)
    if not addresses:
        raise httpx.ConnectError("no such host") from socket.gaierror()
    headers = {**headers, "Host": target.netloc.decode("ascii")}
    for address in addresses:
        request = build(target.copy_with(host=address), headers, sni_hostname=target.host)
        try:
            return await client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            if address == addresses[-1]:
                raise
    raise AssertionError("unreachable")
