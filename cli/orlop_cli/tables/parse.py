"""Parser of the part of Go's text/template that is used in --format. It builds a tree of named tuples.

Supported: text, pipelines, fields, variables, literals, parentheses, `if`/`else if`/`else`, `with`, `range` (with
variables), `break`, `continue`, `define`, `template`, `block`, comments, trim markers. Not supported: complex numbers.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn, TypeAlias

from orlop_cli._errors import CliError


class TemplateError(CliError):
    """A template cannot be parsed or evaluated. The exit code is 1. (Docker exits with 64 for some of these errors.)"""

    def __init__(self, message: str) -> None:
        super().__init__(f"template parsing error: {message}")


class Literal(NamedTuple):
    value: str | int | float | bool | None


class Field(NamedTuple):
    """The fields `.A.B` of dot. Without names, it is dot itself."""

    names: tuple[str, ...]


class Variable(NamedTuple):
    name: str
    names: tuple[str, ...]


class Function(NamedTuple):
    name: str


class Group(NamedTuple):
    """The fields of a pipeline's result: `(pipeline).A.B`."""

    pipeline: Pipeline
    names: tuple[str, ...]


Operand: TypeAlias = "Literal | Field | Variable | Function | Group"


class Pipeline(NamedTuple):
    """`$a, $b := command | command`; `declares` is false for `=`."""

    variables: tuple[str, ...]
    declares: bool
    commands: tuple[tuple[Operand, ...], ...]


class Text(NamedTuple):
    text: str


class Action(NamedTuple):
    pipeline: Pipeline


class Branch(NamedTuple):
    """An `if` or `with`."""

    keyword: str
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


class Range(NamedTuple):
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


class Call(NamedTuple):
    """`template "name" pipeline`."""

    name: str
    pipeline: Pipeline | None


class Jump(NamedTuple):
    keyword: str  # break or continue


Node: TypeAlias = "Text | Action | Branch | Range | Call | Jump"
Named: TypeAlias = "dict[str, tuple[Node, ...]]"

_TOKEN = re.compile(
    r"""(?P<space>\s+) | (?P<string>"(?:\\.|[^"\\\n])*") | (?P<raw>`[^`]*`)
      | (?P<char>'(?:\\.[\da-fA-F]*|[^'\\\n])')
      | (?P<number>[+-]?(?:0x[\da-fA-F]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?))(?![\w.])
      | (?P<field>(?:\.[^\W\d]\w*)+) | (?P<dot>\.) | (?P<variable>\$\w*) | (?P<word>[^\W\d]\w*) | (?P<mark>:=|[()|,=])""",
    re.VERBOSE,
)
_ACTION = re.compile(
    r"""\{\{(?P<left>-\s)?\s*(?P<body>/\*.*?\*/|(?:"(?:\\.|[^"\\\n])*"|`[^`]*`|[^"`}]|\}(?!\}))*?)\s*(?P<right>\s-)?\}\}""",
    re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "'": "'"}
_WORDS = {"true": True, "false": False, "nil": None}


class Token(NamedTuple):
    kind: str
    text: str
    glued: bool  # whether no space is before it: `$x.Name` is one operand, `$x .Name` are two


def parse_all(source: str) -> tuple[tuple[Node, ...], Named]:
    """Parse a template. Raises TemplateError for invalid and unsupported templates."""
    parser = _Parser(_pieces(source))
    nodes, end = parser.block()
    if end is not None:
        raise TemplateError(f"unexpected {{{{{end}}}}}")
    return nodes, parser.named


def _pieces(source: str) -> list[str | list[Token]]:
    """Split a template into alternating texts and token lists. Trim markers are applied, and comments are removed."""
    pieces: list[str | list[Token]] = []
    at, trim = 0, False
    for match in _ACTION.finditer(source):
        text = source[at : match.start()]
        text = text.lstrip() if trim else text
        pieces.append(text.rstrip() if match["left"] else text)
        if not match["body"].startswith("/*"):
            pieces.append(_tokens(match["body"]))
        at, trim = match.end(), bool(match["right"])
    rest = source[at:]
    if "{{" in rest:
        raise TemplateError("unclosed action")
    pieces.append(rest.lstrip() if trim else rest)
    return pieces


