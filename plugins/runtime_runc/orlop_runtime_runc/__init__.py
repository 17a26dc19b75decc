"""The runtime driver `runc`: runc, and runtimes with the same command line (crun, youki).

The driver only builds commands, with one exception. For crun, the constructor reads the host's mounts, to find out whether a
cgroup mount must be detached. `messages` converts the runtimes' error messages.
"""

from orlop_sdk import Register, hookimpl

from .driver import Runc

__all__ = ["Runc", "orlop_runtime"]


@hookimpl
def orlop_runtime(register: Register) -> None:
    register("runc", Runc, spi_version=1)
