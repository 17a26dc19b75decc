"""The source of the documentation site, without its generator: every page is in a book, and every link leads to a page."""

from __future__ import annotations

import posixpath
import re
import sys
from itertools import pairwise
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "docs"))
import website

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def test_documentation_site_has_every_page_once() -> None:
    pages = [path.relative_to(ROOT).as_posix() for path in [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]]
    assert sorted(website.PAGES) == sorted(pages)


def test_links_in_the_site_lead_to_files_of_the_site() -> None:
    found = website.sources()
    broken = []
    for page, text in found.items():
        for path in re.findall(r"\]\(([^)#\s]+)", CODE.sub("", text) if page.endswith(".md") else ""):
            there = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
            if ":" not in path and there not in found:
                broken.append(f"{page}: {path}")
    assert not broken
    assert "](cli.md#full-screen-view)" in found["CHANGELOG.md"]
    assert "](../operations.md#metrics)" in found["tutorials/systemd.md"]
    assert "![" in found["index.md"] and "](images/top.svg)" in found["index.md"]


def test_links_to_files_outside_of_the_site_become_text() -> None:
    adapted = website.adapt(
        "README.md", "see [NOTICE](NOTICE), [the code](dev), [all](docs/decisions/), [x](https://example.com)"
    )
    assert adapted == "see `NOTICE`, the code (`dev`), [all](decisions/index.md), [x](https://example.com)"
    assert website.adapt("docs/cli.md", "```\n[a](b)\n```") == "```\n[a](b)\n```"


def test_lists_in_the_pages_have_the_form_that_python_markdown_needs() -> None:
    """Python-Markdown needs an empty line before a list, and four spaces before the items of a nested list."""
    found = []
    for page, text in website.sources().items():
        lines = CODE.sub("", text).splitlines() if page.endswith(".md") else []
        for before, line in pairwise(lines):
            item = re.match(r"( *)(?:[-*]|\d+\.) ", line)
            if item and (len(item[1]) % 4 or not (before == "" or re.match(r" *(?:[-*]|\d+\.) |  ", before))):
                found.append(f"{page}: {line}")
    assert not found


def test_menu_of_the_site_has_the_books_and_the_decisions() -> None:
    assert [name for entry in website.navigation() for name in entry] == ["Orlop", "Use", "Run", "Extend", "Appendix"]
    index = website.sources()["decisions/index.md"]
    assert index.count("](") == len(website.DECISIONS) > 30
