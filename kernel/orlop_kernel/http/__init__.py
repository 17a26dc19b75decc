"""HTTP/1.1 on trio, for a daemon's API: keep-alive, streaming, hijack. Knows nothing of Docker.

`messages` is the interface of handlers. `head`, `framing` and `encode` are the protocol without IO; `transport` moves bytes,
`connection` serves one client, `server` all of them. The package keeps no state on disk.
"""
