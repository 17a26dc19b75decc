"""The template functions of Go and of Docker (docker/cli templates/templates.go), and Go's formatting of values."""

from __future__ import annotations

import json
import re

from orlop_cli.tables.go_types import NIL, Struct
from orlop_cli.tables.parse import TemplateError

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _NoValue:
    """The value of a missing key in a Go map."""

    def __bool__(self) -> bool:
        return False


NO_VALUE = _NoValue()


def truth(value: Any) -> bool:
    """Whether Go treats a value as true. Zero, empty and nil are false."""
    return value is not None and bool(value)


def kind(value: Any) -> str:
    """The Go type of a JSON value."""
    if isinstance(value, bool):
        return "bool"
    return {str: "string", int: "int", float: "float64", list: "[]interface {}", dict: "map[string]interface {}"}.get(
        type(value), type(value).__name__
    )


def show(value: Any, inner: bool = False) -> str:
    """Format a value like Go's `%v`."""
    if value is NIL:
        return "<nil>"
    if isinstance(value, Struct):
        return "{" + " ".join(show(item, True) for item in value.in_order()) + "}"
    if value is None or value is NO_VALUE:
        return "<nil>" if inner else "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{show(value[key], True)}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(show(item, True) for item in value) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    as_json = getattr(value, "as_json", None)
    return "{" + " ".join(show(item, True) for item in as_json().values()) + "}" if as_json else str(value)


def to_json(value: Any) -> str:
    """Compact JSON without HTML escapes, like Docker's `json`."""
    if value is NO_VALUE or value is NIL:
        return "null"
    as_json = getattr(value, "as_json", None)
    plain = as_json() if as_json else value
    return json.dumps(plain, separators=(",", ":"), ensure_ascii=False, default=lambda row: row.as_json())


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None or value is NO_VALUE:
            raise TemplateError("error calling index: index of untyped nil")
        if isinstance(value, dict):
            empty = "" if value and all(isinstance(item, str) for item in value.values()) else NO_VALUE
            value = value.get(key, empty)
        elif isinstance(value, (list, str)):
            if isinstance(key, bool) or not isinstance(key, int):
                raise TemplateError(f"error calling index: cannot index with {show(key)}")
            if not 0 <= key < len(value):
                raise TemplateError(f"error calling index: index out of range: {key}")
            value = ord(value[key]) if isinstance(value, str) else value[key]
        else:
            raise TemplateError(f"error calling index: can't index item of type {kind(value)}")
    return value


def _slice(value: Any, *bounds: int) -> Any:
    if not isinstance(value, (str, list)):
        raise TemplateError(f"error calling slice: can't slice item of type {kind(value)}")
    start, stop = [*bounds, 0, len(value)][0] if bounds else 0, bounds[1] if len(bounds) > 1 else len(value)
    if not 0 <= start <= stop <= len(value):
        raise TemplateError(f"error calling slice: index out of range: {stop}")
    return value[start:stop]


def _length(value: Any) -> int:
    if value is None or value is NO_VALUE:
        return 0
    if not isinstance(value, (str, list, dict)):
        raise TemplateError(f"error calling len: len of type {kind(value)}")
    return len(value.encode()) if isinstance(value, str) else len(value)


def _comparable(left: Any, right: Any) -> None:
    numbers = (int, float)
    same = type(left) is type(right) or (
        isinstance(left, numbers) and isinstance(right, numbers) and bool not in (type(left), type(right))
    )
    if not same and left is not None and right is not None:
        raise TemplateError("incompatible types for comparison")


def _equal(left: Any, *others: Any) -> bool:
    if not others:
        raise TemplateError("missing argument for comparison")
    for other in others:
        _comparable(left, other)
        if left == other:
            return True
    return False


def _less(left: Any, right: Any) -> bool:
    _comparable(left, right)
    if not isinstance(left, (int, float, str)) or isinstance(left, bool):
        raise TemplateError("invalid type for comparison")
    return bool(left < right)


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _truncate(text: str, length: int) -> str:
    return text[:length]


def _join(items: Any, separator: str) -> str:
    return separator.join(show(item, True) for item in items or [])


