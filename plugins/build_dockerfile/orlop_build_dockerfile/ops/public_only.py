"""HTTP connections to public addresses only, for builds of clients that are limited by a role or labels. The builder runs on
the host's network. Such a client must not use the builder to reach the host's loopback, its private networks or a cloud's
metadata service. (`orlop_engine.images.destinations` does the same for registries.)

A direct connection uses the checked address, because a second DNS lookup may return another address. Redirects are checked
like other requests. If the administrator has configured a proxy, the host name of a request is resolved and checked before
the request is sent to the proxy.
"""

from __future__ import annotations

import http.client
import socket
import urllib.parse
import urllib.request
from typing import Any

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_engine.images.public_addresses import is_public

__all__ = ["HTTPHandler", "HTTPSHandler", "addresses"]


def addresses(host: str, port: int) -> list[str]:
    """The addresses of a host. Raises `BuildFailed` if one of them is not public, and `OSError` if the host has none."""
    found = list(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
    if not all(map(is_public, found)):
        raise BuildFailed(f"connecting to {host[:255]}, which is not public, is not allowed on this listener", code=7)
    return found


def _connect(address: tuple[str, int], timeout: float | None = None, source_address: Any = None) -> socket.socket:
    """Connect to an allowed address, like `socket.create_connection`."""
    host, port = address
    error: OSError = OSError(f"{host} has no address")
    for each in addresses(host, port):
        try:
            return socket.create_connection((each, port), timeout)
        except OSError as failed:
            error = failed
    raise error


class _Plain(http.client.HTTPConnection):
    def connect(self) -> None:
        self._create_connection = _connect
        super().connect()


class _Secure(http.client.HTTPSConnection):
    def connect(self) -> None:
        self._create_connection = _connect
        super().connect()


def _check_proxied(request: urllib.request.Request) -> bool:
    """Whether a proxy makes the connection. If so, this function checks the host name of the request."""
    wanted = urllib.parse.urlsplit(request.full_url)
    tunnelled: str | None = getattr(request, "_tunnel_host", None)
    if request.host == wanted.netloc and not tunnelled:
        return False
    addresses(wanted.hostname or "", wanted.port or (443 if wanted.scheme == "https" else 80))
    return True


class HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(http.client.HTTPConnection if _check_proxied(req) else _Plain, req)


class HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(http.client.HTTPSConnection if _check_proxied(req) else _Secure, req)