def _tokens(body: str) -> list[Token]:
    found: list[Token] = []
    at, glued = 0, False
    while at < len(body):
        match = _TOKEN.match(body, at)
        if not match:
            raise TemplateError(f"unexpected {body[at]!r} in {{{{{body}}}}}")
        kind = str(match.lastgroup)
        if kind != "space":
            found.append(Token(kind, match[0], glued))
        glued = kind != "space"
        at = match.end()
    if not found:
        raise TemplateError("missing value for command")
    return found


class _Parser:
    def __init__(self, pieces: list[str | list[Token]]) -> None:
        self._pieces = pieces
        self._at = 0
        self._loops = 0
        self.named: Named = {}  # the templates of `define` and `block`

    def block(self) -> tuple[tuple[Node, ...], str | None]:
        """The nodes up to `end`, `else`, `else if` or the end of the template (None). The tokens after `else if` are put
        back."""
        nodes: list[Node] = []
        while self._at < len(self._pieces):
            piece = self._pieces[self._at]
            self._at += 1
            if isinstance(piece, str):
                if piece:
                    nodes.append(Text(piece))
                continue
            word = piece[0].text if piece[0].kind == "word" else ""
            if word in ("end", "else"):
                return tuple(nodes), self._closing(word, piece)
            if word == "define":
                self._define(word, self._name(word, piece))
            else:
                nodes.append(self._node(word, piece))
        return tuple(nodes), None

    def _closing(self, word: str, piece: list[Token]) -> str:
        if len(piece) == 1:
            return word
        if word == "else" and piece[1].text in ("if", "with"):
            self._at -= 1
            self._pieces[self._at] = piece[1:]
            return "else if"
        raise TemplateError(f"unexpected {piece[1].text!r} in {word}")

    def _node(self, word: str, piece: list[Token]) -> Node:
        if word in ("template", "block"):
            call = Call(self._name(word, piece), _Expression(piece[2:]).whole() if piece[2:] else None)
            if word == "block":
                self._define(word, call.name)
            return call
        if word in ("break", "continue") and len(piece) == 1:
            if not self._loops:
                raise TemplateError(f"{{{{{word}}}}} outside {{{{range}}}}")
            return Jump(word)
        if word not in ("if", "with", "range"):
            return Action(_Expression(piece).whole())
        pipeline = _Expression(piece[1:]).whole(loop=word == "range")
        self._loops += word == "range"
        body, otherwise = self._bodies(word)
        self._loops -= word == "range"
        return Range(pipeline, body, otherwise) if word == "range" else Branch(word, pipeline, body, otherwise)

    def _name(self, word: str, piece: list[Token]) -> str:
        if len(piece) < 2 or piece[1].kind not in ("string", "raw") or (word == "define" and len(piece) > 2):
            raise TemplateError(f"unexpected {piece[-1].text!r} in {word} clause")
        return _unquote(piece[1].text) if piece[1].kind == "string" else piece[1].text[1:-1]

    def _define(self, word: str, name: str) -> None:
        loops, self._loops = self._loops, 0
        body, end = self.block()
        self._loops = loops
        if end != "end":
            raise TemplateError(f"unexpected {end or 'end of the template'} in {word} clause")
        self.named[name] = body

    def _bodies(self, word: str) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
        body, end = self.block()
        otherwise: tuple[Node, ...] = ()
        if end == "else":
            otherwise, end = self.block()
        elif end == "else if":
            # The chained `if` consumes the single `end` that closes all of them.
            inner = self._pieces[self._at]
            self._at += 1
            assert isinstance(inner, list)
            return body, (self._node(inner[0].text, inner),)
        if end != "end":
            raise TemplateError(f"unexpected {end or 'end of the template'} in {{{{{word}}}}}")
        return body, otherwise


