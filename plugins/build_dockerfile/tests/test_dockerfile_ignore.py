"""`.dockerignore`."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_build_dockerfile.dockerfile.ignore import IgnorePatterns, read_ignore_file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("# comment\n\n  \n", []),
        ("a\nb\r\nc", ["a", "b", "c"]),
        ("\ufeffa\n", ["a"]),
        ("  a  \n", ["a"]),
        ("/a\n/\n./b/\nc//d\ne/../f\n", ["a", "/", "b", "c/d", "f"]),
        ("!a\n! b\n!/c\n!\n", ["!a", "!b", "!c", "!"]),
        (" # not a comment", ["# not a comment"]),
    ],
)
def test_dockerignore_file_is_parsed_to_patterns(text: str, expected: list[str]) -> None:
    assert read_ignore_file(text.encode()) == expected


@pytest.mark.parametrize(
    ("patterns", "excluded", "included"),
    [
        (["a"], ["a", "a/b", "a/b/c"], ["b", "ab", "b/a"]),
        (["*.o"], ["x.o", ".o"], ["d/x.o", "x.oo"]),
        (["**/*.o"], ["x.o", "d/x.o", "d/e/x.o"], ["x.c"]),
        (["**"], ["a", "a/b"], []),
        (["a/**"], ["a/b", "a/b/c"], ["b"]),
        (["a/**/b"], ["a/b", "a/x/b", "a/x/y/b"], ["a/xb", "a"]),
        (["a?c"], ["abc"], ["ac", "a/c", "abbc"]),
        (["[a-c]x", "[^a-c]y"], ["ax", "cx", "dy"], ["dx", "ay"]),
        (["\\*"], ["*"], ["a"]),
        (["a", "!a/b"], ["a", "a/c"], ["a/b", "a/b/c"]),
        (["*", "!b", "b/c"], ["a", "b/c"], ["b", "b/d"]),
        (["a.b"], ["a.b"], ["axb"]),
    ],
)
def test_dockerignore_patterns_exclude_matching_paths(patterns: list[str], excluded: list[str], included: list[str]) -> None:
    matcher = IgnorePatterns(patterns)
    assert [path for path in excluded if not matcher.excludes(path)] == []
    assert [path for path in included if matcher.excludes(path)] == []


@pytest.mark.parametrize("pattern", ["[", "[a", "a\\", "!", "[b-a]"])
def test_invalid_dockerignore_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError):
        IgnorePatterns([pattern])


@given(
    st.lists(st.sampled_from(["a", "b", "/", "*", "?", "**", "**/"]), min_size=1, max_size=6).map("".join),
    st.lists(st.text(alphabet="ab", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join),
)
def test_dockerignore_patterns_match_like_the_equivalent_regular_expression(pattern: str, path: str) -> None:
    (pattern,) = read_ignore_file(pattern.encode()) or ["a"]
    tokens = re.findall(r"\*\*+/(?!$)|\*\*+|.", pattern)
    rules = {"*": "[^/]*", "?": "[^/]"}
    expression = "".join(
        "(?:.*/)?" if t.startswith("**") and t.endswith("/") else ".*" if t.startswith("**") else rules.get(t, re.escape(t))
        for t in tokens
    )
    parts = path.split("/")
    prefixes = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    assert IgnorePatterns([pattern]).excludes(path) == any(re.fullmatch(expression, prefix) for prefix in prefixes)


def test_time_to_match_pathological_patterns_is_linear() -> None:
    start = time.process_time()
    assert not IgnorePatterns(["**/" * 50 + "*a" * 200 + "b"]).excludes("a" * 200)
    assert time.process_time() - start < 10
