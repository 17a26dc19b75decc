"""ARCHITECTURE.md matches the code."""

from __future__ import annotations

import graphlib
import re
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]
sys.path.append(str(TOP / "docs"))

import structure  # noqa: E402 - lies beside the page that it writes

from orlop_engine.containers.state import TRANSITIONS, Event, Phase  # noqa: E402

KERNEL_LINES = 6_500
"""Limit of lines, so that one reader can know the kernel. Further features belong in plugins."""


def _arrows(text: str) -> set[tuple[str, str]]:
    return set(re.findall(r"^    (\w+) --> (\w+)$", text, re.MULTILINE))


def test_import_graph_in_architecture_md_matches_the_code() -> None:
    shown = structure.PAGE.read_text().partition(structure.BEGIN)[2].partition(structure.END)[0]
    assert _arrows(shown) == _arrows(structure.generated()), "run ./dev docs"


def test_line_counts_in_architecture_md_are_current() -> None:
    page = structure.PAGE.read_text()
    shown = {name: int(count.replace(",", "")) for name, count in re.findall(r'(\w+)\["\w+<br/>([\d,]+) lines"\]', page)}
    found = structure.lines()
    assert shown.keys() == found.keys(), "run ./dev docs"
    assert not {name: found[name] for name in found if abs(shown[name] - found[name]) > max(300, found[name] // 10)}, (
        "run ./dev docs"
    )


def test_kernel_has_fewer_lines_than_its_limit() -> None:
    assert structure.lines()["kernel"] <= KERNEL_LINES


def test_container_modules_have_no_import_cycles_and_do_not_import_the_engine() -> None:
    """Includes imports for type checkers. Only the engine and front ends may import the facade, `service`."""
    package = "orlop_engine.containers"
    graph: dict[str, set[str]] = {}
    for path in sorted((structure.packages()["orlop_engine"] / "containers").glob("*.py")):
        imported = structure.imported_modules(path, package)
        own = {name.removeprefix(f"{package}.").partition(".")[0] for name in imported if name.startswith(f"{package}.")}
        graph[path.stem] = own - {path.stem}
        above = {
            name for name in imported if re.match(r"orlop_engine\.(engine|execs|files|stats|check|service|reload)\b", name)
        }
        assert not above, f"{path.name} imports {above}"
    assert [name for name, found in graph.items() if "service" in found] == []
    graphlib.TopologicalSorter(graph).prepare()


def test_every_path_in_architecture_md_exists() -> None:
    page = structure.PAGE.read_text()
    named = set(re.findall(r"`((?:orlop_\w+|sdk|kernel|monitor|engine|plugins|cli)/[\w/]*[\w.]*)`", page))
    roots = [TOP, *(path.parent for path in structure.packages().values())]
    assert not [name for name in named if not any((root / name).exists() for root in roots)]


def test_table_of_container_states_in_architecture_md_matches_the_code() -> None:
    """The table leaves out the event `out of memory`, which changes no phase."""
    section = structure.PAGE.read_text().partition("## The states of a container")[2].partition("\n## ")[0]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")
    ]
    assert head[1:] == [phase.value for phase in Phase]
    shown = {row[0].partition(" (")[0]: row[1:] for row in rows}
    assert shown.keys() == {event.value for event in Event} - {"out of memory"}
    for event in Event:
        if event.value in shown:
            targets = [TRANSITIONS[phase].get(event) for phase in Phase]
            if targets[0] is Phase.EXITED:
                targets[0] = Phase.CREATED  # the container has never run
            assert shown[event.value] == [target.value if target else "" for target in targets], event
