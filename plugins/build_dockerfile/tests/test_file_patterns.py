"""File patterns and symbolic modes, compared with simple models."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_build_dockerfile.ops.modes import mode_function
from orlop_build_dockerfile.ops.patterns import Matcher, glob_match

NAMES = st.text("ab.", min_size=1, max_size=6).filter(lambda name: name.strip("."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
GLOBS = st.text("ab.*?", min_size=1, max_size=6)


@given(GLOBS, NAMES)
def test_globs_of_one_component_match_like_fnmatch(pattern: str, name: str) -> None:
    assert glob_match(pattern, name) == fnmatch.fnmatchcase(name, pattern)


@given(st.lists(GLOBS, min_size=1, max_size=3), PATHS)
def test_globs_match_component_by_component(patterns: list[str], path: str) -> None:
    parts = path.split("/")
    expected = len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))
    assert glob_match("/".join(patterns), path) == expected


def model(pattern: str, path: str) -> bool:
    """Whether a pattern with `**` matches, found by trying every number of components."""

    def match(left: list[str], right: list[str]) -> bool:
        if not left:
            return not right
        if left[0] == "**":
            if len(left) == 1:
                return bool(right)
            return any(match(left[1:], right[number:]) for number in range(len(right) + 1))
        return bool(right) and fnmatch.fnmatchcase(right[0], left[0]) and match(left[1:], right[1:])

    return match(pattern.split("/"), path.split("/"))


@given(
    st.lists(
        st.one_of(st.just("**"), st.text("ab*", min_size=1, max_size=3).filter(lambda g: "**" not in g)),
        min_size=1,
        max_size=4,
    ),
    PATHS,
)
def test_double_stars_match_any_number_of_components(parts: list[str], path: str) -> None:
    pattern = re.sub(r"(\*\*/)+", "**/", "/".join(parts))
    pattern = re.sub(r"^(\*\*/)+\*\*$", "**", pattern)
    whole = [path, *(path.rsplit("/", number)[0] for number in range(1, path.count("/") + 1))]
    assert Matcher([pattern]).match(path) == any(model(pattern, each) for each in whole)


@given(st.lists(st.tuples(st.booleans(), st.text("ab*", min_size=1, max_size=3)), max_size=4), PATHS)
def test_last_matching_pattern_determines_the_result(patterns: list[tuple[bool, str]], path: str) -> None:
    expected = False
    for negated, pattern in patterns:
        if Matcher([pattern]).match(path):
            expected = not negated
    assert Matcher([("!" if negated else "") + pattern for negated, pattern in patterns]).match(path) == expected


def test_time_to_match_patterns_with_many_stars_is_bounded() -> None:
    before = time.process_time()
    assert not glob_match("*a" * 60 + "b", "a" * 250)
    assert not Matcher(["**/a*" * 20 + "/b"]).match("/".join(["aaaa"] * 60))
    assert time.process_time() - before < 2


@pytest.mark.parametrize("bad", ["[", "[a", "a\\", "[]a]", "[a-]"])
def test_invalid_patterns_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="syntax error in pattern"):
        glob_match(bad, "a")


MODES = [
    "755",
    "0644",
    "4711",
    "u+x",
    "go-w",
    "a=r",
    "a+X",
    "u=rwX,go=rX",
    "+t",
    "ug+s",
    "u=g",
    "o=u,g-x",
    "=",
    "a-s,u+s",
    "g=u-w",
]


@pytest.mark.parametrize("text", MODES)
@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("mode", [0o644, 0o755, 0o4711, 0o1777, 0o000])
def test_symbolic_modes_work_like_chmod(tmp_path: Path, text: str, kind: str, mode: int) -> None:
    path = tmp_path / "x"
    path.touch() if kind == "file" else path.mkdir()
    path.chmod(mode)
    before = path.stat().st_mode
    subprocess.run(["chmod", text, path], check=True, umask=0)
    ours, theirs = mode_function(text)(before), path.stat().st_mode & 0o7777
    if kind == "directory":  # for directories, chmod keeps these bits unless they are named
        ours, theirs = ours & ~0o6000, theirs & ~0o6000
    assert ours == theirs


@pytest.mark.parametrize("bad", ["", "9", "77777", "u", "x+u,", "z+x", "u+q", ",u+x"])
def test_invalid_modes_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="invalid mode"):
        mode_function(bad)
