"""The log driver `syslog`: sends each line to a syslog daemon, local or remote.

The driver and its options are in `driver`, the message formats in `messages`. The queue and the connections come from
`orlop_sdk.logsending`.
"""

from orlop_sdk import Register, hookimpl

from .driver import Syslog

__all__ = ["Syslog", "orlop_log"]


@hookimpl
def orlop_log(register: Register) -> None:
    register("syslog", Syslog, spi_version=1)