class _Expression:
    """Parses one action's tokens as a pipeline."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def whole(self, loop: bool = False) -> Pipeline:
        pipeline = self._pipeline(loop)
        if self._at < len(self._tokens):
            self._fail()
        return pipeline

    def _fail(self) -> NoReturn:
        token = self._tokens[self._at].text if self._at < len(self._tokens) else "end of the action"
        raise TemplateError(f"unexpected {token!r}")

    def _peek(self, offset: int = 0) -> Token:
        at = self._at + offset
        return self._tokens[at] if at < len(self._tokens) else Token("", "", False)

    def _pipeline(self, loop: bool = False) -> Pipeline:
        names, declares = self._declaration(loop)
        commands = [self._command()]
        while self._peek().text == "|":
            self._at += 1
            commands.append(self._command())
        for command in commands[1:]:
            if isinstance(command[0], Literal):
                raise TemplateError("non executable command in pipeline")
        return Pipeline(names, declares, tuple(commands))

    def _declaration(self, loop: bool) -> tuple[tuple[str, ...], bool]:
        if self._peek().kind != "variable":
            return (), False
        if self._peek(1).text in (":=", "="):
            name, mark = self._peek().text, self._peek(1).text
            self._at += 2
            return (name,), mark == ":="
        if loop and self._peek(1).text == "," and self._peek(2).kind == "variable" and self._peek(3).text in (":=", "="):
            names, mark = (self._peek().text, self._peek(2).text), self._peek(3).text
            self._at += 4
            return names, mark == ":="
        return (), False

    def _command(self) -> tuple[Operand, ...]:
        operands: list[Operand] = []
        while self._at < len(self._tokens) and self._peek().text not in ("|", ")"):
            operands.append(self._operand())
        if not operands:
            raise TemplateError("missing value for command")
        return tuple(operands)

    def _operand(self) -> Operand:
        token = self._peek()
        self._at += 1
        if token.kind == "string":
            return Literal(_unquote(token.text))
        if token.kind == "raw":
            return Literal(token.text[1:-1])
        if token.kind == "char":
            return Literal(_code(token.text))
        if token.kind == "number":
            return Literal(_number(token.text))
        if token.kind == "word":
            return Literal(_WORDS[token.text]) if token.text in _WORDS else Function(token.text)
        if token.kind == "field":
            return Field(tuple(token.text[1:].split(".")))
        if token.kind == "dot":
            return Field(())
        if token.kind == "variable":
            return Variable(token.text, self._glued())
        if token.text == "(":
            pipeline = self._pipeline()
            if self._peek().text != ")":
                raise TemplateError("unclosed left paren")
            self._at += 1
            return Group(pipeline, self._glued())
        self._at -= 1
        return self._fail()

    def _glued(self) -> tuple[str, ...]:
        token = self._peek()
        if token.kind != "field" or not token.glued:
            return ()
        self._at += 1
        return tuple(token.text[1:].split("."))


def _code(text: str) -> int:
    """The value of a character constant."""
    found = _unquote(text)
    if len(found) != 1:
        raise TemplateError(f"malformed character constant: {text}")
    return ord(found)


def _number(text: str) -> int | float:
    if "x" in text:
        return int(text, 0)
    value = float(text) if re.search("[.eE]", text) else int(text)
    # In Go, a constant without a fraction can be an integer, too.
    return int(value) if isinstance(value, float) and "." not in text and value.is_integer() else value


def _unquote(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "xuU":
            return chr(int(code[1:], 16))
        if code not in _ESCAPES:
            raise TemplateError(f"unknown escape \\{code} in string")
        return _ESCAPES[code]

    return re.sub(r"\\(x[\da-fA-F]{2}|u[\da-fA-F]{4}|U[\da-fA-F]{8}|.)", one, text[1:-1])
