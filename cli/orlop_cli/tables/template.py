"""Evaluates Go templates (--format) over JSON values and table rows.

Values are the values that `json` decodes, and `Row`s, which are values with named, computed fields (`ps`, `images`, ...). A
field that a JSON object lacks is an error with Docker's message. In objects that are Go maps in the daemon (labels, ports),
a missing field is printed as `<no value>`, as in Go.
"""

from __future__ import annotations

from orlop_cli.tables import functions as functions
from orlop_cli.tables import parse as tree
from orlop_cli.tables.functions import NO_VALUE, show, truth
from orlop_cli.tables.go_types import NIL, GoMap, Struct
from orlop_cli.tables.parse import TemplateError
from orlop_cli.tables.row import Row

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    _Scope = list[tuple[str, Any]]


_MAPS = {
    "Annotations", "Attributes", "Containers", "Data", "DriverOpts", "ExposedPorts", "Labels", "Networks", "Options",
    "PortBindings", "Ports", "Runtimes", "StorageOpt", "Sysctls", "Tmpfs", "Volumes",
}  # fmt: skip


_MAX_DEPTH = 100  # limit for the depth of templates that include templates


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class Template:
    """A parsed template. render() may be called many times."""

    def __init__(self, source: str, known: dict[str, Callable[..., Any]] | None = None) -> None:
        self._nodes, self._named = tree.parse_all(source)
        self._depth = 0
        self._functions = known if known is not None else functions.TABLE

    def render(self, value: Any) -> str:
        """The text for one value. Raises TemplateError."""
        out: list[str] = []
        self._depth = 0
        self._run(self._nodes, value, [("$", value)], out)
        return "".join(out)

    def _run(self, nodes: tuple[tree.Node, ...], dot: Any, scope: _Scope, out: list[str]) -> None:
        depth = len(scope)
        for node in nodes:
            if isinstance(node, tree.Text):
                out.append(node.text)
            elif isinstance(node, tree.Action):
                value = self._pipeline(node.pipeline, dot, scope)
                if not node.pipeline.variables:
                    out.append(show(value))
            elif isinstance(node, tree.Branch):
                self._branch(node, dot, scope, out)
            elif isinstance(node, tree.Range):
                self._range(node, dot, scope, out)
            elif isinstance(node, tree.Call):
                self._include(node, dot, scope, out)
            else:
                raise _Break if node.keyword == "break" else _Continue
        del scope[depth:]

    def _include(self, node: tree.Call, dot: Any, scope: _Scope, out: list[str]) -> None:
        """Render a named template (`template` and `block`), which sees only its argument."""
        body = self._named.get(node.name)
        if body is None:
            raise TemplateError(f'executing "" at <{{{{template "{node.name}"}}}}>: template "{node.name}" not defined')
        value = None if node.pipeline is None else self._pipeline(node.pipeline, dot, scope)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise TemplateError(f"exceeded maximum template depth ({_MAX_DEPTH})")
        self._run(body, value, [("$", value)], out)
        self._depth -= 1

    def _branch(self, node: tree.Branch, dot: Any, scope: _Scope, out: list[str]) -> None:
        depth = len(scope)
        value = self._pipeline(node.pipeline, dot, scope)
        if truth(value):
            self._run(node.body, value if node.keyword == "with" else dot, scope, out)
        else:
            self._run(node.otherwise, dot, scope, out)
        del scope[depth:]

    def _range(self, node: tree.Range, dot: Any, scope: _Scope, out: list[str]) -> None:
        depth = len(scope)
        names = node.pipeline.variables
        items = _items(self._pipeline(node.pipeline._replace(variables=()), dot, scope))
        for key, item in items:
            bound = ((names[0], item),) if len(names) == 1 else tuple(zip(names, (key, item), strict=False))
            for name, value in bound:
                self._bind(name, value, node.pipeline.declares, scope)
            try:
                self._run(node.body, item, scope, out)
            except _Break:
                break
            except _Continue:
                pass
            finally:
                del scope[depth:]
        if not items:
            self._run(node.otherwise, dot, scope, out)

    def _bind(self, name: str, value: Any, declares: bool, scope: _Scope) -> None:
        if declares:
            scope.append((name, value))
            return
        for at in range(len(scope) - 1, -1, -1):
            if scope[at][0] == name:
                scope[at] = (name, value)
                return
        raise TemplateError(f'undefined variable "{name}"')

    def _pipeline(self, pipeline: tree.Pipeline, dot: Any, scope: _Scope) -> Any:
        value: Any = None
        for number, command in enumerate(pipeline.commands):
            value = self._command(command, dot, scope, (value,) if number else ())
        for name in pipeline.variables:
            self._bind(name, value, pipeline.declares, scope)
        return value

    def _command(self, command: tuple[tree.Operand, ...], dot: Any, scope: _Scope, piped: tuple[Any, ...]) -> Any:
        first, *rest = command
        if isinstance(first, tree.Function):
            return self._call(first.name, rest, dot, scope, piped)
        arguments = (*(self._operand(operand, dot, scope) for operand in rest), *piped)
        if isinstance(first, tree.Field) and first.names and arguments:
            owner, _ = _walk(dot, first.names[:-1], "")
            if isinstance(owner, Row):
                return owner.field(first.names[-1], *arguments)
        if isinstance(first, tree.Literal) and first.value is None:
            raise TemplateError("nil is not a command")
        if arguments:
            raise TemplateError(f"can't give argument to non-function {_text(first)}")
        return self._operand(first, dot, scope)

    def _call(self, name: str, operands: list[tree.Operand], dot: Any, scope: _Scope, piped: tuple[Any, ...]) -> Any:
        if name in ("and", "or"):
            return self._logic(name, operands, dot, scope, piped)
        function = self._functions.get(name)
        if function is None:
            error = TemplateError(f'function "{name}" not defined')
            error.code = 64  # docker detects this error when it parses the template
            raise error
        arguments = (*(self._operand(operand, dot, scope) for operand in operands), *piped)
        try:
            return function(*arguments)
        except TypeError:
            raise TemplateError(f"wrong number or type of arguments for {name}") from None

    def _logic(self, name: str, operands: list[tree.Operand], dot: Any, scope: _Scope, piped: tuple[Any, ...]) -> Any:
        """Evaluate `and` and `or`. They stop at the first operand that determines the result, and return this operand."""
        value: Any = NO_VALUE
        for operand in operands:
            value = self._operand(operand, dot, scope)
            if truth(value) == (name == "or"):
                return value
        return piped[0] if piped else value

    def _operand(self, operand: tree.Operand, dot: Any, scope: _Scope) -> Any:
        if isinstance(operand, tree.Literal):
            return operand.value
        if isinstance(operand, tree.Field):
            return _walk(dot, operand.names, "")[0]
        if isinstance(operand, tree.Function):
            return self._call(operand.name, [], dot, scope, ())
        if isinstance(operand, tree.Group):
            return _walk(self._pipeline(operand.pipeline, dot, scope), operand.names, "")[0]
        for name, value in reversed(scope):
            if name == operand.name:
                return _walk(value, operand.names, name)[0]
        raise TemplateError(f'undefined variable "{operand.name}"')


