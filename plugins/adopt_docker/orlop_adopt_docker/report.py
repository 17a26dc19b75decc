"""Shows the effects of an adoption, as a table for people and as a document for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .plan import Item, Plan

__all__ = ["document", "sentence", "table"]

_KINDS = ("image", "container", "volume", "network")


def document(plan: Plan, *, done: bool) -> dict[str, Any]:
    """The document for programs. `done`: the plan was executed."""
    return {
        "root": plan.inventory.root,
        "store": plan.inventory.store.name,
        "done": done,
        "counts": {kind: {"adopted": taken, "left": left} for kind, (taken, left) in plan.counts().items()},
        "objects": [
            {"kind": item.kind, "name": item.name, "id": item.id, "adopted": item.adopted, "text": item.text}
            for item in plan.items
        ],
    }


def table(plan: Plan) -> str:
    """The table for people, with one line for each object. All images without a name share one line."""
    shown = [item for item in plan.items if item.name != "<none>" or not item.adopted]
    rows = [("KIND", "NAME", "ADOPTED", "REMARK"), *(_row(item) for item in sorted(shown, key=_order))]
    unnamed = sum(item.name == "<none>" and item.adopted for item in plan.items)
    if unnamed:
        rows.append(("image", f"({unnamed} without a name)", "yes", ""))
    return "".join(f"{line}\n" for line in _aligned(rows))


def _order(item: Item) -> tuple[bool, int, str]:
    return item.adopted, _KINDS.index(item.kind) if item.kind in _KINDS else len(_KINDS), item.name


def _row(item: Item) -> tuple[str, str, str, str]:
    return item.kind, item.name or "-", "yes" if item.adopted else "no", item.text


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [min(max(len(row[column]) for row in rows), 40) for column in range(3)]
    for row in rows:
        yield "   ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]).rstrip()


def sentence(plan: Plan) -> str:
    """A sentence with the number of adopted objects."""
    counts = plan.counts()
    parts = [f"{counts[kind][0]} {kind}{'' if counts[kind][0] == 1 else 's'}" for kind in _KINDS if kind in counts]
    stays = sum(stays for _, stays in counts.values())
    return f"{', '.join(parts) or 'nothing'}; not adopted: {stays}"
