"""The unpack worker: a short-lived, sandboxed process that unpacks layers and handles other requests on untrusted trees.

The zygote forks it; it serves one request on its socket and exits. It owns nothing: the directory it writes to belongs to an
active snapshot of a storage driver. If it dies, removing that snapshot removes all it has written. Nothing here may import
trio, because the zygote preloads it.
"""
