"""The subset of Go's text/template that log tags use: fields, constants, pipelines, and dockerd's functions.

`{{.ImageName}}/{{.Name}}`, `{{index .ContainerLabels "com.example.app"}}`, `{{.Name | upper}}`,
`{{(.ExtraAttributes nil).SERVICE}}`, `{{- .ID -}}`. Control structures (`if`, `range`, `with`) and variables are not
supported; the error message names them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from orlop_sdk.errors import InvalidParameter

__all__ = ["Template", "Value"]

Value = str | int | list[str] | dict[str, str] | None
Fields = Mapping[str, Value]
Node = Callable[[Fields], Value]

_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_WORD = re.compile(r"""\s*(?:(\.\w+)|("(?:[^"\\]|\\.)*")|(`[^`]*`)|(-?\d+)|([A-Za-z_]\w*)|([()|]))""", re.ASCII)


def _show(value: Value) -> str:
    """Format a value as Go's fmt.Print does."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{value[key]}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(value) + "]"
    return "<no value>" if value is None else str(value)


def _index(value: Value, key: Value) -> Value:
    if isinstance(value, dict):
        return value.get(_show(key), "")
    if isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
        return value[key]
    raise InvalidParameter(f"cannot evaluate log tag: error calling index: cannot index {_show(value)} by {_show(key)}")


def _pad(value: Value, before: Value, after: Value) -> Value:
    spaces = [" " * n if isinstance(n, int) else "" for n in (before, after)]
    return spaces[0] + _show(value) + spaces[1] if value != "" else ""


def _truncate(value: Value, length: Value) -> Value:
    return _show(value)[:length] if isinstance(length, int) else _show(value)


def _printf(pattern: Value, *values: Value) -> Value:
    rest = list(values)

    def verb(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        if not rest:
            return f"%!{found[1]}(MISSING)"
        value = _show(rest.pop(0))
        return json.dumps(value, ensure_ascii=False) if found[1] == "q" else value

    return re.sub(r"%([%sdqv])", verb, _show(pattern))


_ANY = -1  # the function takes any number of arguments
_FUNCTIONS: dict[str, tuple[int, Callable[..., Value]]] = {
    "index": (2, _index),
    "join": (2, lambda items, by: _show(by).join(items if isinstance(items, list) else [_show(items)])),
    "json": (1, lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)),
    "lower": (1, lambda value: _show(value).lower()),
    "pad": (3, _pad),
    "print": (1, _show),
    "printf": (_ANY, _printf),
    "split": (2, lambda value, by: _show(value).split(_show(by))),
    "title": (1, lambda value: re.sub(r"\b\w", lambda found: found[0].upper(), _show(value))),
    "truncate": (2, _truncate),
    "upper": (1, lambda value: _show(value).upper()),
}


def _call(name: str, function: Callable[..., Value], arguments: list[Node]) -> Node:
    return lambda fields: function(*(argument(fields) for argument in arguments))


class _Parser:
    """Recursive-descent parser of the text between `{{` and `}}`."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._words: list[str] = []
        position = 0
        while source[position:].strip():
            found = _WORD.match(source, position)
            if found is None:
                raise self._wrong(f"unexpected {source[position:].split()[0]!r}")
            self._words.append(found[0].strip())
            position = found.end()

    def _wrong(self, cause: str) -> InvalidParameter:
        return InvalidParameter(f"cannot parse log tag {{{{{self._source}}}}}: {cause}")

    def _peek(self) -> str:
        return self._words[0] if self._words else ""

    def parse(self) -> Node:
        node = self._pipeline()
        if self._words:
            raise self._wrong(f"unexpected {self._peek()!r}")
        return node

    def _pipeline(self) -> Node:
        node = self._command(None)
        while self._peek() == "|":
            self._words.pop(0)
            node = self._command(node)
        return node

    def _command(self, piped: Node | None) -> Node:
        """Parse one operand, or a function with its operands. The value before a pipe becomes the last operand."""
        name = self._peek()
        if name in _FUNCTIONS:
            self._words.pop(0)
            count, function = _FUNCTIONS[name]
            arguments = []
            while self._peek() not in ("", "|", ")"):
                arguments.append(self._operand())
            arguments += [piped] if piped else []
            if len(arguments) != count and (count != _ANY or not arguments):
                raise self._wrong(f"wrong number of args for {name}: want {count} got {len(arguments)}")
            return _call(name, function, arguments)
        if piped:
            raise self._wrong("non executable command in pipeline")
        node = self._operand()
        if name == ".ExtraAttributes" and self._peek() == "nil":
            self._words.pop(0)  # in Go, ExtraAttributes is a method whose argument is always nil
        return node

    def _operand(self) -> Node:
        if not self._words:
            raise self._wrong("missing value for command")
        word = self._words.pop(0)
        if word == "(":
            node = self._pipeline()
            if self._peek() != ")":
                raise self._wrong("unclosed left paren")
            self._words.pop(0)
        elif word.startswith("."):
            node = self._field(word[1:])
        else:
            return self._constant(word)
        while self._peek().startswith("."):
            node = _call("index", _index, [node, self._constant(json.dumps(self._words.pop(0)[1:]))])
        return node

    def _field(self, name: str) -> Node:
        if name not in _FIELD_NAMES:
            raise self._wrong(f"can't evaluate field {name}")
        return lambda fields: fields[name]

    def _constant(self, word: str) -> Node:
        if word.startswith("`"):
            return lambda _: word[1:-1]
        if word.startswith('"'):
            try:
                text: str = json.loads(word)
            except ValueError:
                raise self._wrong(f"invalid string {word}") from None
            return lambda _: text
        if word.lstrip("-").isdigit():
            return lambda _: int(word)
        if word == "nil":
            return lambda _: None
        raise self._wrong(f'function "{word}" not defined')


_FIELD_NAMES = frozenset(
    "ID FullID Name Command ImageID ImageFullID ImageName Hostname DaemonName Config ContainerID ContainerName "
    "ContainerImageID ContainerImageName ContainerCreated ContainerEnv ContainerLabels ExtraAttributes".split()
)


class Template:
    """A parsed template. The constructor and `render` raise `InvalidParameter` when the template cannot be parsed or
    evaluated."""

    def __init__(self, source: str) -> None:
        self._parts: list[str | Node] = []
        position, trim = 0, False
        for action in _ACTION.finditer(source):
            text = source[position : action.start()]
            text = text.lstrip() if trim else text
            self._parts.append(text.rstrip() if action[1] else text)
            if not (action[2].startswith("/*") and action[2].endswith("*/")):
                self._parts.append(_Parser(action[2]).parse())
            position, trim = action.end(), bool(action[3])
        rest = source[position:]
        if "{{" in rest:
            raise InvalidParameter(f"cannot parse log tag {source}: unclosed action")
        self._parts.append(rest.lstrip() if trim else rest)

    def render(self, fields: Fields) -> str:
        return "".join(part if isinstance(part, str) else _show(part(fields)) for part in self._parts)
