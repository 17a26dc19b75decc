"""Digests of content. Two digests differ if and only if a comparison of the files finds a difference."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop_build_dockerfile.cache.content import ContentHasher, KnownFile, Selection

WHOLE = Selection()
Tree = dict[str, tuple[str, str]]
NAMES = st.sampled_from(["a", "b", "d/a", "d/e/f", "d/b", "z"])
ENTRIES = st.tuples(st.sampled_from(["file", "exec", "link", "dir"]), st.sampled_from(["", "x", "y", "xx"]))
TREES = st.dictionaries(NAMES, ENTRIES, max_size=5)


def write(root: Path, tree: Tree) -> None:
    for name, (kind, text) in sorted(tree.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "link":
            path.symlink_to(text or "nowhere")
        elif kind == "dir":
            path.mkdir(exist_ok=True)
        else:
            path.write_text(text)
            path.chmod(0o755 if kind == "exec" else 0o644)


def described(root: Path) -> list[tuple[str, int, str]]:
    """The path, mode and content of each file below `root`."""
    found = []
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        text = os.readlink(path) if stat.S_ISLNK(mode) else path.read_text() if stat.S_ISREG(mode) else ""
        found.append((str(path.relative_to(root)), mode, text))
    return found


def digest(root: Path, wanted: Selection = WHOLE, files: dict[str, KnownFile] | None = None) -> list[tuple[str, str]]:
    fd = os.open(root, os.O_RDONLY)
    try:
        return ContentHasher(fd, files).digest(wanted)
    finally:
        os.close(fd)


@settings(max_examples=150)
@given(TREES, TREES)
def test_digests_are_equal_if_and_only_if_the_trees_are_equal(first: Tree, second: Tree) -> None:
    base = Path(tempfile.mkdtemp())
    try:
        for name, tree in (("one", first), ("two", second)):
            (base / name).mkdir()
            try:
                write(base / name, tree)
            except (FileExistsError, NotADirectoryError):
                return  # a file and a directory of the same name
        equal = described(base / "one") == described(base / "two")
        assert (digest(base / "one") == digest(base / "two")) == equal
    finally:
        shutil.rmtree(base)


def test_digest_ignores_timestamps_and_location(tmp_path: Path) -> None:
    for name in ("one", "two/deeper"):
        (tmp_path / name).mkdir(parents=True)
        write(tmp_path / name, {"d/a": ("file", "x"), "d/e/f": ("exec", "y")})
    os.utime(tmp_path / "one" / "d" / "a", (1, 1))
    assert digest(tmp_path / "one") != []
    assert digest(tmp_path / "one", Selection("/d")) == digest(tmp_path / "two", Selection("/deeper/d"))


def test_files_that_have_not_changed_since_the_last_digest_are_not_read_again(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    write(tree, {"d/a": ("file", "x"), "b": ("file", "y")})
    files: dict[str, KnownFile] = {}
    first = digest(tree, files=files)
    assert set(files) == {"/d/a", "/b"}
    files["/b"] = KnownFile(files["/b"].inode, files["/b"].size, files["/b"].changed_ns, b"as remembered")
    assert digest(tree, files=files) != first  # the file was not read
    (tree / "b").write_text("z")
    changed = digest(tree, files=files)
    (tree / "b").write_text("y")
    assert changed != first == digest(tree, files=files)


@pytest.mark.parametrize("attribute", [b"1", b"2"])
def test_extended_attributes_change_the_digest(tmp_path: Path, attribute: bytes) -> None:
    (tmp_path / "f").write_text("x")
    before = digest(tmp_path)
    try:
        os.setxattr(tmp_path / "f", "user.note", attribute)
    except OSError:
        pytest.skip("the file system has no extended attributes")
    assert digest(tmp_path) != before


def test_excluded_files_are_not_digested_and_links_stay_inside_the_root(tmp_path: Path) -> None:
    write(
        tmp_path, {"d/a": ("file", "x"), "d/b": ("file", "y"), "l": ("link", "/d/a"), "out": ("link", "../../../etc/passwd")}
    )
    whole = digest(tmp_path, Selection("/d"))
    less = digest(tmp_path, Selection("/d", exclude=("b",)))
    (tmp_path / "d" / "b").write_text("changed")
    assert digest(tmp_path, Selection("/d")) != whole
    assert digest(tmp_path, Selection("/d", exclude=("b",))) == less
    assert digest(tmp_path, Selection("/l"))[0][1] == digest(tmp_path, Selection("/d/a"))[0][1]
    assert digest(tmp_path, Selection("/l", follow=False)) != digest(tmp_path, Selection("/l"))
    assert digest(tmp_path, Selection("/out")) == []  # the link's target does not exist inside the root
    assert [name for name, _ in digest(tmp_path, Selection("/d/*", wildcard=True))] == ["a", "b"]
