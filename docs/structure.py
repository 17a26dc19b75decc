"""Writes the import graph and the line counts of the distributions into ARCHITECTURE.md. `./dev docs` runs it; a unit test
fails when the page no longer says what the code does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

__all__ = ["GROUPS", "edges", "generated", "imported_modules", "lines", "main", "packages"]

TOP = Path(__file__).parents[1]
PAGE = TOP / "ARCHITECTURE.md"
BEGIN, END = "<!-- made by ./dev docs -->\n", "<!-- end -->\n"
GROUPS = {"drivers": ("storage_", "log_", "net_", "runtime_", "volume_", "docker_plugins")}
"""Packages that the picture shows as one."""


def packages() -> dict[str, Path]:
    """Maps the names of the import packages of all distributions, such as `orlop_kernel`, to their directories."""
    found = (path for pattern in ("*/orlop_*", "plugins/*/orlop_*") for path in TOP.glob(pattern) if path.is_dir())
    return {path.name: path for path in sorted(found)}


def _group(package: str) -> str:
    name = package.removeprefix("orlop_")
    return next((group for group, prefixes in GROUPS.items() if name.startswith(prefixes)), name)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)


def imported_modules(path: Path, package: str) -> set[str]:
    """The modules that a file of `package` imports, also for type checkers alone. `from .x import y` counts as `package.x`
    and `package.x.y`: `y` may be a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, (package, node.module))) if node.level else node.module or ""
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def edges() -> set[tuple[str, str]]:
    """Who imports whom, by the names of the picture."""
    known = packages()
    found = {
        (_group(package), _group(target))
        for package, directory in known.items()
        for path in directory.rglob("*.py")
        for target in _imports(path)
        if target in known
    }
    return {(importer, imported) for importer, imported in found if importer != imported}


def lines() -> dict[str, int]:
    """Lines of Python by the names of the picture, in hundreds."""
    found: dict[str, int] = {}
    for package, directory in packages().items():
        count = sum(len(path.read_text().splitlines()) for path in directory.rglob("*.py"))
        found[_group(package)] = found.get(_group(package), 0) + count
    return {name: max(1, round(count / 100)) * 100 for name, count in found.items()}


def _reduced(graph: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Without the arrows that a longer way implies: the picture shows layers."""

    def reaches(start: str, goal: str, without: tuple[str, str]) -> bool:
        waiting, seen = [start], set[str]()
        while waiting:
            one = waiting.pop()
            for importer, imported in graph - {without}:
                if importer == one and imported not in seen:
                    if imported == goal:
                        return True
                    seen.add(imported)
                    waiting.append(imported)
        return False

    return {edge for edge in graph if not reaches(*edge, without=edge)}


def generated() -> str:
    counts = lines()
    nodes = "\n".join(f'    {name}["{name}<br/>{counts[name]:,} lines"]' for name in sorted(counts))
    arrows = "\n".join(f"    {importer} --> {imported}" for importer, imported in sorted(_reduced(edges())))
    return f"{BEGIN}```mermaid\nflowchart TD\n{nodes}\n{arrows}\n```\n{END}"


def main() -> None:
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(before + generated() + rest.partition(END)[2])


if __name__ == "__main__":
    main()
