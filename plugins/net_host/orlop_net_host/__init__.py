"""The network driver `host`: the container runs in the host's network namespace."""

from orlop_sdk import Register, hookimpl

from .driver import HostDriver

__all__ = ["HostDriver", "orlop_network"]


@hookimpl
def orlop_network(register: Register) -> None:
    register("host", HostDriver)
