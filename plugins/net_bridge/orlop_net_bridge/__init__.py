"""The network driver `bridge`: Linux bridges, veth pairs, and one nftables table.

The driver's objects on the host are: the bridges that it has made, the host ends of its veth pairs (`veth` and seven hex
digits), and the table `inet orlop` (`inet orlop_INSTANCE` for a daemon with another data root). An alias marks the driver's
bridges and veths.

The driver changes no other table, with one exception. Dockerd, and programs that imitate it, set the FORWARD policy to drop,
and an accept in Orlop's table cannot undo a drop in another chain. The driver therefore adds two accept rules for each of
its bridges to `ip filter DOCKER-USER` (and `ip6`), the chain that Docker reserves for administrators. The rules are removed
together with the network. See `_docker_user`.

These objects are in the host's kernel, and stay when the daemon ends. A veth pair is destroyed together with the container's
network namespace.
"""

from orlop_sdk import Register, hookimpl

from . import _pyroute2  # noqa: F401 - before the modules that import pyroute2
from .driver import BridgeDriver

__all__ = ["BridgeDriver", "orlop_network"]


@hookimpl
def orlop_network(register: Register) -> None:
    register("bridge", BridgeDriver)
