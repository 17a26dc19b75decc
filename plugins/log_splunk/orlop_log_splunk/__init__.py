"""The log driver `splunk`: sends each line to the HTTP Event Collector of Splunk.

The driver and its options are in `driver`, the events in `events`.
"""

from orlop_sdk import Register, hookimpl

from .driver import Splunk

__all__ = ["Splunk", "orlop_log"]


@hookimpl
def orlop_log(register: Register) -> None:
    register("splunk", Splunk, spi_version=1)
