"""Addresses in log options, with Go's messages about a malformed URL."""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["split_address"]

_URL = re.compile(r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):)?(?://(?P<host>[^/?#]*))?(?P<path>[^?#]*)")
_HOST = re.compile(r"(?:[^@]*@)?(?P<name>\[[^\]]*\]|[^:]*)(?P<port>:.*)?")


def split_address(address: str) -> tuple[str, str, str, str]:
    """Split a URL into scheme, host, port and path; a missing part is "". An IPv6 address in the host has no brackets.
    Raises `ValueError` with Go's message for a port that is not a number."""
    found = _URL.match(address)
    assert found is not None  # all parts of the pattern are optional
    scheme, place, path = found["scheme"] or "", found["host"] or "", found["path"] or ""
    host = _HOST.fullmatch(place)
    if host is None:
        raise ValueError(f'parse "{address}": invalid character in host name')
    name, port = host["name"], host["port"] or ""
    if not re.fullmatch(r"(:\d*)?", port, re.ASCII):
        wrong = port[port.rindex(":") :]
        raise ValueError(f'parse "{address}": invalid port "{wrong}" after host')
    return scheme.lower(), name.strip("[]"), port[1:], unquote(path)
