"""The network driver `bridge`: Linux bridges, veth pairs, and one nftables table.

Owns on the host: the bridges it made (marked by their alias), the host ends of its endpoints (`veth` and seven hex digits,
marked too), and the table `inet orlop` (`inet orlop_INSTANCE` beside other daemons). Foreign tables are left alone, with
one exception: where dockerd, or what imitates it, runs on the same host, its FORWARD policy is drop, and no accept of ours
can undo a drop of another chain. So in `ip filter DOCKER-USER` (and `ip6`), the chain Docker keeps for administrators, each
of our bridges gets two accepts, commented with our name; they go with the network. They also pass Docker's own isolation:
what our containers send to containers of dockerd is not filtered by dockerd any more.

All of it is in the host's kernel and outlives the daemon. A veth pair ends with the container's network namespace.
"""

from orlop_sdk import Register, hookimpl

from . import _pyroute2  # noqa: F401 - before the modules that import pyroute2
from .driver import BridgeDriver

__all__ = ["BridgeDriver", "orlop_network"]


@hookimpl
def orlop_network(register: Register) -> None:
    register("bridge", BridgeDriver)
