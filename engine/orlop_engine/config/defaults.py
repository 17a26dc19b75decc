"""The drivers and networks that are used where neither daemon.json nor a request names one. No other module of the kernel or
the engine names a driver: a test searches for it.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "DEFAULT_NETWORK",
    "DIRECTORIES",
    "HOST_NETWORK",
    "LOG_DRIVER",
    "NETWORK_DRIVER",
    "NO_LOG_DRIVER",
    "NO_NETWORK",
    "PREDEFINED_NETWORKS",
    "RUNTIME",
    "RUNTIME_DRIVER",
    "STORAGE_DRIVER",
    "VOLUME_DRIVER",
]

STORAGE_DRIVER = "overlay2"
LOG_DRIVER = "json-file"
NETWORK_DRIVER = "bridge"
VOLUME_DRIVER = "local"

NO_LOG_DRIVER = "none"
"""Containers with this log driver have no log, so their monitors load no driver."""

RUNTIME = "runc"
"""The entry of `runtimes` that is always there, and its program."""

RUNTIME_DRIVER = "runc"
"""The driver of entries of `runtimes` without a `runtimeType`."""

DEFAULT_NETWORK = "bridge"
"""The network of containers that ask for none. `bridge`, `bip`, `icc` and others configure it."""

HOST_NETWORK = "host"
"""The network of containers in the host's network namespace; also their network mode."""

NO_NETWORK = "none"
"""The network of containers without one; also their network mode."""

PREDEFINED_NETWORKS: Mapping[str, str] = {
    DEFAULT_NETWORK: NETWORK_DRIVER,
    HOST_NETWORK: "host",
    NO_NETWORK: "null",
}
"""The driver of each network that always exists. Users can neither create nor remove these."""

DIRECTORIES: Mapping[tuple[str, str], str] = {
    ("network", NETWORK_DRIVER): "network",
    ("volume", VOLUME_DRIVER): "volumes",
}
"""By kind and driver: the directory of a default driver. Others have `KIND-drivers/NAME`."""
