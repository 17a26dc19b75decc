"""The network drivers `macvlan` and `ipvlan`: each container has a link that the kernel attaches to a link of the host (the
parent). So the container is a separate member of the parent's network.

The drivers' objects on the host are the parents that they have made: VLAN links (`eth0.50`), and the links of networks
without the option `parent` (`dm-ID`, `di-ID`). An alias marks them. A container's link is only in the container's network
namespace, and is destroyed together with the namespace. Its alias and its link group identify the endpoint, so that a later
daemon recognizes the link.

The drivers make no firewall rules and publish no ports: other hosts reach the container at its own address.
"""

from orlop_sdk import Register, hookimpl

from .driver import IpvlanDriver, MacvlanDriver

__all__ = ["IpvlanDriver", "MacvlanDriver", "orlop_network"]


@hookimpl
def orlop_network(register: Register) -> None:
    register("macvlan", MacvlanDriver)
    register("ipvlan", IpvlanDriver)
