"""Layouts of JSON text as Go writes them. Literals keep their spelling, because the digest of a manifest depends on it."""

from __future__ import annotations

import re

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["compact", "indent"]

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_HTML = re.compile("[<>&\u2028\u2029]")


def compact(text: str) -> str:
    """The text of a JSON document without blanks, with the escapes of Go's json.Marshal."""
    return "".join(_HTML.sub(lambda found: _ESCAPED[found[0]], part) for part in _TOKEN.findall(text))


def indent(text: str, by: str) -> str:
    """The text of a JSON document with several lines, as from Go's json.Indent."""
    return "".join(_indented(_TOKEN.findall(text), by))


def _indented(parts: list[str], by: str) -> Iterator[str]:
    depth = 0
    for at, part in enumerate(parts):
        if part in ("{", "["):
            depth += 1
            yield part
            if parts[at + 1] not in ("}", "]"):
                yield "\n" + by * depth
        elif part in ("}", "]"):
            depth -= 1
            yield part if parts[at - 1] in ("{", "[") else f"\n{by * depth}{part}"
        elif part == ",":
            yield f",\n{by * depth}"
        else:
            yield ": " if part == ":" else part
