"""The log driver `fluentd`: sends each line to Fluentd or Fluent Bit with the forward protocol.

The driver and its options are in `driver`, the messages in `messages`.
"""

from orlop_sdk import Register, hookimpl

from .driver import Fluentd

__all__ = ["Fluentd", "orlop_log"]


@hookimpl
def orlop_log(register: Register) -> None:
    register("fluentd", Fluentd, spi_version=1)
