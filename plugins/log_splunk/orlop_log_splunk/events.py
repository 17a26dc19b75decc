"""Events of Splunk's HTTP Event Collector, the same as dockerd writes: concatenated JSON objects. This module does no
I/O."""

from __future__ import annotations

import msgspec

from orlop_sdk.logsending import LogLine

__all__ = ["FORMATS", "Event"]

FORMATS = ("inline", "json", "raw")

_encode = msgspec.json.Encoder().encode


class Event:
    """Encodes the lines of one container. `fields` are the fields of every event: host, source, sourcetype, index."""

    def __init__(self, form: str, fields: dict[str, str], tag: str, attributes: dict[str, str]) -> None:
        self._form = form
        self._fields = _encode({name: value for name, value in fields.items() if value})[1:]
        rest = ({"tag": tag} if tag else {}) | ({"attrs": attributes} if attributes else {})
        self._rest = b"," + _encode(rest)[1:] if rest else b"}"
        words = ([tag] if tag else []) + [f"{name}={value}" for name, value in attributes.items()]
        self._prefix = "".join(f"{word} " for word in words)

    def __call__(self, line: LogLine) -> bytes:
        """Encode a line. The result is empty for a line of white space, because the collector refuses such an event."""
        text = line.data.decode("utf-8", "replace")
        if self._form == "raw":
            if not text.strip():
                return b""
            event = _encode(self._prefix + text)
        else:
            shown = self._json(line.data) if self._form == "json" else b""
            event = b'{"line":%s,"source":%s%s' % (shown or _encode(text), _encode(line.stream), self._rest)
        seconds, rest = divmod(line.time_ns // 1000, 1_000_000)
        return b'{"event":%s,"time":"%d.%06d",%s' % (event, seconds, rest, self._fields)

    @staticmethod
    def _json(data: bytes) -> bytes:
        """Returns the line if it is a JSON document, otherwise b""."""
        try:
            msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return b""
        return data
