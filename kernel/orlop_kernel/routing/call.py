"""The argument of a handler: an API call with the request, its version, and parameters parsed by Docker's rules."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Any, TypeVar, get_origin

import msgspec
import trio

from orlop_kernel.http.messages import BodyError, Request
from orlop_kernel.routing.dialect import PLAIN, Dialect
from orlop_sdk.errors import InvalidParameter

__all__ = ["JSON_LIMIT", "Call", "parse_integer"]

T = TypeVar("T")

_INLINE = 64 << 10
"""Bytes of a body that decodes within a few ms, whatever it contains."""

JSON_LIMIT = 4 << 20
"""Bytes of a JSON body: Docker's limit for bodies that authorization plugins see. A create request with every field set
takes some KiB."""

_FALSE = frozenset({"", "0", "no", "false", "none"})
_INTEGER = re.compile(r"[+-]?[0-9]+")
_LONGEST = 32  # digits, leading zeros included; Python refuses to parse thousands of digits
_FILTER_VALUES = 256
_filters = msgspec.json.Decoder(dict[str, dict[str, bool] | list[str] | None] | None)


def parse_integer(text: str) -> int:
    """A decimal number of 64 bits, parsed like Go's strconv.Atoi, with its error messages. Raises InvalidParameter."""
    if not _INTEGER.fullmatch(text):
        raise InvalidParameter(f'strconv.Atoi: parsing "{text}": invalid syntax')
    if len(text) > _LONGEST or not -(1 << 63) <= int(text) < 1 << 63:
        raise InvalidParameter(f'strconv.Atoi: parsing "{text}": value out of range')
    return int(text)


class Call:
    """`params` are the decoded parameters of the path. `version` is the API version in the path, or the newest version if
    there is none. `pattern` is the route's pattern, for guards, metrics and the audit log; `dialect` decodes bodies and
    formats errors.

    A guard may restrict the call by setting `only` and `restrictions`. The field `only` is a tuple of labels, which the
    method `filters` adds to the filters of the client. The front end and the engine interpret `restrictions`; None means no
    restrictions."""

    __slots__ = (
        "_json",
        "_value",
        "dialect",
        "only",
        "params",
        "pattern",
        "request",
        "restrictions",
        "version",
    )

    def __init__(
        self,
        request: Request,
        version: tuple[int, int],
        params: dict[str, str],
        pattern: str = "",
        dialect: Dialect = PLAIN,
    ) -> None:
        self.request = request
        self.version = version
        self.params = params
        self.pattern = pattern
        self.dialect = dialect
        self.only: tuple[str, ...] = ()
        self.restrictions: Any = None
        self._json: bytes | None = None
        self._value: Any = None

    def arg(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        return self.request.arg(name, default)

    def args(self, name: str) -> list[str]:
        """All values of a query parameter."""
        return self.request.query.get(name, [])

    def flag(self, name: str, default: bool = False) -> bool:
        """Docker's rule: "", 0, no, false and none are false, all others true; a missing parameter is `default`."""
        values = self.request.query.get(name)
        if not values:
            return default
        return values[0].strip().lower() not in _FALSE

    def integer(self, name: str, default: int = 0) -> int:
        """A parameter as a decimal number of 64 bits; `default` if it is missing or empty. Raises InvalidParameter."""
        text = self.arg(name)
        try:
            return parse_integer(text) if text else default
        except InvalidParameter as error:
            raise InvalidParameter(f"invalid value for {name}: {error}") from None

    def terminal_size(self) -> tuple[int, int]:
        """Rows and columns of a resize. Raises InvalidParameter."""
        return parse_integer(self.arg("h")), parse_integer(self.arg("w"))

    def filters(self, name: str = "filters") -> dict[str, list[str]]:
        """The distinct values of each filter, in order. Accepts `{"key":{"value":true}}` and the older `{"key":["value"]}`.
        Raises InvalidParameter."""
        text = self.arg(name)
        if not text:
            return {"label": [*self.only]} if self.only else {}
        try:
            parsed = _filters.decode(text.encode("utf-8", "surrogateescape"))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidParameter("invalid filter") from error
        result: dict[str, list[str]] = {}
        for key, values in (parsed or {}).items():
            chosen = [value for value, on in values.items() if on] if isinstance(values, dict) else values or []
            if len(chosen) > _FILTER_VALUES:  # limited, because the engine compares each value with each object
                raise InvalidParameter(f"invalid filter '{key}': more than {_FILTER_VALUES} values")
            result[key] = list(dict.fromkeys(chosen))
        if self.only:
            result["label"] = [*result.get("label", ()), *self.only]
        return result

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The pieces of a non-JSON body as they arrive. Raises InvalidParameter when the client ends the body early."""
        try:
            async for piece in self.request.body:
                yield piece
        except BodyError as error:
            raise InvalidParameter(f"cannot read the request's body: {error}") from error

    async def json_bytes(self, limit: int = JSON_LIMIT) -> bytes:
        """The unparsed JSON body; b"" if there is none. Each call returns the same bytes, so a guard sees the bytes that the
        handler decodes. Raises InvalidParameter if the content type is not JSON, and BodyError if the body is too large."""
        if self._json is None:
            declared = self.request.headers.get("content-type", "")
            data = await self.request.body.read(limit)
            if data or declared:
                _check_content_type(declared)
            self._json = data
        return self._json

    @property
    def body(self) -> object:
        """The value that `json` returned; None before `json` was called."""
        return self._value

    async def json(self, kind: type[T], required: bool = False, limit: int = JSON_LIMIT) -> T:
        """The body as a value of `kind`. A missing body is an error if it is `required`. Otherwise it is decoded as `{}`, as
        usual in Docker. The body is decoded once: every caller gets the same object, including changes that a guard made."""
        data = await self.json_bytes(limit)
        if self._value is None or (required and not data):
            if not data and not required:
                self._value = kind()
            elif len(data) <= _INLINE:
                self._value = self.dialect.decode(data, kind)
            else:
                self._value = await trio.to_thread.run_sync(self.dialect.decode, data, kind)
        elif type(self._value) is not (get_origin(kind) or kind):
            first = type(self._value).__name__
            raise TypeError(f"cannot decode the body of {self.pattern} as {kind.__name__}: it was decoded as {first} before")
        value: T = self._value
        return value


def _check_content_type(declared: str) -> None:
    media = declared.partition(";")[0].strip().lower()
    if not media:
        raise InvalidParameter(f"malformed Content-Type header ({declared}): mime: no media type")
    if media != "application/json":
        raise InvalidParameter(f"unsupported Content-Type header ({declared}): must be 'application/json'")
