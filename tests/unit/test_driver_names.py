"""Kernel and engine contain no names of drivers, except in one module of defaults."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop_engine.config import defaults
from orlop_sdk import discovery, hooks

TOP = Path(__file__).parents[2]
DEFAULTS = "engine/orlop_engine/config/defaults.py"
NAMES = {name for kind, each in hooks.KINDS.items() if each.driver for name in discovery.installed(kind)}
WORDS = {"host", "local", "none", "null"}
"""Names of drivers that have other meanings, too: a namespace of the host, a scope, no health check, JSON's null. They are
reported only in expressions about drivers."""
KEY = "bridge"
"""A driver name that is also a key of daemon.json, which the configuration may name."""


def _strings(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def _is_about_drivers(node: ast.AST) -> bool:
    """Comparisons, alternatives, calls and assignments of constants with a name such as `driver` or `request.driver`."""
    if not isinstance(node, ast.Compare | ast.BoolOp | ast.Call) and not (
        isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)
    ):
        return False
    named = (each for each in ast.walk(node) if isinstance(each, ast.Name | ast.Attribute))
    names = (each.id if isinstance(each, ast.Name) else each.attr for each in named)
    return any("driver" in name.lower() or name in ("discovery", "runtime_type") for name in names)


def found(source: str) -> set[str]:
    """The names of drivers in the source."""
    tree = ast.parse(source)
    sure = NAMES - WORDS
    plain = {text for text in _strings(tree) if text in sure}
    return plain | {text for node in ast.walk(tree) if _is_about_drivers(node) for text in _strings(node) if text in NAMES}


def test_only_the_module_of_defaults_contains_names_of_drivers() -> None:
    assert {KEY, "overlay2", "json-file", "runc", *WORDS} <= NAMES
    sources = [path for part in ("kernel", "engine") for path in (TOP / part).glob(f"orlop_{part}/**/*.py")]
    named = {str(path.relative_to(TOP)): names for path in sources if (names := found(path.read_text()))}
    configuration = {place for place, names in named.items() if "config" in place and names == {KEY}}
    assert named.keys() - configuration == {DEFAULTS}, named


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('"""A network of the driver `bridge`."""', set()),
        ('if network.name == "bridge": ...', {"bridge"}),
        ('driver = mount.driver or "local"', {"local"}),
        ('driver: str = "none"', {"none"}),
        ('single = request.driver in ("host", "null")', {"host", "null"}),
        ('discovery.find("volume", "local")', {"local"}),
        ('shared = mode == "host"', set()),
    ],
)
def test_search_for_driver_names_finds_the_names_in_example_code(source: str, names: set[str]) -> None:
    assert found(source) == names


def test_list_of_driver_distributions_contains_exactly_those_of_this_project() -> None:
    """Drivers of a distribution that is not in the list would run on a separate event loop."""
    kinds = [*hooks.GROUPS, f"orlop.{hooks.FINDER}"]
    projects = (tomllib.loads(path.read_text())["project"] for path in TOP.glob("plugins/*/pyproject.toml"))
    ours = {each["name"] for each in projects if set(kinds) & set(each.get("entry-points", {}))}
    assert ours == defaults.DISTRIBUTIONS
