"""JSON bodies as Go's decoder reads them: keys in any case, null for absent, numbers within their type's range.

msgspec is stricter, and clients in Go never notice what they send (`"Env": null`, `"hostconfig"`). So a body is parsed to
plain values, brought into shape along the type, and converted. Bodies are small and followed by work of milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from orlop_kernel.api.errors import explain_validation
from orlop_kernel.spi.errors import InvalidParameter

__all__ = ["decode_json"]

T = TypeVar("T")
_Shape = Callable[[Any], Any]

_DROP = object()  # null where the type has no null: as if the key were not there
_INT64 = range(-(1 << 63), 1 << 64)  # unsigned ones included, which Docker has too


class _OutOfRangeError(Exception):
    def __init__(self) -> None:
        self.path: list[str] = []


def decode_json(data: bytes, kind: type[T]) -> T:
    """A body as a value of `kind`. Raises InvalidParameter in Docker's words; a wrong type names the field."""
    try:
        plain = msgspec.json.decode(data)
    except RecursionError:
        raise InvalidParameter("invalid JSON: nested too deeply") from None
    except msgspec.DecodeError as error:
        raise InvalidParameter(_malformed(data, str(error))) from error
    except UnicodeDecodeError as error:
        raise InvalidParameter("invalid JSON: not UTF-8") from error
    try:
        shaped = _shape_of(kind)(plain)  # type: ignore[arg-type]  # classes are hashable, which mypy does not see in type[T]
        if shaped is _DROP:  # a body of `null`
            shaped = [] if isinstance(inspect.type_info(kind), inspect.ListType) else {}
        return msgspec.convert(shaped, kind)
    except _OutOfRangeError as error:
        raise InvalidParameter(f"invalid JSON: {'.'.join(reversed(error.path))}: does not fit into 64 bits") from error
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"invalid JSON: {explain_validation(error)}") from error


def _malformed(data: bytes, reason: str) -> str:
    if not data.strip():
        return "invalid JSON: got EOF while reading request body"
    if "trailing characters" in reason:
        return "unexpected content after JSON"
    if "truncated" in reason:
        return "invalid JSON: unexpected EOF"
    return "invalid JSON: " + reason.removeprefix("JSON is malformed: ").partition(" - at ")[0]


def _same(value: Any) -> Any:
    return _DROP if value is None else value


def _nullable(value: Any) -> Any:
    return value


def _raw(value: Any) -> Any:
    return msgspec.Raw(msgspec.json.encode(value))


def _integer(value: Any) -> Any:
    if type(value) is int and value not in _INT64:
        raise _OutOfRangeError
    return _DROP if value is None else value


@lru_cache(maxsize=256)
def _shape_of(kind: Any) -> _Shape:
    return _shape(inspect.type_info(kind), {})


def _shape(info: inspect.Type, known: dict[Any, _Shape]) -> _Shape:
    """The function that brings a plain value into the form this type expects. `known` ends recursion in types."""
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
    if isinstance(info, inspect.RawType):
        return _raw
    if isinstance(info, inspect.AnyType | inspect.NoneType):
        return _nullable
    return _same


def _struct(info: inspect.StructType, known: dict[Any, _Shape]) -> _Shape:
    if info.cls in known:
        return known[info.cls]
    fields: dict[str, tuple[str, _Shape]] = {}

    def shape(value: Any) -> Any:
        if type(value) is not dict:
            return _same(value)
        result = {}
        for key, item in value.items():
            known_field = fields.get(key) or fields.get(key.lower())
            if known_field:
                name, inner = known_field
                try:
                    shaped = inner(item)
                except _OutOfRangeError as error:
                    error.path.append(name)
                    raise
                if shaped is not _DROP:
                    result[name] = shaped
            else:
                result[key] = item
        return result

    known[info.cls] = shape
    for field in info.fields:
        entry = (field.encode_name, _shape(field.type, known))
        fields[field.encode_name] = entry
        fields.setdefault(field.encode_name.lower(), entry)
    return shape


def _zero(info: inspect.Type) -> Any:
    """What Go makes of null as an element, where it cannot be left out."""
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
        return [zero if (shaped := inner(item)) is _DROP else shaped for item in value]

    return shape


def _dict(inner: _Shape, zero: Any) -> _Shape:
    def shape(value: Any) -> Any:
        if type(value) is not dict:
            return _same(value)
        return {key: zero if (shaped := inner(item)) is _DROP else shaped for key, item in value.items()}

    return shape


def _union(info: inspect.UnionType, known: dict[Any, _Shape]) -> _Shape:
    """Of a union only one member is a container of others in practice (`Foo | None`, `list[str] | str`)."""
    members = [member for member in info.types if not isinstance(member, inspect.NoneType)]
    nullable = any(isinstance(member, inspect.NoneType) for member in info.types)
    inner = next((s for s in (_shape(member, known) for member in members) if s not in (_same, _integer)), _same)
    if any(isinstance(member, inspect.IntType) for member in members) and inner is _same:
        inner = _integer

    def shape(value: Any) -> Any:
        if value is None:
            return None if nullable else _DROP
        return inner(value)

    return shape