def _println(*values: Any) -> str:
    return " ".join(show(value, True) for value in values) + "\n"


def _print(*values: Any) -> str:
    """Print like fmt.Sprint, with a space between two operands only if neither is a string."""
    out = ""
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            out += " "
        out += show(value, True)
    return out


_VERB = re.compile(r"%([-+# 0]*)(\d*)(?:\.(\d+))?([a-zA-Z%])")


def _printf(form: str, *values: Any) -> str:
    left = list(values)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if not left:
            return f"%!{verb}(MISSING)"
        return _verb(verb, left.pop(0), flags, width, precision)

    text = _VERB.sub(one, form)
    return text + ("%!(EXTRA " + ", ".join(f"{kind(value)}={show(value, True)}" for value in left) + ")" if left else "")


def _verb(verb: str, value: Any, flags: str, width: str, precision: str | None) -> str:
    dot = "" if precision is None else "." + precision
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if verb in "vst":
        text = show(value, True)
        return (
            "%{}{}{}s".format(flags.replace("0", "").replace("+", "").replace("#", ""), width, dot if verb == "s" else "")
            % text
        )
    if verb == "q" and isinstance(value, list):
        return f"[{' '.join(json.dumps(show(item, True), ensure_ascii=False) for item in value)}]"
    if verb == "q":
        return json.dumps(show(value, True), ensure_ascii=False)
    if verb in "doxXc" and isinstance(value, int) and number:
        return f"%{flags}{width}{dot}{verb}" % value
    if verb in "feEgG" and number:
        return f"%{flags}{width}{dot}{verb}" % float(value)
    if verb in "xX" and isinstance(value, str):
        text = value.encode().hex()
        return text.upper() if verb == "X" else text
    return f"%!{verb}({kind(value)}={show(value, True)})"


def _title(text: str) -> str:
    return re.sub(r"(^|\s)(\S)", lambda match: match[1] + match[2].upper(), text)


def _string(function: Callable[[str], str]) -> Callable[[Any], str]:
    return lambda value: function(value if isinstance(value, str) else show(value, True))


def _call(value: Any, *_arguments: Any) -> Any:
    raise TemplateError(f"error calling call: non-function of type {kind(value)}")


def _escaped(escapes: dict[str, str]) -> Callable[..., str]:
    """A function that formats its arguments like `print`, and then replaces characters."""
    table = str.maketrans(escapes)
    return lambda *values: _print(*values).translate(table)


def _urlquery(*values: Any) -> str:
    from urllib.parse import quote_plus

    return quote_plus(_print(*values), safe="~")


_HTML = {"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"}
_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}
_JS.update({chr(code): f"\\u{code:04X}" for code in range(32)})


TABLE: dict[str, Callable[..., Any]] = {
    "call": _call,
    "html": _escaped(_HTML),
    "js": _escaped(_JS),
    "urlquery": _urlquery,
    "eq": _equal,
    "ge": lambda left, right: not _less(left, right),
    "gt": lambda left, right: not _less(left, right) and not _equal(left, right),
    "index": _index,
    "join": _join,
    "json": to_json,
    "le": lambda left, right: _less(left, right) or _equal(left, right),
    "len": _length,
    "lower": _string(str.lower),
    "lt": _less,
    "ne": lambda left, right: not _equal(left, right),
    "not": lambda value: not truth(value),
    "pad": _pad,
    "print": _print,
    "printf": _printf,
    "println": _println,
    "slice": _slice,
    "split": lambda text, separator: text.split(separator) if separator else list(text),
    "title": _string(_title),
    "truncate": _truncate,
    "upper": _string(str.upper),
}

# In a table's header line the values are column titles, which most functions leave unchanged (Docker: HeaderFunctions).
HEADER_TABLE: dict[str, Callable[..., Any]] = {
    **TABLE,
    "json": lambda value: value,
    "split": lambda text, _separator: text,
    "join": lambda text, _separator: text,
    "title": lambda text: text,
    "lower": lambda text: text,
    "upper": lambda text: text,
    "truncate": lambda text, _length: text,
}
