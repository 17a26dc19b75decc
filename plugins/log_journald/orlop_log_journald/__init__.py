"""The log driver `journald`: writes each line to the systemd journal of the host, with fields that name the container.

    journalctl CONTAINER_NAME=web

The driver is in `driver`, the entries in `entries`.
"""

from orlop_sdk import Register, hookimpl

from .driver import Journald

__all__ = ["Journald", "orlop_log"]


@hookimpl
def orlop_log(register: Register) -> None:
    register("journald", Journald, spi_version=1)
