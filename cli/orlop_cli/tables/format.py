"""The option --format of lists: `table`, `table TEMPLATE`, `json`, `raw`, or a template. This module also prints the default
table, which uses no template."""

from __future__ import annotations

import sys

from orlop_cli._errors import CliError
from orlop_cli.tables.table import layout

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from orlop_cli.tables.row import Row


def print_rows(
    rows: Iterable[Row],
    columns: Sequence[str],
    headers: dict[str, str],
    form: str | None,
    quiet: str = "",
    raw: dict[str, str] | None = None,
) -> None:
    """Print a listing. `columns` are the default table's placeholders; `quiet` is the placeholder that -q prints; `raw` maps
    the names that `--format raw` prints to placeholders, for lists that have this format in docker."""
    sys.stdout.write(render_rows(rows, columns, headers, form, quiet, raw))


def render_rows(
    rows: Iterable[Row],
    columns: Sequence[str],
    headers: dict[str, str],
    form: str | None,
    quiet: str = "",
    raw: dict[str, str] | None = None,
) -> str:
    """The text that print_rows prints."""
    if quiet and form in (None, "", "table"):
        return "".join(f"{getattr(row, quiet)()}\n" for row in rows)
    if form in (None, "", "table"):
        lines = [[headers[name] for name in columns]]
        lines += [[getattr(row, name)() for name in columns] for row in rows]
        return layout(lines)
    if form == "json":
        from orlop_cli.tables.functions import to_json

        return "".join(_html_safe(to_json(row)) + "\n" for row in rows)
    if form == "raw" and raw:
        return "".join(_raw(row, raw, quiet) for row in rows)
    return _templated(rows, headers, str(form))


def _raw(row: Row, names: dict[str, str], quiet: str) -> str:
    """A line per placeholder, then an empty line; with `quiet`, only the line of its placeholder."""
    values = [(name, getattr(row, place)()) for name, place in names.items() if place == quiet or not quiet]
    return "".join(f"{name}: {value}\n" if value else f"{name}:\n" for name, value in values) + ("" if quiet else "\n")


def _html_safe(text: str) -> str:
    """JSON as Go's encoder writes it: with escapes for HTML."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _templated(rows: Iterable[Row], headers: dict[str, str], form: str) -> str:
    from orlop_cli.tables.functions import HEADER_TABLE
    from orlop_cli.tables.row import Headers
    from orlop_cli.tables.template import Template

    source = unescape(form)
    table = source.startswith("table")
    source = source[5:].strip(" ") if table else source
    template = Template(source)
    if not table:
        return "".join(template.render(row) + "\n" for row in rows)
    heading = Template(source, HEADER_TABLE).render(Headers(headers))
    lines = [heading.split("\t")] + [template.render(row).split("\t") for row in rows]
    return layout(lines)


def unescape(form: str) -> str:
    """Replace `\\t` and `\\n`, which users type in a shell, by tab and newline."""
    return form.replace("\\t", "\t").replace("\\n", "\n")


def render_values(values: Sequence[Any], form: str) -> str:
    """Render JSON values with a template, one per line, for inspect, info, version and events."""
    if form == "json":
        from orlop_cli.tables.functions import to_json

        return "".join(to_json(value) + "\n" for value in values)
    from orlop_cli.tables.go_types import typed
    from orlop_cli.tables.template import Template

    try:
        template = Template(form)
    except CliError as error:
        error.code = 64  # docker's code for a template that cannot be parsed
        raise
    return "".join(template.render(typed(value)) + "\n" for value in values)
