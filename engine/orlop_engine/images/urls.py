"""Checks URLs before they are fetched, with the messages of Go's `net/url` and `net/http`. This module does no I/O."""

from __future__ import annotations

import json
import re
from urllib.parse import urlsplit

from orlop_sdk import InvalidParameter

__all__ = ["check_url"]

_HOST = re.compile(r"[^\s<>\"\\^`{|}\[\]%]+|\[[0-9a-fA-F:.]+(%25[\w.~-]+)?\]")


def _quoted(text: str) -> str:
    return json.dumps(text[:500], ensure_ascii=False)


def check_url(url: str) -> None:
    """Raise `InvalidParameter` if the text is not a valid HTTP URL."""
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in url):
        raise InvalidParameter(f"parse {_quoted(url)}: net/url: invalid control character in URL")
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in ("http", "https"):
        raise InvalidParameter(f"Get {_quoted(url)}: unsupported protocol scheme {_quoted(scheme.lower())}")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    if not authority:
        raise InvalidParameter(f"Get {_quoted(url)}: http: no Host in request URL")
    try:
        port = urlsplit(url).port
    except ValueError:
        port = -1
    host = re.sub(r":[0-9]*$", "", authority)
    if not _HOST.fullmatch(host) or (":" in host and not host.startswith("[")):
        raise InvalidParameter(f"parse {_quoted(url)}: invalid host or port {_quoted(authority)}")
    if port is not None and not 0 < port < 65536:
        raise InvalidParameter(f"Get {_quoted(url)}: {_quoted(authority)} has no valid port")
