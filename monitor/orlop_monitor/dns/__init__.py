"""The name server of a container, at 127.0.0.11: names of its networks' containers, everything else forwarded.

wire     DNS messages, as far as this needs them; pure
names    the tables that the daemon writes, and what they answer
server   the sockets, and the servers outside
"""
