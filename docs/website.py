"""Makes the documentation site from the Markdown pages of the project. `./dev docs` runs this script with MkDocs.

The pages stay where they are. A copy of them, with adapted links, is the source of the site: three books, and an appendix.
"""

from __future__ import annotations

import posixpath
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["BOOKS", "PAGES", "adapt", "navigation", "sources", "title"]

ROOT = Path(__file__).parents[1]
BOOKS: Mapping[str, Sequence[str]] = {
    "Use": (
        "docs/tutorials/first-container.md",
        "docs/tutorials/from-docker.md",
        "docs/cli.md",
        "docs/build.md",
        "docs/api.md",
        "docs/commands.md",
    ),
    "Run": (
        "docs/tutorials/systemd.md",
        "docs/operations.md",
        "docs/configuration.md",
        "docs/coming-from-docker.md",
        "docs/registries.md",
        "docs/storage.md",
        "docs/docker-plugins.md",
        "docs/networks.md",
        "docs/access.md",
        "docs/threat-model.md",
        "SECURITY.md",
    ),
    "Extend": (
        "docs/tutorials/first-driver.md",
        "docs/drivers.md",
        "docs/plugins.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
    ),
}
APPENDIX = ("CHANGELOG.md",)
DECISIONS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/decisions").glob("*.md"))
PAGES = ["README.md", *(page for book in BOOKS.values() for page in book), *APPENDIX, *DECISIONS]
_DECISION_INDEX = "decisions/index.md"


def target(page: str) -> str:
    """The path of a page in the site's source."""
    return "index.md" if page == "README.md" else page.removeprefix("docs/")


def title(page: str) -> str:
    """The first heading of a page, as the name of its entry."""
    heading = re.search(r"^# (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert heading, f"{page} has no title"
    return heading[1].replace("`", "")


def adapt(page: str, text: str) -> str:
    """The text of a page with links for the site. Links to files that are not in the site become plain text."""

    def link(found: re.Match[str]) -> str:
        picture, words, where = found.groups()
        path, hash_, anchor = where.partition("#")
        if not path or ":" in path:
            return found[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
        if there == "docs/decisions":
            there = f"docs/{_DECISION_INDEX}"
        elif there not in PAGES and not there.startswith("docs/images/"):
            return f"{words} (`{there}`)" if words != there else f"`{there}`"
        relative = posixpath.relpath(target(there), posixpath.dirname(target(page)) or ".")
        return f"{picture}[{words}]({relative}{hash_}{anchor})"

    parts = re.split(r"(^ *```.*?^ *```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.lstrip().startswith("```") else _LINK.sub(link, part) for part in parts)


_LINK = re.compile(r"(!?)\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def sources() -> dict[str, str]:
    """The files of the site's source: path and text."""
    found = {target(page): adapt(page, (ROOT / page).read_text()) for page in PAGES}
    found |= {f"images/{path.name}": path.read_text() for path in (ROOT / "docs/images").glob("*.svg")}
    entries = [f"- [{title(page)}]({posixpath.basename(page)})" for page in DECISIONS]
    return {**found, _DECISION_INDEX: "# Decisions\n\nRecords of design decisions.\n\n" + "\n".join(entries) + "\n"}


def navigation() -> list[dict[str, object]]:
    """The entries of the site's menu."""
    books: list[dict[str, object]] = [{"Orlop": "index.md"}]
    books += [{book: [{title(page): target(page)} for page in pages]} for book, pages in BOOKS.items()]
    appendix: list[dict[str, str]] = [*({title(page): target(page)} for page in APPENDIX), {"Decisions": _DECISION_INDEX}]
    return [*books, {"Appendix": appendix}]


def main(out: str) -> None:
    """Build the site into a directory. Exits with an error if a link leads nowhere."""
    import logging

    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        for path, text in sources().items():
            file = Path(scratch, "docs", path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        Path(scratch, "mkdocs.yml").write_text("site_name: Orlop\n")
        config = load_config(
            f"{scratch}/mkdocs.yml",
            docs_dir=f"{scratch}/docs",
            site_dir=str(Path(out).absolute()),
            strict=True,
            theme={"name": "readthedocs", "highlightjs": False},  # the theme loads highlight.js from another host
            nav=navigation(),
            use_directory_urls=False,
            validation={
                "links": {"anchors": "warn", "not_found": "warn", "unrecognized_links": "warn"},
                "nav": {"omitted_files": "ignore"},
            },
        )
        build(config)


if __name__ == "__main__":
    main(sys.argv[1])
