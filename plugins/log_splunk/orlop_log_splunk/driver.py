"""The driver: options, and requests to the collector."""

from __future__ import annotations

import gzip
import http.client
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from orlop_sdk import (
    DriverError,
    InvalidParameter,
    LogInfo,
    LogWriter,
)
from orlop_sdk.logfiles import ATTRIBUTE_OPTIONS, check_options, log_tag, selected_attributes
from orlop_sdk.logsending import Item, LogLine, SendingWriter, ServiceLog, Tls, boolean, lines_of

from .events import FORMATS, Event

__all__ = ["Splunk"]

_OPTIONS = ATTRIBUTE_OPTIONS | {
    f"splunk-{name}"
    for name in (
        "url url-path token source sourcetype index capath caname insecureskipverify format verify-connection gzip "
        "gzip-level index-acknowledgment"
    ).split()
}
_PATH = "/services/collector/event/1.0"
_BATCH = 1000  # number of lines in one request
_SECONDS = 30.0


class _Https(http.client.HTTPConnection):
    """Like `HTTPSConnection`, but the certificate may be required to contain another name than the host's."""

    default_port = 443

    def __init__(self, host: str, port: int | None, tls: Tls) -> None:
        super().__init__(host, port, timeout=_SECONDS)
        self._tls = tls

    def connect(self) -> None:
        super().connect()
        self.sock = self._tls.secure(self.sock, self.host)


class _Collector:
    """Implements `Sender` with one connection, which is kept open."""

    def __init__(self, url: str, headers: dict[str, str], tls: Tls, level: int | None, event: Event) -> None:
        self._parts = urlsplit(url)
        self._headers, self._tls, self._level, self._event = headers, tls, level, event
        self._connection: http.client.HTTPConnection | None = None

    def open(self) -> None:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme != "https":
            self._connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
            return
        self._connection = _Https(host, port, self._tls)

    def send(self, items: Sequence[Item]) -> int:
        lines, taken = list[LogLine](), 0
        while taken < len(items) and len(lines) < _BATCH:
            lines += lines_of(items[taken : taken + 1])
            taken += 1
        for start in range(0, len(lines), _BATCH):
            body = b"".join(map(self._event, lines[start : start + _BATCH]))
            if body:
                self._post(gzip.compress(body, self._level, mtime=0) if self._level is not None else body)
        return taken

    def _post(self, body: bytes) -> None:
        """Send lines. Raises `OSError` if the request may succeed later. Lines that the collector refuses are lost."""
        status, text = self.request("POST", body)
        if status >= 500 or status == 429:
            raise OSError(f"the collector answers {status}: {text}")
        if status >= 300:
            print(f"log driver splunk: the collector refuses lines: {status}: {text}", file=sys.stderr)

    def request(self, method: str, body: bytes = b"") -> tuple[int, str]:
        assert self._connection is not None
        try:
            self._connection.request(method, self._parts.path, body, self._headers)
            answer = self._connection.getresponse()
            text = answer.read(1024).decode("utf-8", "replace").strip()
            if not answer.isclosed():
                self._connection.close()  # the next request opens the connection again
            return answer.status, text
        except http.client.HTTPException as error:
            raise OSError(f"{type(error).__name__}: {error}") from None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _url(options: Mapping[str, str]) -> str:
    text = options.get("splunk-url", "")
    if not text:
        raise DriverError("splunk: splunk-url is expected")
    if not options.get("splunk-token"):
        raise DriverError("splunk: splunk-token is expected")
    try:
        parts = urlsplit(text)
        valid = parts.hostname and parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise DriverError("splunk: expected format scheme://dns_name_or_ip:port for splunk-url")
    path = options.get("splunk-url-path", "") or _PATH
    if not path.startswith("/"):
        raise DriverError("splunk: expected format /path for splunk-url-path")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _level(options: Mapping[str, str]) -> int | None:
    """The level of compression; None for no compression."""
    text = options.get("splunk-gzip-level", "")
    if text and text not in ("-1", *"0123456789"):
        raise DriverError(f"not supported level '{text}' for splunk-gzip-level (supported values between -1 and 9)")
    if not boolean(options, "splunk-gzip"):
        return None
    return int(text) if text not in ("", "-1") else 6


def _headers(options: Mapping[str, str], compressed: bool) -> dict[str, str]:
    found = {"Authorization": f"Splunk {options['splunk-token']}", "User-Agent": "orlop"}
    if compressed:
        found["Content-Encoding"] = "gzip"
    if boolean(options, "splunk-index-acknowledgment"):
        found["X-Splunk-Request-Channel"] = secrets.token_hex(16)
    return found


class Splunk(ServiceLog):
    """Implements `LogDriver`. As in dockerd, the values of options are checked at the start of a container, not at its
    creation."""

    def validate(self, options: Mapping[str, str]) -> None:
        check_options("splunk", options, _OPTIONS)

    def open_writer(self, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
        url, level = _url(options), _level(options)
        form = options.get("splunk-format", "") or "inline"
        if form not in FORMATS:
            raise InvalidParameter(f"unknown format specified {form}, supported formats are inline, json and raw")
        skips = boolean(options, "splunk-insecureskipverify")
        tls = Tls(ca=options.get("splunk-capath", ""), verify=not skips, name=options.get("splunk-caname", ""))
        fields = {
            "host": os.uname().nodename,
            "source": options.get("splunk-source", ""),
            "sourcetype": options.get("splunk-sourcetype", ""),
            "index": options.get("splunk-index", ""),
        }
        tag = log_tag(info, options) if options.get("tag", "{{.ID}}") else ""
        event = Event(form, fields, tag, selected_attributes(info, options))
        collector = _Collector(url, _headers(options, level is not None), tls, level, event)
        if options.get("splunk-verify-connection") and boolean(options, "splunk-verify-connection"):
            _verify(collector, url)
        return SendingWriter("splunk", collector, options)


def _verify(collector: _Collector, url: str) -> None:
    try:
        collector.open()
        status, text = collector.request("OPTIONS")
    except OSError as error:
        raise DriverError(f'Options "{url}": {error}') from None
    finally:
        collector.close()
    if status != 200:
        raise DriverError(f"splunk: failed to verify connection: {status}: {text}")
