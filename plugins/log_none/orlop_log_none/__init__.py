"""The log driver `none`: output reaches only attached clients."""

from orlop_sdk import Register, hookimpl

from .driver import NoLog, NoLogWriter

__all__ = ["NoLog", "NoLogWriter", "orlop_log"]


@hookimpl
def orlop_log(register: Register) -> None:
    register("none", NoLog, spi_version=1)
