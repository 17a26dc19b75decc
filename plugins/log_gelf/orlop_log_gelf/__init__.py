"""The log driver `gelf`: sends each line to Graylog, Logstash or Fluent Bit in the Graylog Extended Log Format 1.1.

The driver and its options are in `driver`, the messages and their division into datagrams in `messages`.
"""

from orlop_sdk import Register, hookimpl

from .driver import Gelf

__all__ = ["Gelf", "orlop_log"]


@hookimpl
def orlop_log(register: Register) -> None:
    register("gelf", Gelf, spi_version=1)
