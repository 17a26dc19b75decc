"""Operations of a graph as Go's `encoding/json` writes BuildKit's generated structs. This form differs from protobuf's JSON:
numbers of 64 bits are numbers, members of a `oneof` are below its name, and indexes are written even if they are 0."""

from __future__ import annotations

import base64
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

__all__ = ["go_json"]

# The fields without `omitempty` (their types are InputIndex and OutputIndex)
_ALWAYS = frozenset({"input", "output", "secondaryInput", "builder"})


def go_json(message: Message) -> dict[str, Any]:
    """The value for `json.dumps`. Enumerations are numbers, bytes are base64."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if not _is_written(message, field, value):
            continue
        group = field.containing_oneof
        target = found if group is None else found.setdefault(group.name.capitalize(), {})
        if group is None or field.message_type is not None or value:  # a 0 leaves an empty object below its name
            target[field.name] = _value(field, value)
    return found


def _is_written(message: Message, field: Any, value: Any) -> bool:
    if field.containing_oneof is not None or (field.message_type is not None and not field.is_repeated):
        return message.HasField(field.name)
    return bool(value) or field.name in _ALWAYS


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {str(key): _single(inner, value[key]) for key in sorted(value)}
    if field.is_repeated:
        return [_single(field, each) for each in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return go_json(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(value).decode()
    return value
