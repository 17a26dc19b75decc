"""The tables of the pages: which columns they have, and their rows from the API's answers."""

from __future__ import annotations

import time
from typing import NamedTuple

from orlop_cli.fullscreen.cells import printable
from orlop_cli.values.ports import displayable
from orlop_cli.values.times import parse_nanoseconds
from orlop_cli.values.units import bytes_size, human_duration, human_size

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from orlop_cli.fullscreen.samples import Sample

    Json = dict[str, Any]

__all__ = ["COLUMNS", "FIGURES", "PAGES", "Column", "Row", "arrange", "build", "choose"]

PAGES = {
    "containers": "Containers",
    "images": "Images",
    "volumes": "Volumes",
    "networks": "Networks",
    "cache": "Build cache",
}
FIGURES = {"CPU %", "MEM", "MEM %", "NET IN", "NET OUT", "THROTTLED", "PIDS"}
MISSING = "-"
WARN, BAD = 80.0, 95.0  # percent of a limit


class Column(NamedTuple):
    """A column: its width in cells, and its rank. On a narrow screen, columns with the highest ranks are left out. The first
    column of a page gets the cells that remain."""

    title: str
    width: int
    rank: int
    right: bool = False


COLUMNS = {
    "containers": (
        Column("NAME", 12, 0),
        Column("STATE", 10, 1),
        Column("HEALTH", 9, 5),
        Column("CPU %", 7, 2, True),
        Column("MEM", 8, 3, True),
        Column("MEM %", 6, 4, True),
        Column("NET IN", 9, 6, True),
        Column("NET OUT", 9, 7, True),
        Column("THROTTLED", 9, 9, True),
        Column("PIDS", 5, 8, True),
        Column("STATUS", 22, 11),
        Column("IMAGE", 22, 10),
        Column("PORTS", 30, 12),
    ),
    "images": (
        Column("REPOSITORY", 18, 0),
        Column("TAG", 10, 1),
        Column("SIZE", 8, 2, True),
        Column("IMAGE ID", 12, 4),
        Column("CREATED", 14, 3),
    ),
    "volumes": (Column("NAME", 20, 0), Column("DRIVER", 8, 1), Column("CREATED", 14, 3), Column("MOUNTPOINT", 44, 4)),
    "networks": (Column("NAME", 16, 0), Column("DRIVER", 8, 1), Column("SUBNET", 18, 2), Column("NETWORK ID", 12, 3)),
    "cache": (
        Column("DESCRIPTION", 16, 0),
        Column("SIZE", 8, 1, True),
        Column("USES", 5, 2, True),
        Column("IN USE", 6, 4),
        Column("TYPE", 12, 3),
        Column("LAST USED", 14, 5),
    ),
}


class Row(NamedTuple):
    """A row. `key` identifies the object in requests. `values` are the sort keys of the columns that are not sorted by their
    text."""

    key: str
    name: str
    cells: Mapping[str, str]
    values: Mapping[str, float]
    styles: Mapping[str, str]
    live: bool = False  # a container that runs


def choose(columns: Sequence[Column], width: int) -> list[tuple[Column, int]]:
    """The columns that fit, with their widths. Columns are separated by one cell."""
    kept: list[Column] = []
    for column in sorted(columns, key=lambda one: one.rank):
        if kept and sum(one.width + 1 for one in kept) + column.width > width:
            break
        kept.append(column)
    spare = max(width - sum(one.width + 1 for one in kept) + 1, -kept[0].width)
    return [(one, one.width + (spare if one.rank == 0 else 0)) for one in columns if one in kept]


def arrange(found: Sequence[Row], column: str, reverse: bool) -> list[Row]:
    """The rows, sorted by a column. Rows with equal values are sorted by name. Numbers are sorted from the largest; rows
    without a number come last in both directions."""
    by_name = sorted(found, key=lambda row: (row.name.lower(), row.key))
    with_number = [row for row in by_name if column in row.values]
    if not with_number:
        return sorted(by_name, key=lambda row: row.cells.get(column, "").lower(), reverse=reverse)
    without = [row for row in by_name if column not in row.values]
    return sorted(with_number, key=lambda row: row.values[column], reverse=not reverse) + without


def build(page: str, items: Sequence[Json], samples: Mapping[str, Sample]) -> list[Row]:
    """The rows of a page, unsorted."""
    if page == "containers":
        return [_container(item, samples.get(item["Id"])) for item in items]
    if page == "images":
        return [_image(item, tag) for item in items for tag in item.get("RepoTags") or ["<none>:<none>"]]
    return [{"volumes": _volume, "networks": _network, "cache": _cache}[page](item) for item in items]


def _row(key: str, name: str, cells: Mapping[str, str], values: Mapping[str, float | None], **more: Any) -> Row:
    known = {column: value for column, value in values.items() if value is not None}
    return Row(key, printable(name), {title: printable(cell) for title, cell in cells.items()}, known, **more)


