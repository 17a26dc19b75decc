"""The driver: options, addresses, and acknowledgements."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence

import msgspec

from orlop_sdk import InvalidParameter, LogInfo, LogWriter
from orlop_sdk.logfiles import ATTRIBUTE_OPTIONS, check_options, log_tag, selected_attributes
from orlop_sdk.logsending import (
    Item,
    LogLine,
    SendingWriter,
    ServiceLog,
    StreamSender,
    Tls,
    boolean,
    duration,
    lines_of,
    split_address,
    unsigned,
)
from orlop_sdk.sizes import parse_size

from .messages import Message

__all__ = ["Fluentd"]

_BOOLEANS = ("fluentd-async", "fluentd-async-connect", "fluentd-request-ack", "fluentd-sub-second-precision")
_DURATIONS = ("fluentd-retry-wait", "fluentd-read-timeout", "fluentd-write-timeout")
_RECONNECT = "fluentd-async-reconnect-interval"
_OPTIONS = (
    ATTRIBUTE_OPTIONS
    | {*_BOOLEANS, *_DURATIONS, _RECONNECT}
    | {"fluentd-address", "fluentd-buffer-limit", "fluentd-max-retries"}
)
_HOST, _PORT = "127.0.0.1", 24224
_ACK_SECONDS = 30.0
_UNACKNOWLEDGED = 100  # number of messages that are sent before their acknowledgements are read


class _Forward(StreamSender):
    def __init__(self, address: tuple[str, int] | str, tls: Tls | None, message: Message) -> None:
        super().__init__(address, tls)
        self._message = message

    def encode(self, line: LogLine) -> bytes:
        return self._message(line)


class _Acknowledged(_Forward):
    """Sends a message again unless the service has acknowledged it."""

    def send(self, items: Sequence[Item]) -> int:
        lines = list(lines_of(items[:1]))
        for start in range(0, len(lines), _UNACKNOWLEDGED):
            self._send(lines[start : start + _UNACKNOWLEDGED])
        return 1

    def _send(self, lines: Sequence[LogLine]) -> None:
        if self.socket is None:
            raise OSError("the service has closed the connection")
        names = [base64.b64encode(secrets.token_bytes(16)).decode() for _ in lines]
        self.socket.settimeout(_ACK_SECONDS)
        self.socket.sendall(b"".join(self._message(line, name) for line, name in zip(lines, names, strict=True)))
        self._receive(set(names))

    def _receive(self, expected: set[str]) -> None:
        assert self.socket is not None
        decoded = b""
        while expected:
            data = self.socket.recv(1 << 16)
            if not data:
                raise OSError("the service has closed the connection before it acknowledged all lines")
            decoded += data
            decoded = _take(decoded, expected)


def _take(data: bytes, expected: set[str]) -> bytes:
    """Remove the acknowledged names from `expected`. Returns the rest of the data, which is an incomplete answer."""
    start = data.find(b"\x81")
    while start >= 0:
        end = data.find(b"\x81", start + 1)
        answer = data[start : end if end >= 0 else len(data)]
        try:
            found = msgspec.msgpack.decode(answer, type=dict[str, str])
        except msgspec.DecodeError:
            if end < 0:
                return answer
        else:
            expected.discard(found.get("ack", ""))
        start = end
    return b""


def _address(options: Mapping[str, str]) -> tuple[tuple[str, int] | str, bool]:
    """The address to connect to, and whether to use TLS."""
    text = options.get("fluentd-address", "")
    if not text:
        return (_HOST, _PORT), False
    try:
        scheme, host, port, path = split_address(text if "://" in text else f"tcp://{text}")
        if scheme == "unix":
            if not path.strip("/"):
                raise ValueError("path is empty")
            return path, False
        if scheme not in ("tcp", "tls"):
            raise ValueError(f"unsupported scheme: '{scheme}'")
        if path:
            raise ValueError("should not contain a path element")
        if int(port or _PORT) > 65535:
            raise ValueError(f"port {port} is larger than 65535")
    except ValueError as error:
        raise InvalidParameter(f"invalid fluentd-address ({text}): {error}") from None
    return (host or _HOST, int(port or _PORT)), scheme == "tls"


def _buffer_limit(options: Mapping[str, str]) -> int | None:
    text = options.get("fluentd-buffer-limit", "")
    try:
        return parse_size(text) if text else None
    except ValueError as error:
        raise InvalidParameter(str(error)) from None


class Fluentd(ServiceLog):
    """Implements `LogDriver`. Connections are always made in the background, and repeated until the service answers. So the
    options for asynchronous connections and for retries are checked, but have no effect."""

    def validate(self, options: Mapping[str, str]) -> None:
        check_options("fluentd", options, _OPTIONS)
        for key in _BOOLEANS:
            boolean(options, key)
        for key in _DURATIONS:
            duration(options, key, 0)
        if "fluentd-async" in options and "fluentd-async-connect" in options:
            raise InvalidParameter("conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect'")
        unsigned(options, "fluentd-max-retries", 0)
        _buffer_limit(options)
        if options.get(_RECONNECT) and not 0.1 <= duration(options, _RECONNECT, 0) <= 10:
            value = options[_RECONNECT]
            raise InvalidParameter(f'invalid value for {_RECONNECT}: value ("{value}") must be between 100ms and 10s')
        _address(options)

    def open_writer(self, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
        address, secured = _address(options)
        fields = {
            "container_id": info.container_id,
            "container_name": info.container_name,
            **selected_attributes(info, options),
        }
        nanoseconds = boolean(options, "fluentd-sub-second-precision")
        message = Message(log_tag(info, options), fields, nanoseconds=nanoseconds)
        kind = _Acknowledged if boolean(options, "fluentd-request-ack") else _Forward
        sender = kind(address, Tls() if secured else None, message)
        return SendingWriter("fluentd", sender, options, limit=_buffer_limit(options))
