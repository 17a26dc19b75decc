"""The log driver `mydriver`. It sends each line as a JSON object over TCP to the address in the option `mydriver-address`.

`orlop_sdk.logsending` implements the queue, the connection, and the joining of long lines. The driver implements `encode`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from orlop_sdk import (
    InvalidParameter,
    LogInfo,
    LogWriter,
    Register,
    hookimpl,
)
from orlop_sdk.logfiles import ATTRIBUTE_OPTIONS, check_options, log_tag, rfc3339, selected_attributes
from orlop_sdk.logsending import LogLine, SendingWriter, ServiceLog, StreamSender, split_address

__all__ = ["MyDriver", "orlop_log"]

ADDRESS = "mydriver-address"


class Sender(StreamSender):
    """`common` are the members that all messages of a container have."""

    def __init__(self, address: tuple[str, int], common: Mapping[str, str]) -> None:
        super().__init__(address)
        self._common = common

    def encode(self, line: LogLine) -> bytes:
        text = line.data.decode("utf-8", "replace")
        message = {"time": rfc3339(line.time_ns), "stream": line.stream, "text": text, **self._common}
        return json.dumps(message).encode() + b"\n"


def parse_address(options: Mapping[str, str]) -> tuple[str, int]:
    text = options.get(ADDRESS, "")
    if not text:
        raise InvalidParameter(f"{ADDRESS} is a required log option of the driver mydriver")
    try:
        scheme, host, port, _ = split_address(text)
        if scheme != "tcp" or not host or not 0 < int(port or 0) < 65536:
            raise ValueError("tcp://HOST:PORT is needed")
    except ValueError as error:
        raise InvalidParameter(f"cannot use log option {ADDRESS}={text}: {error}") from None
    return host, int(port)


class MyDriver(ServiceLog):
    """Implements `LogDriver`. The daemon keeps a copy of the log for `docker logs`, because `readable` is false."""

    def validate(self, options: Mapping[str, str]) -> None:
        parse_address(options)
        check_options("mydriver", options, ATTRIBUTE_OPTIONS | {ADDRESS})

    def open_writer(self, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
        common = {**selected_attributes(info, options), "tag": log_tag(info, options)}
        return SendingWriter("mydriver", Sender(parse_address(options), common), options)


@hookimpl
def orlop_log(register: Register) -> None:
    register("mydriver", MyDriver, spi_version=1)
