"""Cancel-scope shields have deadlines: without one, a hanging operation would block the daemon's shutdown forever."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOUNDED_LATER = {
    "plugins/guard_listeners/orlop_guard_listeners/audit.py",  # a separate task sets the deadline
    "engine/orlop_engine/driver_loop.py",  # the gate abandons the task at its deadline
}


def shields(path: Path) -> Iterator[int]:
    """Line numbers of shields without a deadline."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        keywords = {each.arg for each in node.keywords}
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if "shield" in keywords and "deadline" not in keywords and not name.endswith("_after"):
            yield node.lineno


def test_every_shielded_cancel_scope_has_a_deadline() -> None:
    """A shielded scope is made with `shield=True`. Some files, which are listed, are exempt."""
    sources = [
        path
        for part in ("sdk", "kernel", "monitor", "engine", "plugins", "cli")
        for path in (ROOT / part).rglob("*.py")
        if "tests" not in path.parts
    ]
    found = {str(path.relative_to(ROOT)) for path in sources if [*shields(path)]}
    assert found == BOUNDED_LATER