def _walk(value: Any, names: tuple[str, ...], path: str) -> tuple[Any, str]:
    """Follow a chain of fields; the second value is the chain followed, for messages."""
    parent = ""
    for name in names:
        path += "." + name
        if isinstance(value, Row) or (isinstance(value, Struct) and value.has(name)):
            value = value.field(name)
        elif isinstance(value, dict):
            if name in value:
                value = value[name]
            elif parent in _MAPS or isinstance(value, GoMap):
                value = NO_VALUE
            else:
                raise TemplateError(f'executing "" at <{path}>: map has no entry for key "{name}"')
        elif value is NIL:
            raise TemplateError(f'executing "" at <{path}>: map has no entry for key "{parent}"')
        elif value is None or value is NO_VALUE:
            raise TemplateError(f'executing "" at <{path}>: nil data; no entry for key "{name}"')
        else:
            raise TemplateError(f'executing "" at <{path}>: can\'t evaluate field {name} in type {functions.kind(value)}')
        parent = name
    return value, path


def _items(value: Any) -> list[tuple[Any, Any]]:
    if value is None or value is NO_VALUE:
        return []
    if isinstance(value, dict):
        return sorted(value.items())
    if isinstance(value, list):
        return list(enumerate(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return [(number, number) for number in range(value)]
    raise TemplateError(f"range can't iterate over {show(value)}")


def _text(operand: tree.Operand) -> str:
    if isinstance(operand, tree.Field):
        return "." + ".".join(operand.names)
    return operand.name if isinstance(operand, tree.Variable) else show(getattr(operand, "value", ""))
