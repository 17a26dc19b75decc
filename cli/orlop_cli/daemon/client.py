"""API calls for the commands: untyped JSON, errors as ApiError, streams.

Version negotiation usually costs no request. Requests use BASE_API, which every daemon since 2023 supports. A daemon that
does not support it answers with 400 and its versions, and the request is repeated once. Flags that need a newer version call
`need()`, which first requests `/_ping`. DOCKER_API_VERSION pins the version, as in Docker's client.
"""

from __future__ import annotations

import os
import select
import sys

from orlop_cli import __version__, _config
from orlop_cli._errors import ApiError, CannotConnect, CliError
from orlop_cli.daemon import hosts
from orlop_cli.daemon.http import Connection, Response
from orlop_cli.values import jsontext

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    Json = dict[str, Any]
    Query = Mapping[str, str | int | list[str] | None]


BASE_API = (1, 43)  # the version that the commands are written for
MAX_API = (1, 48)  # the newest version that any flag needs
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
USER_AGENT = f"Orlop-Client/{__version__} (linux)"


class Engine:
    """A daemon at an address. This class is not thread-safe; `fork()` makes an object with separate connections for another
    thread."""

    def __init__(self, address: hosts.Address, tls: hosts.Tls | None = None) -> None:
        self.address = address
        self._tls = tls
        self._idle: Connection | None = None
        pinned = os.environ.get("DOCKER_API_VERSION", "").lstrip("v")
        self.pinned = bool(pinned)
        self.version = _version(pinned) if pinned else BASE_API
        self._server: tuple[int, int] | None = None
        self._opened: list[Connection] = []
        self._forks: list[Engine] = []

    def fork(self) -> Engine:
        """The same daemon with separate connections, which are closed with this object."""
        other = Engine(self.address, self._tls)
        other.version = self.version
        self._forks.append(other)
        return other

    def close(self) -> None:
        """Close all connections, including the connections of hijacks and waits."""
        for other in self._forks:
            other.close()
        for connection in self._opened:
            connection.close()
        self._opened.clear()

    # --- versions

    def server_version(self) -> tuple[int, int]:
        """The newest API version that the daemon supports (from `/_ping`, requested once)."""
        if self._server is None:
            answer = self._exchange("GET", "/_ping", {}, None, versioned=False)
            answer.read()
            self._server = _version(answer.headers.get("api-version", "1.24"))
        return self._server

    def negotiate(self) -> None:
        """Negotiate the version before a request that cannot be repeated, because its body is read from a pipe."""
        if not self.pinned:
            self.version = min(max(BASE_API, self.version), self.server_version())

    def need(self, version: tuple[int, int], what: str) -> None:
        """Use at least the version that a flag needs. Raises CliError if the daemon is too old."""
        if self.version >= version:
            return
        server = self.version if self.pinned else self.server_version()
        if server < version:
            raise CliError(
                f'"{what}" requires API version {version[0]}.{version[1]}, '
                f"but the daemon's API version is {server[0]}.{server[1]}"
            )
        self.version = version

    def prefer(self, version: tuple[int, int]) -> None:
        """Use a newer version, whose answers contain more data, if the daemon supports it."""
        if not self.pinned and self.version < version <= self.server_version():
            self.version = version

    # --- requests

    def open(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request, and return the answer before its body is read. Raises ApiError for status 400 and above."""
        target = path + _encode(query or {})
        sent = dict(headers or {})
        answer = self._exchange(method, target, sent, body)
        if answer.status < 400:
            return answer
        error = _error(answer)
        if self._other_version(error) and (body is None or isinstance(body, bytes)):
            answer = self._exchange(method, target, sent, body)
            if answer.status < 400:
                return answer
            error = _error(answer)
        if error.status in (403, 404, 409, 500):  # errors for which `_suggest` may know a similar name or the next command
            error.source = self
        raise error

    def _other_version(self, error: ApiError) -> bool:
        """If the daemon has answered with 400 because of the API version, use the version in its message. Returns False if
        the 400 has another reason."""
        if self.pinned or error.status != 400:
            return False
        import re

        found = re.search(r"client version [\d.]+ is too (new|old)\. M\w+ supported API version is ([\d.]+)", error.text)
        if not found:
            return False
        self.version = _version(found[2])
        if error.api_version:
            self._server = _version(error.api_version)
        return True

    def _exchange(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
        versioned: bool = True,
    ) -> Response:
        if versioned:
            target = f"/v{self.version[0]}.{self.version[1]}{target}"
        full = {**_configured_headers(), "User-Agent": USER_AGENT, **headers}
        if isinstance(body, bytes) and body and "Content-Type" not in full:
            full["Content-Type"] = "application/json"
        connection = self._connection()
        try:
            answer = connection.request(method, target, full, body)
        except ConnectionError as error:
            raise CannotConnect(f"error during connect to {self.address.text}: {error}") from None
        self._idle = connection
        if os.environ.get("DEBUG"):
            print(f"DEBUG {method} {target} {answer.status}", file=sys.stderr)
        return answer

    def _connection(self) -> Connection:
        """The kept connection, or a new connection if the daemon has closed it. This is checked before the request, because
        after a failure on a kept connection it is unknown whether the request was executed."""
        kept, self._idle = self._idle, None
        if kept is not None and kept.idle:
            if not select.select([kept.stream], [], [], 0)[0]:
                return kept
            kept.close()
        made = Connection(hosts.connect(self.address, self._tls), self.address.host or "orlop")
        self._opened.append(made)
        return made

    def get(self, path: str, query: Query | None = None, headers: Mapping[str, str] | None = None) -> Any:
        """GET a JSON document."""
        return decode(self.open("GET", path, query, headers=headers).read())

    def post(self, path: str, query: Query | None = None, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """POST a JSON document (or nothing). Returns the decoded answer; None for an empty answer."""
        encoded = None if body is None else jsontext.dumps(body).encode()
        data = self.open("POST", path, query, encoded, headers).read()
        return decode(data) if data.strip() else None

    def delete(self, path: str, query: Query | None = None) -> Any:
        """DELETE an object. Returns the decoded answer; None for an empty answer."""
        data = self.open("DELETE", path, query).read()
        return decode(data) if data.strip() else None

    def hijack(self, path: str, query: Query | None = None, body: Any = None) -> Response:
        """POST with `Upgrade: tcp`. The caller must close the answer's connection."""
        encoded = None if body is None else jsontext.dumps(body).encode()
        answer = self.open("POST", path, query, encoded, {"Connection": "Upgrade", "Upgrade": "tcp"})
        self._idle = None
        return answer

    def detached(self, method: str, path: str, query: Query | None = None) -> Response:
        """A request whose answer takes long (wait, logs), on a separate connection, so that later requests can be sent."""
        answer = self.open(method, path, query)
        self._idle = None
        return answer


def _configured_headers() -> dict[str, str]:
    """The headers that the user has configured for all requests: DOCKER_CUSTOM_HEADERS, otherwise HttpHeaders of
    config.json."""
    text = os.environ.get("DOCKER_CUSTOM_HEADERS")
    if not text:
        return {str(name): str(value) for name, value in _config.table("HttpHeaders").items()}
    import csv

    pairs = [item.partition("=") for item in next(csv.reader([text]), [])]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise CliError("cannot use DOCKER_CUSTOM_HEADERS: it is a list of name=value, separated by commas")
    return {name.strip(): value for name, _, value in pairs}


def records(answer: Response) -> Iterator[Json]:
    """The JSON documents of a stream (events, stats, progress), as they arrive. There is one document per line, or they are
    concatenated."""
    pending = b""
    for chunk in answer.chunks():
        pending += chunk
        *lines, pending = pending.split(b"\n")
        for line in lines:
            yield from _documents(line)
    yield from _documents(pending)


def _documents(line: bytes) -> Iterator[Json]:
    text = line.decode("utf-8", "replace").strip()
    while text:
        try:
            value, end = jsontext.first(text)
        except (ValueError, RecursionError):
            value, end = None, 0
        if not isinstance(value, dict):
            raise CliError(f"the daemon's answer is not JSON: {line[:80]!r}")
        yield value
        text = text[end:].lstrip()


def segment(name: str) -> str:
    """A name as a path segment; image names keep their slashes, as the routes expect."""
    return _quote(name, b"/:@")


def _quote(text: str, safe: bytes = b"") -> str:
    """Percent-encode all except RFC 3986's unreserved characters. `urllib.parse` is not used, because its import takes 4 ms.
    Bytes of the command line that are not UTF-8 are sent unchanged, and the daemon reports the error."""
    data = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in _UNRESERVED or byte in safe else f"%{byte:02X}" for byte in data)


