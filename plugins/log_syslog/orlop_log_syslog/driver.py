"""The driver: options, addresses, and the connection to the local daemon."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence

from orlop_sdk import (
    DriverError,
    InvalidParameter,
    LogBlock,
    LogInfo,
    LogWriter,
)
from orlop_sdk.logfiles import ATTRIBUTE_OPTIONS, check_options, log_tag
from orlop_sdk.logsending import DatagramSender, LogLine, Sender, SendingWriter, ServiceLog, StreamSender, Tls, split_address

from . import messages

__all__ = ["Syslog"]

_OPTIONS = ATTRIBUTE_OPTIONS | {
    "syslog-address",
    "syslog-facility",
    "syslog-format",
    "syslog-tls-ca-cert",
    "syslog-tls-cert",
    "syslog-tls-key",
    "syslog-tls-skip-verify",
}
_LOCAL = ("/dev/log", "/var/run/syslog", "/var/run/log")
_TLS = "tcp+tls"
_PORT = "514"

Address = tuple[str, int] | str


class _Stream(StreamSender):
    def __init__(self, address: Address, tls: Tls | None, encoder: messages.Encoder) -> None:
        super().__init__(address, tls)
        self._encoder = encoder

    def encode(self, line: LogLine) -> bytes:
        return self._encoder.line(line.stream, line.data, line.time_ns)

    def encode_block(self, block: LogBlock) -> bytes:
        return self._encoder.block(block.stream, block.data, block.time_ns)


class _Datagram(DatagramSender):
    def __init__(self, address: Address, encoder: messages.Encoder) -> None:
        super().__init__(address)
        self._encoder = encoder

    def datagrams(self, line: LogLine) -> Sequence[bytes]:
        message = self._encoder.line(line.stream, line.data, line.time_ns)
        return (message,) if message else ()


def _address(options: Mapping[str, str]) -> tuple[str, Address]:
    """The scheme and the address to connect to; ("", "") for the local daemon. Raises `InvalidParameter`."""
    text = options.get("syslog-address", "")
    if not text:
        return "", ""
    try:
        scheme, host, port, path = split_address(text)
    except ValueError as error:
        raise InvalidParameter(str(error)) from None
    if scheme in ("unix", "unixgram"):
        if not os.path.exists(path):
            raise InvalidParameter(f"stat {path}: no such file or directory")
        return scheme, path
    if scheme not in ("udp", "tcp", _TLS):
        raise InvalidParameter(f"unsupported scheme: '{scheme}'")
    if int(port or _PORT) > 65535:
        raise InvalidParameter(f"cannot use log option syslog-address={text}: port {port} is larger than 65535")
    return scheme, (host or "localhost", int(port or _PORT))


def _facility(options: Mapping[str, str]) -> int:
    text = options.get("syslog-facility", "") or "daemon"
    if text in messages.FACILITIES:
        return messages.FACILITIES[text]
    if text.isascii() and text.isdigit() and len(text) < 4 and int(text) <= 23:
        return int(text)
    raise InvalidParameter("invalid syslog facility")


def _tls(options: Mapping[str, str]) -> Tls:
    """The TLS settings. Raises `DriverError` for an unreadable file."""
    ca, cert, key = (options.get(f"syslog-tls-{name}", "") for name in ("ca-cert", "cert", "key"))
    for path in filter(None, (ca, cert, key)):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            what = "CA certificate" if path == ca else "X509 key pair"
            raise DriverError(f'could not read {what} "{path}": {error.strerror}') from None
    # As in dockerd, the option has an effect with any value
    return Tls(ca, cert, key, verify="syslog-tls-skip-verify" not in options)


def _local() -> tuple[str, str]:
    """The socket of the local daemon and its scheme. Raises `DriverError`."""
    for path in _LOCAL:
        for scheme, kind in (("unixgram", socket.SOCK_DGRAM), ("unix", socket.SOCK_STREAM)):
            with socket.socket(socket.AF_UNIX, kind) as made:
                try:
                    made.connect(path)
                except OSError:
                    continue
            return scheme, path
    raise DriverError(f"Unix syslog delivery error: no syslog daemon listens at {', '.join(_LOCAL)}")


class Syslog(ServiceLog):
    """Implements `LogDriver`."""

    def validate(self, options: Mapping[str, str]) -> None:
        check_options("syslog", options, _OPTIONS)
        _address(options)
        _facility(options)
        if options.get("syslog-format", "") not in messages.FORMATS:
            raise InvalidParameter("Invalid syslog format")

    def open_writer(self, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
        scheme, address = _address(options)
        if not scheme:
            scheme, address = _local()
        form = options.get("syslog-format", "")
        counted = scheme == _TLS
        host = os.uname().nodename
        encoder = messages.Encoder(form, _facility(options), log_tag(info, options), host, os.getpid(), counted=counted)
        sender: Sender
        if scheme in ("udp", "unixgram"):
            sender = _Datagram(address, encoder)
        else:
            sender = _Stream(address, _tls(options) if scheme == _TLS else None, encoder)
        return SendingWriter("syslog", sender, options)
