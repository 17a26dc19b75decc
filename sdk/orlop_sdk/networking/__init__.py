"""Toolkit for network drivers: rtnetlink messages, a socket that sends them, a thread for the driver's work, and the
configuration of a container's link.

All functions and classes except `Worker.run` block, and are called in the driver's network thread, which `Worker` provides.
This package needs trio, so only modules of the daemon may import it.
"""

from ._inside import route_inside, set_up_inside
from ._route_socket import Refused, RouteSocket
from ._sysctl import enable_forwarding, forwards, skip_duplicate_search, write_sysctl
from ._worker import Worker

__all__ = [
    "Refused",
    "RouteSocket",
    "Worker",
    "enable_forwarding",
    "forwards",
    "route_inside",
    "set_up_inside",
    "skip_duplicate_search",
    "write_sysctl",
]
