"""Answers to requests that build nothing: targets, outline, lint, and the list of these requests."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any

from .build_instructions import Stages
from .interface import DockerfileError, SourceFile, SourceRange
from .lint import Finding
from .outline import ArgInfo, Need
from .stages import StageState, reachable

__all__ = ["describe", "lint", "outline", "targets"]

_VERSION = b"1.0.0"


def _result(value: object, text: str | None, status: int | None = None) -> dict[str, bytes]:
    out = {
        "result.json": json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace"),
        "version": _VERSION,
    }
    if text is not None:
        out["result.txt"] = text.encode("utf-8", "surrogateescape")
    if status is not None:
        out["result.statuscode"] = str(status).encode()
    return out


def _location(ranges: Sequence[SourceRange]) -> dict[str, Any]:
    return {"ranges": [{"start": {"line": r.start.line}, "end": {"line": r.end.line}} for r in ranges]}


def _table(rows: Sequence[Sequence[str]], padding: int = 3) -> str:
    """Align columns like text/tabwriter, without padding the last column."""
    if not rows:
        return ""
    widths = [max(len(row[at]) for row in rows) + padding for at in range(len(rows[0]) - 1)]
    lines = ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1] for row in rows]
    return "".join(line + "\n" for line in lines)


def describe() -> dict[str, bytes]:
    def named(*names: str) -> list[dict[str, str]]:
        return [{"name": name, "description": ""} for name in names]

    def request(name: str, description: str, opts: object, *metadata: str) -> dict[str, object]:
        found = {"name": f"frontend.{name}", "version": "1.0.0", "type": "rpc", "description": description}
        return found | {"opts": opts, "inputs": None, "metadata": named(*metadata), "refs": None}

    both = ("result.json", "result.txt")
    target = [{"name": "target", "description": "Target build stage"}]
    value = [
        request("outline", "List all parameters current build target supports", target, *both),
        request("targets", "List all targets current build supports", [], *both),
        request("lint", "Lint a Dockerfile", [], *both, "result.statuscode"),
        request("subrequests.describe", "List available subrequest types", None, *both),
    ]
    rows = [(str(item["name"]).removeprefix("frontend."), "1.0.0", str(item["description"])) for item in value]
    return _result(value, _table([("NAME", "VERSION", "DESCRIPTION"), *rows], 1))


def targets(source: SourceFile, found: Stages) -> dict[str, bytes]:
    last = len(found.stages) - 1
    items = []
    rows = [("TARGET", "DESCRIPTION")]
    for number, stage in enumerate(found.stages):
        item: dict[str, Any] = {"name": stage.name} if stage.name else {}
        item |= {"default": True} if number == last else {}
        for name, value in (("description", stage.description), ("base", stage.base), ("platform", stage.platform)):
            if value:
                item[name] = value
        item["location"] = _location(stage.lines.ranges)
        items.append(item)
        shown = f"{stage.name} (default)".strip() if number == last else stage.name
        if shown:
            rows.append((shown, stage.description))
    result = {"targets": items, "sources": [base64.b64encode(source.data).decode()]}
    return _result(result, _table(rows, 1))


def _needs(found: Iterable[Need]) -> list[Need]:
    """The needed arguments, without duplicates, in the order of the lines."""
    known: dict[str, Need] = {}
    for need in found:
        known.setdefault(need.name, need)
    return sorted(known.values(), key=_line)


def _line(item: Need | ArgInfo) -> int:
    return item.ranges[0].start.line if item.ranges else 0


def outline(source: SourceFile, target: StageState) -> dict[str, bytes]:
    found = sorted(reachable(target), key=lambda state: state is not target)
    args = {info.name: info for state in reversed(found) for info in state.outline.used_args()}
    secrets = _needs(need for state in found for need in state.outline.secrets.values())
    agents = _needs(need for state in found for need in state.outline.agents.values())
    value: dict[str, Any] = {"name": target.stage.name} if target.stage.name else {}
    if target.stage.description:
        value["description"] = target.stage.description
    text = ""
    if value:
        rows = [("TARGET:", target.stage.name or "(default)")]
        rows += [("DESCRIPTION:", target.stage.description)] if target.stage.description else []
        text += _table(rows, 1) + "\n"
    ordered = sorted(args.values(), key=_line)
    if ordered:
        value["args"] = [
            {"name": info.name}
            | ({"description": info.description} if info.description else {})
            | ({"value": info.value} if info.value else {})
            | {"location": _location(info.ranges)}
            for info in ordered
        ]
        cells = [(info.name, info.value or "", info.description) for info in ordered]
        text += _table([("BUILD ARG", "VALUE", "DESCRIPTION"), *cells]) + "\n"
    for key, title, needs in (("secrets", "SECRET", secrets), ("ssh", "SSH", agents)):
        if needs:
            value[key] = [
                {"name": need.name} | ({"required": True} if need.required else {}) | {"location": _location(need.ranges)}
                for need in needs
            ]
            text += _table([(title, "REQUIRED"), *((n.name, "true" if n.required else "") for n in needs)]) + "\n"
    value["sources"] = [base64.b64encode(source.data).decode()]
    return _result(value, text)


def lint(source: SourceFile, found: Sequence[Finding], error: DockerfileError | None) -> dict[str, bytes]:
    ordered = sorted(found, key=lambda item: item.ranges[0].start.line if item.ranges else 0)
    warnings = [
        {"ruleName": item.rule.name, "description": item.rule.description}
        | ({"url": item.rule.url} if item.rule.url else {})
        | {"detail": item.message, "location": _location(item.ranges)}
        for item in ordered
    ]
    file = {"filename": source.filename, "language": source.language, "data": base64.b64encode(source.data).decode()}
    value: dict[str, Any] = {"warnings": warnings, "sources": [file]}
    if error is not None:
        value["buildError"] = {"message": error.message, "location": _location(error.ranges)}
    text = "".join(_warning(source, item) for item in ordered)
    return _result(value, text, 1 if warnings or error is not None else 0)


def _warning(source: SourceFile, item: Finding) -> str:
    url = f" - {item.rule.url}" if item.rule.url else ""
    return f"\nWARNING: {item.rule.name}{url}\n{item.message}\n" + (_excerpt(source, item.ranges) if item.ranges else "")


def _excerpt(source: SourceFile, ranges: Sequence[SourceRange]) -> str:
    """The lines in `ranges`, marked, with the lines around them."""
    lines = source.data.decode("utf-8", "surrogateescape").split("\n")
    start, end = ranges[0].start.line, max(item.end.line for item in ranges)
    if start > len(lines) or start < 1:
        return ""
    marked = {line for item in ranges for line in range(item.start.line, item.end.line + 1)}
    padding = 2
    if end == start:
        padding = 4
    first, last = start, min(end, len(lines))
    added = 0
    while added < padding:
        before = added
        if first > 1:
            first -= 1
            added += 1
        if last != len(lines):
            last += 1
            added += 1
        if added == before:
            break
    out = [f"{source.filename}:{start}", "-" * 20]
    for number in range(first, last + 1):
        mark = ">>>" if number in marked else "   "
        out.append(f" {number:3d} | {mark} {lines[number - 1]}")
    return "\n".join([*out, "-" * 20]) + "\n"
