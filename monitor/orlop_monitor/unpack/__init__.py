"""The unpack worker: a short-lived, sandboxed process that unpacks layers and handles other requests on untrusted trees.

The zygote forks a worker, which handles one request on its socket and exits. The directory that a worker writes to belongs
to an active snapshot of a storage driver. If the worker dies, the daemon removes the snapshot, and thereby all written
files. This package must not import trio, because the zygote imports it.
"""
