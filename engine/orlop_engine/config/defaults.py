"""The drivers and networks that are used if neither daemon.json nor a request specifies others. No other module of the
kernel or the engine contains the name of a driver; a test checks this.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "AUTO_RUNTIME",
    "AUTO_RUNTIMES",
    "DEFAULT_NETWORK",
    "DIRECTORIES",
    "DISTRIBUTIONS",
    "HOST_NETWORK",
    "LOG_CACHE_DRIVER",
    "LOG_DISTRIBUTIONS",
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

LOG_CACHE_DRIVER = "local"
"""Writes a copy of the log of containers whose log driver has no reader, for `docker logs`."""

NO_LOG_DRIVER = "none"
"""Containers with this log driver have no log, so their monitors load no driver."""

RUNTIME = "runc"
"""The name of the built-in entry of `runtimes`, and of its program."""

AUTO_RUNTIME = "auto"
"""If `default-runtime` has this value, new containers get the first of `AUTO_RUNTIMES` whose program is installed."""

AUTO_RUNTIMES = ("crun", RUNTIME)
"""Names of programs with runc's command line, the fastest first. Containers may use all of them that are installed."""

RUNTIME_DRIVER = "runc"
"""The driver for entries of `runtimes` that have no `runtimeType`."""

DEFAULT_NETWORK = "bridge"
"""The network of containers whose request names no network. Keys such as `bridge`, `bip` and `icc` configure it."""

HOST_NETWORK = "host"
"""The network of containers in the host's network namespace. The network mode of these containers has the same name."""

NO_NETWORK = "none"
"""The network of containers without network access. The network mode of these containers has the same name."""

PREDEFINED_NETWORKS: Mapping[str, str] = {
    DEFAULT_NETWORK: NETWORK_DRIVER,
    HOST_NETWORK: "host",
    NO_NETWORK: "null",
}
"""Name -> driver of the networks that always exist. Users can neither create nor remove these networks."""

DIRECTORIES: Mapping[tuple[str, str], str] = {
    ("network", NETWORK_DRIVER): "network",
    ("volume", VOLUME_DRIVER): "volumes",
}
"""The directories of the default drivers, by kind and driver. The directory of any other driver is
`KIND-drivers/NAME`."""

DISTRIBUTIONS = frozenset(
    {
        "orlop-docker-plugins",
        "orlop-log-fluentd",
        "orlop-log-gelf",
        "orlop-log-journald",
        "orlop-log-jsonfile",
        "orlop-log-local",
        "orlop-log-none",
        "orlop-log-splunk",
        "orlop-log-syslog",
        "orlop-net-bridge",
        "orlop-net-host",
        "orlop-net-macvlan",
        "orlop-net-none",
        "orlop-runtime-runc",
        "orlop-storage-erofs",
        "orlop-storage-overlay2",
        "orlop-storage-vfs",
        "orlop-volume-local",
    }
)
"""The drivers of this project. Their methods run on the daemon's event loop. The tests fail if a method blocks the loop."""

LOG_DISTRIBUTIONS = tuple(sorted(name for name in DISTRIBUTIONS if name.startswith("orlop-log-")))
"""The log drivers of this project. Monitors call the writers of these drivers without a deadline, because the writers wait
only for their disk."""
