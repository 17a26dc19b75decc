"""HTTP/1.1 on trio, for a daemon's API: keep-alive, streaming, hijack. Knows nothing of Docker.

`messages` is the interface of handlers. `head`, `framing` and `encode` are the protocol without IO; `transport` moves bytes,
`connection` serves one client, `server` all of them. It keeps no state on disk.
"""

from __future__ import annotations

from orlop_kernel.http.head import BadRequest
from orlop_kernel.http.listeners import TlsListener, UnixListener, inherited_listener, open_tcp_listeners, open_unix_listener
from orlop_kernel.http.messages import (
    Answer,
    Body,
    BodyError,
    Handler,
    Hijack,
    Limits,
    Peer,
    RawStream,
    Request,
    Response,
    Streaming,
)
from orlop_kernel.http.server import Server, serve_connection

__all__ = [
    "Answer",
    "BadRequest",
    "Body",
    "BodyError",
    "Handler",
    "Hijack",
    "Limits",
    "Peer",
    "RawStream",
    "Request",
    "Response",
    "Server",
    "Streaming",
    "TlsListener",
    "UnixListener",
    "inherited_listener",
    "open_tcp_listeners",
    "open_unix_listener",
    "serve_connection",
]