def filters_json(pairs: Iterable[str]) -> str | None:
    """Convert `-f key=value` flags to the parameter `filters` of the API; None if there are no flags."""
    grouped: dict[str, dict[str, bool]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise CliError(
                f'invalid argument "{pair}" for "-f, --filter" flag: bad format of filter (expected name=value)', 125
            )
        grouped.setdefault(key.strip().lower(), {})[value.strip()] = True
    return jsontext.dumps(grouped) if grouped else None


def _encode(query: Query) -> str:
    pairs: list[str] = []
    for key, value in query.items():
        items = value if isinstance(value, list) else () if value is None else (value,)
        pairs += [f"{key}={_quote(str(item))}" for item in items]
    return "?" + "&".join(pairs) if pairs else ""


def decode(data: bytes) -> Any:
    """Decode a JSON document. Raises CliError."""
    try:
        return jsontext.loads(data)
    except (ValueError, RecursionError):
        raise CliError(f"the daemon's answer is not JSON: {data[:80]!r}") from None


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    try:
        return int(major), int(minor)
    except ValueError:
        raise CliError(f"invalid API version {text!r}") from None


def _error(answer: Response) -> ApiError:
    body = answer.read().decode("utf-8", "replace").strip()
    text = body
    if body.startswith("{"):
        try:
            text = str(jsontext.loads(body.encode()).get("message", body))
        except (ValueError, AttributeError):
            text = body
    text = text or f"status {answer.status} without a message"
    return ApiError(answer.status, text, answer.headers.get("api-version", ""))
