"""The table of `images --tree`: each image with all platforms of its name, including platforms whose images are not
stored."""

from __future__ import annotations

from orlop_cli.values import units

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any


HEADERS = ("IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA")


def render(images: Iterable[Mapping[str, Any]]) -> str:
    """The text of the table. `images` is the API's list with `manifests`. The column `EXTRA` is "U" for images that
    containers use."""
    blocks = [list(_block(image)) for image in images]
    rows = [HEADERS, *(row for block in blocks for row in block)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADERS))]
    lines = [_line(HEADERS, widths)]
    for number, block in enumerate(blocks):
        lines += [""] * bool(number)
        lines += [_line(row, widths) for row in block]
    return "\n".join(lines) + "\n"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    name, ident, usage, content, extra = row
    cells = (name.ljust(widths[0]), ident.ljust(widths[1]), usage.rjust(widths[2]), content.rjust(widths[3]), extra)
    return "   ".join(cells).rstrip()


def _block(image: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The lines of an image: its names (the last one with the sizes), and then its platforms."""
    manifests = image.get("Manifests") or []
    shown = [one for one in manifests if one.get("Kind") == "image"]
    names = [name for name in image.get("RepoTags") or [] if name != "<none>:<none>"] or ["<untagged>"]
    for name in names[:-1]:
        yield (name, "", "", "", "")
    total = sum(one["Size"]["Total"] for one in manifests) or image.get("Size") or 0
    content = sum(one["Size"]["Content"] for one in manifests)
    used = image.get("Containers", -1) > 0 or any(map(_is_used, shown))
    yield _row(names[-1], image["Id"], total, content, used)
    for one in shown:
        branch = "└─ " if one is shown[-1] else "├─ "
        yield _row(branch + _platform(one), one["ID"], one["Size"]["Total"], one["Size"]["Content"], _is_used(one))


def _row(name: str, ident: str, total: int, content: int, used: bool) -> tuple[str, ...]:
    sizes = units.human_size(total), units.human_size(content)
    return (name, ident.removeprefix("sha256:")[:12], *sizes, "U" if used else "")


def _is_used(manifest: Mapping[str, Any]) -> bool:
    return bool((manifest.get("ImageData") or {}).get("Containers"))


def _platform(manifest: Mapping[str, Any]) -> str:
    found = (manifest.get("ImageData") or {}).get("Platform") or {}
    return "/".join(found[key] for key in ("os", "architecture", "variant") if found.get(key)) or "<unknown>"
