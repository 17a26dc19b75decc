"""The log driver `json-file`: one JSON object per line, byte for byte as dockerd writes it.

The format is in `records`, the driver in `driver`; rotation, compression and reading come from `orlop_sdk.logfiles`. Options
of all drivers that write files are in `orlop_sdk.logfiles._options`; options of only this driver belong in `driver`.
"""

from orlop_sdk import Register, hookimpl

from .driver import JsonFile

__all__ = ["JsonFile", "orlop_log"]


@hookimpl
def orlop_log(register: Register) -> None:
    register("json-file", JsonFile, spi_version=1)
