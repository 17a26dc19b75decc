"""Unpacking layers, and the other jobs on untrusted trees that a short-lived, sandboxed child does for the daemon.

The child is forked by the zygote, serves one request on its socket and ends. It owns nothing: the directory it writes into
belongs to a storage driver's active snapshot, which counts for nothing until it is committed, so a child that dies at any
point leaves only what `remove` of that snapshot clears away. Nothing here may import trio (the zygote preloads it).
"""
