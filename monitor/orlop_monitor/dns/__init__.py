"""The name server of a container, at 127.0.0.11. It answers names of containers on its networks and forwards other queries.

wire     encoding and decoding of DNS messages; no I/O
names    the tables that the daemon writes, and the lookup of names in them
server   the sockets, and forwarding to upstream servers
"""
