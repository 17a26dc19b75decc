"""Writes docs/images/top.svg and explain.svg: the screens of `orlop top` and `orlop explain`, with containers that are
invented as examples.

The client's own code makes the text, without a daemon. `./dev docs` runs this script. A test fails if an image differs from
the output of the client.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from orlop_cli.explain.container import Evidence, PortUse, explain
from orlop_cli.fullscreen import model, view
from orlop_cli.fullscreen.cells import width
from orlop_cli.fullscreen.samples import Sample
from orlop_cli.fullscreen.view import Line, Span

__all__ = ["IMAGES", "generated", "main"]

IMAGES = Path(__file__).parent / "images"
FONTS = "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace"
CELL, ROW, SIZE = 8.4, 18, 14  # pixels; the fonts have cells of 0.6 of their size
MARGIN, BAR = 14, 30
BACKGROUND, FOREGROUND = "#1b1f27", "#d7dae0"
COLOURS = {"good": "#7fc97f", "warn": "#e5c07b", "bad": "#f07178", "key": "#67c9d8", "dim": "#8b93a1", "title": "#ffffff"}
BOLD = {"title", "key"}
REVERSED = {"selected", "page"}


def svg(command: str, lines: Sequence[Line], columns: int) -> str:
    """A window of a terminal with a command and its output."""
    across, high = columns * CELL + 2 * MARGIN, len(lines) * ROW + BAR + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{across:.0f}" height="{high}" viewBox="0 0 {across:.0f} {high}" '
        f'role="img" aria-label="Terminal with the output of {escape(command)}">',
        f"<title>{escape(command)}</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>',
        f'<text x="50%" y="20" text-anchor="middle" fill="{COLOURS["dim"]}" font-family="sans-serif" font-size="13">'
        f"{escape(command)}</text>",
        f'<g font-family="{FONTS}" font-size="{SIZE}" xml:space="preserve">',
    ]
    for number, line in enumerate(lines):
        parts += _line(line, BAR + number * ROW)
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _line(line: Line, top: float) -> list[str]:
    parts, cell = [], 0
    for style, spans in groupby(line, key=lambda span: span.style):
        text = "".join(span.text for span in spans)
        left, cells = MARGIN + cell * CELL, width(text)
        cell += cells
        colour = COLOURS.get(style, FOREGROUND)
        if style in REVERSED:
            parts.append(f'<rect x="{left:.1f}" y="{top}" width="{cells * CELL:.1f}" height="{ROW}" fill="{FOREGROUND}"/>')
            colour = BACKGROUND
        if text.strip():
            bold = ' font-weight="bold"' if style in BOLD else ""
            place = (
                f'x="{left:.1f}" y="{top + SIZE}" textLength="{cells * CELL:.1f}"'  # the length aligns columns in any font
            )
            parts.append(f'<text {place} fill="{colour}"{bold}>{escape(text)}</text>')
    return parts


def _container(name: str, image: str, status: str, state: str = "running") -> dict[str, Any]:
    return {"Id": name, "Names": [f"/{name}"], "Image": image, "State": state, "Status": status}


CONTAINERS = [
    _container("shop-web-1", "nginx:1.27", "Up 3 hours (healthy)"),
    _container("shop-api-1", "shop/api:2.4", "Up 3 hours (healthy)"),
    _container("shop-db-1", "postgres:17", "Up 3 hours (healthy)"),
    _container("shop-worker-1", "shop/api:2.4", "Up 4 minutes (unhealthy)"),
    _container("shop-cache-1", "valkey:8", "Up 3 hours"),
    _container("backup", "restic:0.17", "Exited (0) 5 hours ago", "exited"),
    _container("import", "shop/import:1", "Exited (137) 12 minutes ago", "exited"),
    _container("batch", "shop/batch:7", "Up 2 minutes (Paused)", "paused"),
]
MB, GB = 1 << 20, 1 << 30
SAMPLES = {
    "shop-web-1": Sample(31 * MB, 256 * MB, 5, 3.1, 48_200, 913_000, 0.0),
    "shop-api-1": Sample(412 * MB, 512 * MB, 23, 61.7, 310_000, 88_400, 12.0),
    "shop-db-1": Sample(1200 * MB, 2 * GB, 17, 24.9, 41_000, 122_000, 0.0),
    "shop-worker-1": Sample(497 * MB, 512 * MB, 11, 199.2, 1_200, 800, 87.0),
    "shop-cache-1": Sample(96 * MB, 512 * MB, 6, 1.4, 20_300, 18_900, 0.0),
    "batch": Sample(64 * MB, 512 * MB, 2, 0.0, 0.0, 0.0, 0.0),
}


def top() -> str:
    """The containers, sorted by CPU."""
    state = model.State("unix:///run/orlop.sock", 104, 14, order={"containers": ("CPU %", False)})
    state = model.sampled(model.listed(state, "containers", CONTAINERS), SAMPLES)
    state = model.settle(state._replace(chosen={"containers": "shop-api-1"}))
    return svg("orlop top", view.render(state), state.width)


def explanation() -> str:
    """A container whose port is taken."""
    error = "failed to bind host port 0.0.0.0:8080/tcp: address already in use"
    found = {
        "Id": "4f0c" * 16,
        "Name": "/web",
        "Config": {"Image": "nginx:1.27", "Tty": False},
        "HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}},
        "State": {"Status": "created", "Running": False, "ExitCode": 128, "Error": error},
    }
    uses = [PortUse(8080, "tcp", "80/tcp", ["nginx, pid 812"], [812])]
    lines = explain(found, Evidence(ports=uses)).text().splitlines()
    return svg("orlop explain web", [_styled(line) for line in lines], max(map(len, lines)))


def _styled(line: str) -> Line:
    return [Span(line, "key" if line.endswith(":") else "")]


def generated() -> dict[str, str]:
    """The images by name."""
    return {"top.svg": top(), "explain.svg": explanation()}


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for name, text in generated().items():
        (IMAGES / name).write_text(text)


if __name__ == "__main__":
    main()
