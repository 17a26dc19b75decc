"""The runtime driver `runc`: runc, and every runtime with its command line (crun, youki).

Pure: it returns commands and touches nothing, except once, when it is made, to see whether this host's cgroups need the one
thing that crun cannot do without. What runtimes complain is read in `messages`.
"""

from orlop_sdk import Register, hookimpl

from .driver import Runc

__all__ = ["Runc", "orlop_runtime"]


@hookimpl
def orlop_runtime(register: Register) -> None:
    register("runc", Runc, spi_version=1)
