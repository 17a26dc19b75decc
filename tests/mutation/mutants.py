"""The changes that are tried: invert a condition, leave out a check, a call or a raise, or move a limit by one.

A mutant is named by its function and the changed text, without line numbers, so that the results of two runs can be compared
when lines have moved.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["Mutant", "mutants"]

_OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_TURNED = {"all": "any", "any": "all", "min": "max", "max": "min"}
_UNTESTED = {"log", "_log"}
"""Calls of these objects are not changed, because log messages are no guards."""
_SHOWN = 70


@dataclass(frozen=True)
class Mutant:
    """`first` and `last` are the lines of the statement that is changed. `change` alters a copy of the module's tree."""

    name: str
    first: int
    last: int
    change: Callable[[ast.Module], None]

    def tree(self, module: ast.Module) -> ast.Module:
        changed = copy.deepcopy(module)
        self.change(changed)
        return ast.fix_missing_locations(changed)


@dataclass(frozen=True)
class _Place:
    """A node, by its position in `ast.walk` of the module, which a deep copy keeps."""

    number: int
    node: ast.AST
    function: str
    statement: ast.stmt


def mutants(module: str, tree: ast.Module) -> Iterator[Mutant]:
    """All mutants of the functions of a module."""
    seen: Counter[str] = Counter()
    for place in _places(tree):
        for what, alter in _alterations(place.node):
            text = " ".join(ast.unparse(place.node).split())[:_SHOWN]
            name = f"{module}:{place.function}: {what}: {text}"
            seen[name] += 1
            yield Mutant(
                f"{name} #{seen[name]}" if seen[name] > 1 else name,
                place.statement.lineno,
                _end_of_head(place.statement),
                _at(place.number, alter),
            )


def _end_of_head(statement: ast.stmt) -> int:
    """The last line of a statement without the block that it contains."""
    body = getattr(statement, "body", None)
    return body[0].lineno - 1 if body else statement.end_lineno or statement.lineno


def _at(number: int, alter: Callable[[ast.AST], None]) -> Callable[[ast.Module], None]:
    def change(module: ast.Module) -> None:
        alter(list(ast.walk(module))[number])

    return change


def _places(tree: ast.Module) -> Iterator[_Place]:
    numbers = {id(node): number for number, node in enumerate(ast.walk(tree))}

    def visit(node: ast.AST, function: str, statement: ast.stmt | None) -> Iterator[_Place]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{function}.{child.name}".lstrip(".")
                for part in child.body:
                    yield from visit(ast.Module([part], []), name, None)
                continue
            inside = child if isinstance(child, ast.stmt) else statement
            if function and inside is not None and id(child) in numbers:
                yield _Place(numbers[id(child)], child, function, inside)
            if not isinstance(child, ast.Assert):
                yield from visit(child, function, inside)

    yield from visit(tree, "", None)


def _alterations(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    match node:
        case ast.If(test=test) if not _is_type_checking(test):
            yield "turn the condition round", _negate
        case ast.While(test=ast.expr() as test) if not isinstance(test, ast.Constant):
            yield "never repeat", _never
        case ast.IfExp():
            yield "turn the condition round", _negate
        case ast.comprehension(ifs=[_, *_]):
            yield "let all pass", _no_filter
        case ast.BoolOp():
            yield "exchange and, or", _exchange
        case ast.Compare(ops=[operator]) if type(operator) in _OPPOSITE and isinstance(
            operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE
        ):
            yield "move the limit", _move_limit
        case ast.Return(value=ast.Compare(ops=[operator])) if type(operator) in _OPPOSITE:
            yield "turn the comparison round", _turn_comparison
        case ast.Raise():
            yield "do not raise", _leave_out
        case ast.Expr(value=value) if _is_call(value):
            yield "leave out", _leave_out
        case ast.Call(func=ast.Name(id=name)) if name in _TURNED:
            yield f"{_TURNED[name]} for {name}", _turn_name
        case ast.keyword(arg="shield", value=ast.Constant(value=True)):
            yield "no shield", _no_shield
        case _:
            pass


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _is_call(value: ast.expr) -> bool:
    if isinstance(value, ast.Await):
        value = value.value
    if not isinstance(value, ast.Call):
        return False
    root: ast.expr = value.func
    while isinstance(root, ast.Attribute):
        root = root.value
    return not (isinstance(root, ast.Name) and root.id in _UNTESTED)


def _negate(node: ast.AST) -> None:
    assert isinstance(node, ast.If | ast.IfExp)
    node.test = ast.UnaryOp(ast.Not(), node.test)


def _never(node: ast.AST) -> None:
    assert isinstance(node, ast.While)
    node.test = ast.BoolOp(ast.And(), [node.test, ast.Constant(False)])


def _no_filter(node: ast.AST) -> None:
    assert isinstance(node, ast.comprehension)
    node.ifs = [ast.BoolOp(ast.Or(), [ast.Constant(True), *node.ifs])]


def _exchange(node: ast.AST) -> None:
    assert isinstance(node, ast.BoolOp)
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()


def _move_limit(node: ast.AST) -> None:
    assert isinstance(node, ast.Compare)
    node.ops = [_OPPOSITE[type(node.ops[0])]()]


def _turn_comparison(node: ast.AST) -> None:
    assert isinstance(node, ast.Return)
    assert isinstance(node.value, ast.Compare)
    node.value.ops = [_OPPOSITE[type(node.value.ops[0])]()]


def _leave_out(node: ast.AST) -> None:
    """Make a statement do nothing. The statement stays in the tree, so that its function keeps its closure, which `patching`
    needs."""
    assert isinstance(node, ast.stmt)
    statement = copy.copy(node)
    node.__class__ = ast.If
    node.__dict__.update(test=ast.Constant(False), body=[statement], orelse=[])


def _turn_name(node: ast.AST) -> None:
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    node.func.id = _TURNED[node.func.id]


def _no_shield(node: ast.AST) -> None:
    assert isinstance(node, ast.keyword)
    node.value = ast.Constant(False)
