"""Contexts: ignore files, other Dockerfiles, named contexts."""

from __future__ import annotations

from .case import TREE, Case, Entry

__all__ = ["CASES"]

_FILES: dict[str, Entry] = {
    "a.txt": "1",
    "b.md": "2",
    "d/a.txt": "3",
    "d/b.md": "4",
    "d/e/a.txt": "5",
    "d/e/f/b.md": "6",
    ".hidden": "7",
    "node_modules/x": "8",
    "d/node_modules/y": "9",
}


def _ignored(*patterns: str) -> Case:
    return Case("FROM scratch\nCOPY . /\n", {**_FILES, ".dockerignore": "".join(f"{each}\n" for each in patterns)})


CASES: dict[str, Case] = {
    "ignore-name": _ignored("a.txt"),
    "ignore-everywhere": _ignored("**/a.txt"),
    "ignore-deep": _ignored("d/**/b.md", "**/node_modules"),
    "ignore-exception": _ignored("*", "!d", "d/e"),
    "ignore-exception-below": _ignored("d", "!d/e/a.txt"),
    "ignore-exception-order": _ignored("**/*.md", "!d/**", "d/b.md"),
    "ignore-slashes": _ignored("/a.txt", "d/", "./.hidden"),
    "ignore-comments": _ignored("# a comment", "", "  a.txt  ", "\\#x"),
    "ignore-question": _ignored("?.md", "d/?/a.*"),
    "ignore-class": _ignored("[ab].*", "d/[!e]*"),
    "ignore-dots": _ignored("d/../a.txt", ".", "!b.md"),
    "ignore-all": _ignored("**"),
    "ignore-dockerfile": _ignored("Dockerfile", ".dockerignore"),
    "ignore-copied": Case("FROM scratch\nCOPY a.txt /\n", {**_FILES, ".dockerignore": "a.txt\n"}, fails=True),
    "ignore-of-dockerfile": Case(
        "FROM scratch\nCOPY . /\n",
        {**_FILES, ".dockerignore": "d\n", "x.Dockerfile.dockerignore": "*.txt\n*ockerfile*\n.dockerignore\n"},
        *("-f", "@CONTEXT@/x.Dockerfile"),
        dockerfile="x.Dockerfile",
    ),
    "dockerfile-below": Case("FROM scratch\nCOPY a.txt /\n", _FILES, "-f", "@CONTEXT@/d/My", dockerfile="d/My"),
    "dockerfile-missing": Case("FROM scratch\n", {}, "-f", "@CONTEXT@/none", fails=True),
    "dockerfile-lower-case": Case("FROM scratch\nCOPY a.txt /\n", _FILES, dockerfile="dockerfile"),
    "named-directory": Case(
        "FROM busybox\nCOPY --from=other a.txt /x/\nCOPY --from=other / /all/\n"
        "RUN --mount=from=other,target=/m ls /m > /ls\n",
        {"sub/a.txt": "other", "sub/c/d": "e"},
        *("--build-context", "other=@CONTEXT@/sub"),
    ),
    "named-directory-ignores": Case(
        "FROM busybox\nCOPY --from=other / /all/\n",
        {"sub/a.txt": "other", "sub/c/d": "e", "sub/.dockerignore": "c\n"},
        *("--build-context", "other=@CONTEXT@/sub"),
    ),
    "named-image": Case(
        "FROM base\nCOPY --from=tool /bin/busybox /tool\n",
        {},
        *("--build-context", "base=docker-image://busybox", "--build-context", "tool=docker-image://busybox:latest"),
    ),
    "named-over-stage": Case(
        "FROM busybox AS s\nRUN exit 1\nFROM busybox\nCOPY --from=s /a.txt /\n",
        {"sub/a.txt": "instead"},
        *("--build-context", "s=@CONTEXT@/sub"),
    ),
    "named-over-image": Case(
        "FROM alpine\nRUN touch /x\n", {}, "--build-context", "alpine=docker-image://docker.io/library/busybox"
    ),
    "named-missing": Case(
        "FROM busybox\nCOPY --from=other /x /y\n", {}, "--build-context", "other=@CONTEXT@/none", fails=True
    ),
    "hard-links": Case("FROM scratch\nCOPY . /\n", {"a": "x", "b": ("hard", "a"), "c/d": ("hard", "a")}),
    "modes": Case(
        "FROM scratch\nCOPY . /\n",
        {**{f"f{mode:o}": ("mode", mode, "x") for mode in (0o400, 0o644, 0o755, 0o2755, 0o4711)}, "d": ("dir", 0o1777)},
    ),
    "links": Case("FROM scratch\nCOPY . /\n", {**TREE, "abs": ("link", "/x/y"), "up": ("link", "dir/../top.md")}),
    "empty": Case("FROM busybox\nCOPY . /all/\n", {}),
}
