"""HTTP/1.1 on trio, for a daemon's API: keep-alive, streaming, hijack. Knows nothing of Docker.

`messages` is the interface of handlers. `head`, `framing` and `encode` implement the protocol without IO; `transport` moves
bytes, `connection` serves one client, and `server` serves all clients. The package keeps no state on disk.
"""
