"""Encodes and decodes JSON with the C functions that Python's json package uses.

The package json is not imported: its import of `re` and `enum` takes longer than all other work of `orlop ps`. A test
compares the results.
"""

from __future__ import annotations

from _json import encode_basestring, encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_BLANK = " \t\n\r"


class _Context:
    """The settings of a scanner, the same as for `json.loads` without arguments."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int
    parse_constant = {"-Infinity": float("-inf"), "Infinity": float("inf"), "NaN": float("nan")}.__getitem__
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner empties it after each document


_scan: Callable[[str, int], tuple[Any, int]] = make_scanner(_Context)  # type: ignore[arg-type]  # any object with these attributes


def first(text: str) -> tuple[Any, int]:
    """The document at the beginning of the text, and the position of its end. Raises ValueError."""
    try:
        return _scan(text, 0)
    except StopIteration as error:
        raise ValueError(f"no JSON value at character {error.value}") from None


def loads(data: bytes) -> Any:
    """Decode a document in UTF-8. Raises ValueError and RecursionError."""
    text = data.decode("utf-8", "surrogatepass").strip(_BLANK)
    value, end = first(text)
    if end != len(text):
        raise ValueError(f"more than one JSON value: character {end}")
    return value


def dumps(value: Any, ascii_only: bool = True, default: Callable[[Any], Any] | None = None, compact: bool = False) -> str:
    """Encode a value. Objects of other types are passed to `default`. Raises TypeError, ValueError and RecursionError."""
    comma, colon = (",", ":") if compact else (", ", ": ")
    text = encode_basestring_ascii if ascii_only else encode_basestring
    encoder = make_encoder(None, default or _refuse, text, None, colon, comma, False, False, True)
    return "".join(encoder(value, 0))


def _refuse(value: Any) -> Any:
    raise TypeError(f"cannot encode an object of type {type(value).__name__} as JSON")


def quote(text: str) -> str:
    """Encode a string as JSON. Characters that are not ASCII stay unchanged."""
    return str(encode_basestring(text))


def indented(value: Any, indent: str = "    ", margin: str = "\n") -> str:
    """Encode a document with several lines, in the layout of Go's json.Indent."""
    inner = margin + indent
    if isinstance(value, dict) and value:
        lines = (f"{quote(str(key))}: {indented(item, indent, inner)}" for key, item in value.items())
        return "{" + inner + f",{inner}".join(lines) + margin + "}"
    if isinstance(value, list) and value:
        return "[" + inner + f",{inner}".join(indented(item, indent, inner) for item in value) + margin + "]"
    return quote(value) if isinstance(value, str) else dumps(value, ascii_only=False)
