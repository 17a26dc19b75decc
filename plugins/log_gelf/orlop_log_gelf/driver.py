"""The driver: options and addresses."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from orlop_sdk import InvalidParameter, LogInfo, LogWriter
from orlop_sdk.logfiles import ATTRIBUTE_OPTIONS, check_options, log_tag, selected_attributes
from orlop_sdk.logsending import DatagramSender, LogLine, Sender, SendingWriter, ServiceLog, StreamSender, split_address

from .messages import COMPRESSIONS, Message, chunks, compress, extra

__all__ = ["Gelf"]

_UDP_OPTIONS = frozenset({"gelf-compression-level", "gelf-compression-type"})
_TCP_OPTIONS = frozenset({"gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"})
_OPTIONS = ATTRIBUTE_OPTIONS | _UDP_OPTIONS | _TCP_OPTIONS | {"gelf-address"}


class _Udp(DatagramSender):
    def __init__(self, address: tuple[str, int], message: Message, kind: str, level: int) -> None:
        super().__init__(address)
        self._message, self._kind, self._level = message, kind, level

    def datagrams(self, line: LogLine) -> Sequence[bytes]:
        if not line.data:
            return ()  # GELF has no empty messages
        return chunks(compress(self._message(line.stream, line.data, line.time_ns), self._kind, self._level))


class _Tcp(StreamSender):
    def __init__(self, address: tuple[str, int], message: Message) -> None:
        super().__init__(address)
        self._message = message

    def encode(self, line: LogLine) -> bytes:
        return self._message(line.stream, line.data, line.time_ns) + b"\0" if line.data else b""


def _address(options: Mapping[str, str]) -> tuple[str, tuple[str, int]]:
    text = options.get("gelf-address", "")
    if not text:
        raise InvalidParameter("gelf-address is a required parameter")
    try:
        scheme, host, port, _ = split_address(text)
    except ValueError as error:
        raise InvalidParameter(str(error)) from None
    if scheme not in ("udp", "tcp"):
        raise InvalidParameter("gelf: endpoint needs to be TCP or UDP")
    if not port:
        raise InvalidParameter("gelf: please provide gelf-address as proto://host:port")
    if int(port) > 65535:
        raise InvalidParameter(f"cannot use log option gelf-address={text}: port {port} is larger than 65535")
    return scheme, (host or "localhost", int(port))


def _check_udp(options: Mapping[str, str]) -> None:
    for key in sorted(_TCP_OPTIONS & options.keys()):
        raise InvalidParameter(f'"{key}" is only valid for TCP')
    kind, level = options.get("gelf-compression-type", "gzip"), options.get("gelf-compression-level", "1")
    if kind not in COMPRESSIONS:
        raise InvalidParameter(f'unknown value "{kind}" for log opt "gelf-compression-type" for gelf log driver')
    if not re.fullmatch(r"-1|\+?[0-9]", level, re.ASCII):
        raise InvalidParameter(f'unknown value "{level}" for log opt "gelf-compression-level" for gelf log driver')


def _check_tcp(options: Mapping[str, str]) -> None:
    if _UDP_OPTIONS & options.keys():
        raise InvalidParameter("compression is only supported on UDP")
    for key in sorted(_TCP_OPTIONS & options.keys()):
        if not re.fullmatch(r"\+?\d{1,9}", options[key], re.ASCII):
            raise InvalidParameter(f'"{key}" must be a positive integer')


class Gelf(ServiceLog):
    """Implements `LogDriver`."""

    def validate(self, options: Mapping[str, str]) -> None:
        scheme, _ = _address(options)
        check_options("gelf", options, _OPTIONS)
        (_check_udp if scheme == "udp" else _check_tcp)(options)

    def open_writer(self, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
        scheme, address = _address(options)
        fields = extra(info, log_tag(info, options), selected_attributes(info, options))
        message = Message(os.uname().nodename, fields)
        sender: Sender
        if scheme == "udp":
            kind, level = options.get("gelf-compression-type", "gzip"), int(options.get("gelf-compression-level", "1"))
            sender = _Udp(address, message, kind, level)
        else:
            sender = _Tcp(address, message)
        return SendingWriter("gelf", sender, options)
