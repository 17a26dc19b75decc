"""The network driver `null`, used by the network `none`: a namespace with only loopback."""

from orlop_sdk import Register, hookimpl

from .driver import NoneDriver

__all__ = ["NoneDriver", "orlop_network"]


@hookimpl
def orlop_network(register: Register) -> None:
    register("null", NoneDriver)
