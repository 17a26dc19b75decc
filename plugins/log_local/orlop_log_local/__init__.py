"""The log driver `local`: compact binary frames, rotated and compressed by default (5 files of 20 MiB).

The format is in `frames`, the driver in `driver`; rotation, compression and reading come from `orlop_sdk.logfiles`.
"""

from orlop_sdk import Register, hookimpl

from .driver import LocalLog

__all__ = ["LocalLog", "orlop_log"]


@hookimpl
def orlop_log(register: Register) -> None:
    register("local", LocalLog, spi_version=1)