def _container(item: Json, found: Sample | None) -> Row:
    name = (item.get("Names") or ["/"])[0].removeprefix("/") or item["Id"][:12]
    health, state = _health(item), _state(item)
    values: dict[str, float | None] = dict.fromkeys(FIGURES)
    cells = dict.fromkeys(FIGURES, MISSING)
    if found:
        values = {
            "CPU %": found.cpu,
            "MEM": found.memory,
            "MEM %": found.share,
            "NET IN": found.received,
            "NET OUT": found.sent,
            "THROTTLED": found.throttled,
            "PIDS": found.pids,
        }
        for title, value in values.items():
            cells[title] = MISSING if value is None else _FORMATS[title](value)
    cells |= {
        "NAME": name,
        "STATE": state,
        "HEALTH": health or MISSING,
        "STATUS": item.get("Status") or "",
        "IMAGE": item.get("Image") or "",
        "PORTS": displayable(item.get("Ports") or []),
    }
    styles = {"STATE": _state_style(state), "HEALTH": _HEALTH.get(health, "")}
    for title in ("MEM %", "THROTTLED"):
        level = values[title] or 0.0
        styles[title] = "bad" if level >= BAD else "warn" if level >= WARN else ""
    return _row(item["Id"], name, cells, values, styles=styles, live=item.get("State") in ("running", "paused"))


def _percent(value: float) -> str:
    return f"{value:.1f}"


def _rate(value: float) -> str:
    return f"{human_size(value)}/s"


_FORMATS: dict[str, Callable[[float], str]] = {
    "CPU %": _percent,
    "MEM": bytes_size,
    "MEM %": _percent,
    "NET IN": _rate,
    "NET OUT": _rate,
    "THROTTLED": lambda value: f"{value:.0f}%",
    "PIDS": lambda value: f"{value:.0f}",
}
_HEALTH = {"healthy": "good", "starting": "warn", "unhealthy": "bad"}


def _health(item: Json) -> str:
    """The health from `Status`, as in "Up 2 minutes (healthy)". Only newer APIs have a field for it."""
    status = str(item.get("Status") or "")
    if status.endswith("(health: starting)"):
        return "starting"
    return next((word for word in ("unhealthy", "healthy") if status.endswith(f"({word})")), "")


def _state(item: Json) -> str:
    """The state; for an exited container with the exit code, for an unhealthy one without the word "running"."""
    state = str(item.get("State") or "")
    if state == "running" and _health(item) == "unhealthy":
        return "unhealthy"
    code = str(item.get("Status") or "").partition("(")[2].partition(")")[0]
    return f"{state} {code}" if state == "exited" and code.isdecimal() else state


def _state_style(state: str) -> str:
    word, _, code = state.partition(" ")
    if word == "exited":
        return "dim" if code in ("", "0") else "bad"
    return {"running": "good", "paused": "warn", "restarting": "warn", "dead": "bad", "unhealthy": "bad"}.get(word, "dim")


def _ago(seconds: float) -> str:
    return f"{human_duration(max(time.time() - seconds, 0))} ago" if seconds > 0 else MISSING


def _stamp(text: str) -> float:
    """The Unix time of a timestamp; 0 if it has none."""
    try:
        return 0.0 if text.startswith("0001-") else parse_nanoseconds(text) / 1e9
    except ValueError:
        return 0.0


def _image(item: Json, tag: str) -> Row:
    repository, _, version = tag.rpartition(":")
    key = item["Id"] if tag == "<none>:<none>" else tag
    created, size = float(item.get("Created") or 0), int(item.get("Size") or 0)
    short = item["Id"].removeprefix("sha256:")[:12]
    cells = {"REPOSITORY": repository, "TAG": version, "SIZE": human_size(size), "IMAGE ID": short, "CREATED": _ago(created)}
    return _row(key, short if key == item["Id"] else tag, cells, {"SIZE": size, "CREATED": created}, styles={})


def _volume(item: Json) -> Row:
    created = _stamp(item.get("CreatedAt") or "")
    cells = {"NAME": item["Name"], "DRIVER": item.get("Driver") or "", "CREATED": _ago(created)}
    cells["MOUNTPOINT"] = item.get("Mountpoint") or ""
    return _row(item["Name"], item["Name"], cells, {"CREATED": created}, styles={})


def _network(item: Json) -> Row:
    configured = (item.get("IPAM") or {}).get("Config") or []
    subnets = ", ".join(one["Subnet"] for one in configured if one.get("Subnet"))
    cells = {"NAME": item["Name"], "DRIVER": item.get("Driver") or "", "SUBNET": subnets, "NETWORK ID": item["Id"][:12]}
    return _row(item["Id"], item["Name"], cells, {}, styles={})


def _cache(item: Json) -> Row:
    used, size = _stamp(item.get("LastUsedAt") or ""), int(item.get("Size") or 0)
    cells = {
        "DESCRIPTION": item.get("Description") or item["ID"],
        "SIZE": human_size(size),
        "TYPE": item.get("Type") or "",
        "USES": str(item.get("UsageCount") or 0),
        "IN USE": "yes" if item.get("InUse") else "",
        "LAST USED": _ago(used),
    }
    values: dict[str, float | None] = {"SIZE": size, "USES": item.get("UsageCount") or 0, "LAST USED": used}
    return _row(item["ID"], item["ID"][:12], cells, values, styles={})
