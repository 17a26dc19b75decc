"""Values as Go reads and prints them: in image histories and error messages, and in flags."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = [
    "csv_fields",
    "duration",
    "parse_bool",
    "parse_duration",
    "parse_int",
    "parse_size",
    "quote",
    "quote_list",
    "quote_rune",
    "words",
]

_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def quote(text: str) -> str:
    """Quote a text like strconv.Quote."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join(_quoted(char) for char in text) + '"'


def _quoted(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, in the form of surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quote_list(items: Iterable[str]) -> str:
    """Format a list like %q."""
    return "[" + " ".join(quote(item) for item in items) + "]"


def quote_rune(code: int) -> str:
    """Format an integer like %q: as a character."""
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        return "'\ufffd'"
    char = chr(code)
    return {"'": "'\\''", '"': "'\"'"}.get(char) or f"'{_quoted(char)}'"


def words(items: Iterable[str]) -> str:
    """Format a list like %v."""
    return "[" + " ".join(items) + "]"


def parse_bool(text: str) -> bool | None:
    """Parse a text like strconv.ParseBool; None for an invalid text."""
    if text in {"1", "t", "T", "TRUE", "true", "True"}:
        return True
    if text in {"0", "f", "F", "FALSE", "false", "False"}:
        return False
    return None


def parse_int(text: str, base: int, bits: int, *, signed: bool = False) -> int:
    """Parse an integer like strconv.ParseUint or ParseInt. Raises `ValueError` with Go's message."""
    name = "ParseInt" if signed else "ParseUint"
    digits = "01234567" if base == 8 else "0123456789"
    sign = r"[+-]?" if signed else ""
    if not re.fullmatch(f"{sign}[{digits}]+", text):
        raise ValueError(f"strconv.{name}: parsing {quote(text)}: invalid syntax")
    if len(text) > 40:
        raise ValueError(f"strconv.{name}: parsing {quote(text)}: value out of range")
    value = int(text, base)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if not low <= value <= high:
        raise ValueError(f"strconv.{name}: parsing {quote(text)}: value out of range")
    return value


def parse_duration(text: str) -> int:
    """Parse a duration like time.ParseDuration, to nanoseconds. Raises `ValueError` with Go's message."""
    rest = text
    negative = rest[:1] == "-"
    if rest[:1] in {"-", "+"}:
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest or len(rest) > 200:
        raise ValueError(f"time: invalid duration {quote(text)}")
    total = 0
    while rest:
        match = re.match(r"(\d*)(?:\.(\d*))?([^\d.]*)", rest)
        assert match is not None
        whole, fraction, unit = match.groups()
        if not whole and not fraction:
            raise ValueError(f"time: invalid duration {quote(text)}")
        if not unit:
            raise ValueError(f"time: missing unit in duration {quote(text)}")
        if unit not in _UNITS:
            raise ValueError(f"time: unknown unit {quote(unit)} in duration {quote(text)}")
        total += int(whole or "0") * _UNITS[unit]
        if fraction:
            total += int(fraction) * _UNITS[unit] // 10 ** len(fraction)
        rest = rest[match.end() :]
    if total >= 1 << 63:
        raise ValueError(f"time: invalid duration {quote(text)}")
    return -total if negative else total


def duration(nanoseconds: int) -> str:
    """Format a duration like time.Duration.String."""
    if not nanoseconds:
        return "0s"
    sign, value = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if value < 10**9:
        for unit, size in (("ms", 10**6), ("µs", 10**3), ("ns", 1)):
            if value >= size:
                return sign + _decimal(value, size) + unit
    minutes, rest = divmod(value, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    out = sign
    if hours:
        out += f"{hours}h"
    if hours or minutes:
        out += f"{minutes}m"
    return out + _decimal(rest, 10**9) + "s"


def _decimal(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    if not rest:
        return str(whole)
    return f"{whole}." + str(rest).zfill(len(str(size)) - 1).rstrip("0")


def parse_size(text: str) -> int:
    """Parse a size like units.RAMInBytes. Raises `ValueError`, whose message is never printed."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?", text.lower()) if len(text) < 40 else None
    if match is None:
        raise ValueError(f"invalid size: '{text}'")
    number, unit = match.groups()
    return int(float(number) * _SIZES[unit]) if "." in number else int(number) * _SIZES[unit]


def csv_fields(text: str) -> list[str]:
    """The fields of one record of comma-separated values, quoted as in RFC 4180. Raises `ValueError` with Go's message."""
    fields: list[str] = []
    at = 0
    while True:
        if text[at : at + 1] == '"':
            end = at + 1
            while True:
                end = text.find('"', end)
                if end < 0:
                    raise ValueError(
                        f'parse error on line 1, column {len(text) + 1}: extraneous or missing " in quoted-field'
                    )
                if text[end + 1 : end + 2] != '"':
                    break
                end += 2
            fields.append(text[at + 1 : end].replace('""', '"'))
            at = end + 1
            if at < len(text) and text[at] != ",":
                raise ValueError(f'parse error on line 1, column {at + 1}: extraneous or missing " in quoted-field')
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            bare = text[at:end]
            if '"' in bare:
                raise ValueError(f'parse error on line 1, column {at + bare.index(chr(34)) + 1}: bare " in non-quoted-field')
            fields.append(bare)
            at = end
        if at >= len(text):
            return fields
        at += 1


def map_keys(keys: Mapping[str, object]) -> str:
    """Format a map[string]struct{} like %v: in the order of its keys."""
    return "map[" + " ".join(f"{key}:{{}}" for key in sorted(keys)) + "]"
