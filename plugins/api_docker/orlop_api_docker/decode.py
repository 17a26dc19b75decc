"""Decodes JSON bodies like Go's decoder: keys in any case, null for absent, numbers checked against their type's range.

msgspec is stricter, and Go clients send input that it rejects (`"Env": null`, `"hostconfig"`). So a body is parsed to plain
values, normalized to the type, and converted.

Objects with duplicate members are refused (docs/decisions/0012). Parsers disagree on which member is valid, so an
authorization plugin may check another value than the engine uses.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

import msgspec
from msgspec import inspect

from orlop_sdk.errors import InvalidParameter

__all__ = ["decode_json", "explain_validation"]

T = TypeVar("T")
_Shape = Callable[[Any], Any]

_SMALL = 64 << 10
"""Size in bytes. The values of a smaller body are not counted, because parsing such a body takes a few ms at most."""

_MAX_VALUES = 50_000
"""The maximum number of values in a larger body. It is limited because parsing is one C call that keeps the GIL and takes
0.2 us a value."""

_MAX_ITEMS = 10_000
"""The maximum number of items of one list or map. The longest lists that clients send are port ranges, listed port by
port."""

_MAX_TEXT = 1 << 20
"""The maximum number of characters of one string. For comparison: Linux limits an argument or variable to 128 KiB."""

_DROP = object()  # a null that the type does not allow; its key is treated as absent
_INT64 = range(-(1 << 63), 1 << 63)  # also used for unsigned fields, because their values are far below the limit
_DIGITS = 20
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # it also matches unclosed strings, so that it takes linear time
_FOLD = str.maketrans("\u017f\u212a", "sk")

_WHERE = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")


class _OutOfRangeError(Exception):
    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.path: list[str] = []

    def __str__(self) -> str:
        return ": ".join([".".join(reversed(self.path)), self.reason] if self.path else [self.reason])


class _DuplicateKeyError(Exception):
    pass


def decode_json(data: bytes, kind: type[T]) -> T:
    """Decode a body to a value of `kind`. Raises InvalidParameter with Docker's messages; the message of a type error
    contains the field."""
    if len(data) > _SMALL:
        _check_size(data)
    try:
        shaped = _shape_of(kind)(_parse(data))  # type: ignore[arg-type]  # classes are hashable, which mypy does not see in type[T]
        if shaped is _DROP:  # the body is `null`
            shaped = [] if isinstance(inspect.type_info(kind), inspect.ListType) else {}
        return msgspec.convert(shaped, kind)
    except RecursionError:
        raise InvalidParameter("invalid JSON: nested too deeply") from None
    except _DuplicateKeyError as error:
        raise InvalidParameter(f"invalid JSON: duplicate key {json.dumps(str(error), ensure_ascii=False)}") from None
    except _OutOfRangeError as error:
        raise InvalidParameter(f"invalid JSON: {error}") from error
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"invalid JSON: {explain_validation(error)}") from error


def _parse(data: bytes) -> Any:
    """Parse to plain values. This function does not use msgspec, which is faster but does not report duplicate keys."""
    try:
        text = data.decode()
        if "\\u" in text:  # only Python accepts lone surrogates, which cannot be encoded
            msgspec.json.decode(data)
        return _parser.decode(text)
    except UnicodeDecodeError as error:
        raise InvalidParameter("invalid JSON: not UTF-8") from error
    except ValueError as error:
        raise InvalidParameter(_malformed(data)) from error


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _DuplicateKeyError(next(key for key, count in counts.items() if count > 1))
    return members


def _whole_number(text: str) -> int:
    return int(text) if len(text) <= _DIGITS else _INT64.stop  # a number with so many digits is out of range


def _fraction(text: str) -> float:
    value = float(text)
    if value - value:  # the value is infinite or NaN
        raise ValueError("number out of range")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # Python's json accepts NaN and Infinity, which are not JSON


_parser = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_whole_number, parse_float=_fraction, parse_constant=_refuse_constant
)


def _check_size(data: bytes) -> None:
    """Raise InvalidParameter for more values than a body may have."""
    if _separators(data, 0, len(data)) <= _MAX_VALUES:
        return
    count = end = 0
    for string in _STRING.finditer(data):  # commas and brackets within strings separate no values
        count += 1 + _separators(data, end, string.start())
        end = string.end()
        if count > _MAX_VALUES:
            break
    if count + _separators(data, end, len(data)) > _MAX_VALUES:
        raise InvalidParameter(f"invalid JSON: more than {_MAX_VALUES} values")


def _separators(data: bytes, start: int, end: int) -> int:
    return data.count(b",", start, end) + data.count(b"[", start, end) + data.count(b"{", start, end)


def _malformed(data: bytes) -> str:
    """The reason why the body is malformed, from the parser that has the better message."""
    if not data.strip():
        return "invalid JSON: got EOF while reading request body"
    try:
        msgspec.json.decode(data)
        reason = "cannot be read"
    except msgspec.DecodeError as error:
        reason = str(error)
    if "trailing characters" in reason:
        return "unexpected content after JSON"
    if "truncated" in reason:
        return "invalid JSON: unexpected EOF"
    return "invalid JSON: " + reason.removeprefix("JSON is malformed: ").partition(" - at ")[0]


def _same(value: Any) -> Any:
    return _DROP if value is None else value


def _text(value: Any) -> Any:
    if type(value) is str and len(value) > _MAX_TEXT:
        raise _OutOfRangeError(f"has more than {_MAX_TEXT} characters")
    return _same(value)


def _check_length(value: list[Any] | dict[str, Any]) -> None:
    if len(value) > _MAX_ITEMS:
        raise _OutOfRangeError(f"has more than {_MAX_ITEMS} elements")


def _nullable(value: Any) -> Any:
    return value


def _raw(value: Any) -> Any:
    return msgspec.Raw(msgspec.json.encode(value))


def _integer(value: Any) -> Any:
    if type(value) is int and value not in _INT64:
        raise _OutOfRangeError("does not fit into 64 bits")
    return _DROP if value is None else value


_PLAIN = (_same, _integer, _text)


@lru_cache(maxsize=256)
def _shape_of(kind: Any) -> _Shape:
    return _shape(inspect.type_info(kind), {})


def _shape(info: inspect.Type, known: dict[Any, _Shape]) -> _Shape:
    """The function that normalizes a plain value for this type. `known` handles recursive types."""
    if isinstance(info, inspect.StructType):
        return _struct(info, known)
    if isinstance(info, inspect.ListType):
        return _list(_shape(info.item_type, known), _zero(info.item_type))
    if isinstance(info, inspect.DictType):
        return _dict(_shape(info.value_type, known), _zero(info.value_type))
    if isinstance(info, inspect.UnionType):
        return _union(info, known)
    if isinstance(info, inspect.IntType):
        return _integer
    if isinstance(info, inspect.StrType):
        return _text
    if isinstance(info, inspect.RawType):
        return _raw
    if isinstance(info, inspect.AnyType | inspect.NoneType):
        return _nullable
    return _same


def _folded(key: str) -> str:
    """Fold a key as Go matches member names: ASCII case-insensitively, with the two other letters that fold to ASCII
    (encoding/json's foldName)."""
    return key.lower() if key.isascii() else key.translate(_FOLD).lower()


def _struct(info: inspect.StructType, known: dict[Any, _Shape]) -> _Shape:
    if info.cls in known:
        return known[info.cls]
    fields: dict[str, tuple[str, _Shape]] = {}
    folded: dict[str, tuple[str, _Shape]] = {}

    def shape(value: Any) -> Any:
        if type(value) is not dict:
            return _same(value)
        result: dict[str, Any] = {}
        others: set[str] = set()  # members whose names are spelled in another case
        for key, item in value.items():
            field = fields.get(key)
            if field is None:
                field = folded.get(_folded(key))
                if field is None:
                    result[key] = item
                    continue
                if field[0] in value or field[0] in others:
                    raise _DuplicateKeyError(key)
                others.add(field[0])
            name, inner = field
            try:
                shaped = inner(item)
            except _OutOfRangeError as error:
                error.path.append(name)
                raise
            if shaped is not _DROP:
                result[name] = shaped
        return result

    known[info.cls] = shape
    for field in info.fields:
        fields[field.encode_name] = entry = (field.encode_name, _shape(field.type, known))
        folded.setdefault(field.encode_name.lower(), entry)
    return shape


def _zero(info: inspect.Type) -> Any:
    """Go's zero value, which replaces a null element."""
    if isinstance(info, inspect.StructType | inspect.DictType):
        return {}
    if isinstance(info, inspect.ListType):
        return []
    if isinstance(info, inspect.IntType | inspect.FloatType):
        return 0
    return False if isinstance(info, inspect.BoolType) else ""


def _list(inner: _Shape, zero: Any) -> _Shape:
    def shape(value: Any) -> Any:
        if type(value) is not list:
            return _same(value)
        _check_length(value)
        return [zero if (shaped := inner(item)) is _DROP else shaped for item in value]

    return shape


def _dict(inner: _Shape, zero: Any) -> _Shape:
    def shape(value: Any) -> Any:
        if type(value) is not dict:
            return _same(value)
        _check_length(value)
        return {key: zero if (shaped := inner(item)) is _DROP else shaped for key, item in value.items()}

    return shape


def _union(info: inspect.UnionType, known: dict[Any, _Shape]) -> _Shape:
    """The function for a union. Only one member of each union in use contains other types (`Foo | None`, `list[str] |
    str`)."""
    members = [member for member in info.types if not isinstance(member, inspect.NoneType)]
    nullable = any(isinstance(member, inspect.NoneType) for member in info.types)
    inner = next((s for s in (_shape(member, known) for member in members) if s not in _PLAIN), _same)
    if inner is _same and len(members) == 1:
        inner = _shape(members[0], known)

    def shape(value: Any) -> Any:
        if value is None:
            return None if nullable else _DROP
        return inner(value)

    return shape


def explain_validation(error: msgspec.ValidationError) -> str:
    """msgspec's message after the name of the field: "HostConfig.Memory: expected int, got str"."""
    text = str(error)
    where = _WHERE.search(text)
    reason = (text[: where.start()] if where else text).replace("`", "")
    reason = reason[:1].lower() + reason[1:]
    return f"{where.group(1)}: {reason}" if where and where.group(1) else reason
