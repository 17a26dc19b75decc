"""The network driver `null`, of the network `none`: a namespace with loopback and nothing else."""

from orlop_sdk import Register, hookimpl

from .driver import NoneDriver

__all__ = ["NoneDriver", "orlop_network"]


@hookimpl
def orlop_network(register: Register) -> None:
    register("null", NoneDriver)
