"""Quotes, escapes and variables of Dockerfile words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_build_dockerfile.dockerfile.interface import DockerfileError
from orlop_build_dockerfile.dockerfile.limits import Budget
from orlop_build_dockerfile.dockerfile.patterns import Pattern
from orlop_build_dockerfile.dockerfile.words import Lexer, WordError

ENV = {"A": "abc.def", "E": "", "W": "one two", "S": "a/b/c", "STAR": "x*y"}


def expand(text: str, **options: bool) -> str:
    return Lexer("\\", Budget(), **options).word(text, ENV)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$A", "abc.def"),
        ("${A}x", "abc.defx"),
        ("$A_", ""),
        ("$1x", "x"),
        ("$", "$"),
        ("a$", "a$"),
        ("$-x", "x"),
        ("'$A'", "$A"),
        ('"$A"', "abc.def"),
        ("\\$A", "$A"),
        ('"\\$A \\" \\\\ \\x"', '$A " \\ \\x'),
        ("a\\", "a"),
        ("${E:-d}", "d"),
        ("${E-d}", ""),
        ("${N-d}", "d"),
        ("${N:-${A}}", "abc.def"),
        ("${N:-'$A'}", "$A"),
        ("${E:+x}", ""),
        ("${E+x}", "x"),
        ("${A:+x}", "x"),
        ("${N+x}", ""),
        ("${A?no}", "abc.def"),
        ("${A#a*}", "bc.def"),
        ("${A##a*}", ""),
        ("${A%.*}", "abc"),
        ("${A%%b*}", "a"),
        ("${A#?}", "bc.def"),
        ("${A#x}", "abc.def"),
        ("${S##*/}", "c"),
        ("${S%/*}", "a/b"),
        ("${S/\\//-}", "a-b/c"),
        ("${S//\\//-}", "a-b-c"),
        ("${A/b*e/X}", "aXf"),
        ("${A//?/x}", "xxxxxxx"),
        ("${A//z/x}", "abc.def"),
        ("${STAR#x\\*}", "y"),
        ("${STAR/\\*/-}", "x-y"),
    ],
)
def test_variables_quotes_and_escapes_are_expanded(text: str, expected: str) -> None:
    assert expand(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${:x}", "syntax error: bad substitution"),
        ("${A:-x", "syntax error: missing '}'"),
        ("${A/x", "syntax error: missing '/' in ${}"),
        ("${A/x/y", "syntax error: missing '}'"),
        ("${A!}", "unsupported modifier (!) in substitution"),
        ("${A:!x}", "unsupported modifier (:!) in substitution"),
        ("${N?}", "N: is not allowed to be unset"),
        ("${E:?}", "E: is not allowed to be empty"),
        ("${N?it is needed}", "N: it is needed"),
        ("'a", "unexpected end of statement while looking for matching single-quote"),
        ('"a', "unexpected end of statement while looking for matching double-quote"),
        ("${A#\\x}", "invalid pattern (\\x) in substitution: invalid escape '\\x'"),
    ],
)
def test_invalid_substitutions_are_refused(text: str, message: str) -> None:
    with pytest.raises(WordError) as caught:
        expand(text)
    assert str(caught.value).endswith(message)
    assert str(caught.value).startswith('failed to process "')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b", ["a", "b"]),
        ("$W x", ["one", "two", "x"]),
        ("'a b' c", ["a b", "c"]),
        ('"$W"', ["one two"]),
        ("a\\ b", ["a b"]),
        ("x$W", ["xone", "two"]),
        ("'' a", ["a"]),
        ("  ", []),
        ("$E", []),
    ],
)
def test_words_are_split_at_unquoted_spaces(text: str, expected: list[str]) -> None:
    assert Lexer("\\", Budget()).expand(text, ENV).words == expected


def test_lexer_options_keep_quotes_and_escapes_and_unset_variables() -> None:
    """Each expansion also records the names of variables that are set, and of variables that are not set."""
    assert expand("'$A' \"$A\" $N ${N:-x} ${N}", raw_quotes=True, skip_unset=True) == "'$A' \"abc.def\" $N ${N:-x} ${N}"
    assert expand("\\$A", raw_escapes=True) == "\\$A"
    assert expand("'$A'", skip_quotes=True) == "'abc.def'"
    found = Lexer("`", Budget()).expand("`$A \\$A $N ${E}", ENV)
    assert (found.text, list(found.matched), list(found.unmatched)) == ("$A \\abc.def  ", ["A", "E"], ["N"])


@given(st.text(alphabet="aA${}:-+?#%/*'\"\\ ", max_size=30))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    try:
        expand(text)
    except WordError as error:
        assert str(error)


@given(st.text(alphabet="abc. /", max_size=30))
def test_text_without_special_characters_is_unchanged(text: str) -> None:
    assert expand(text) == text
    assert expand(f"'{text}'") == text
    assert expand("".join("\\" + char for char in text)) == text


@given(
    st.lists(st.sampled_from(["*", "?", "a", "b", "\\*"]), max_size=6).map("".join),
    st.text(alphabet="ab*", max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_patterns_that_trim_a_value_match_like_in_a_shell(pattern: str, value: str, longest: bool, from_end: bool) -> None:
    """Compares with a search of all prefixes (or suffixes), each matched by a simple expression."""
    simple = re.compile("".join({"*": ".*", "?": "."}.get(p, re.escape(p[-1])) for p in re.findall(r"\\.|.", pattern)))
    cuts = range(len(value) + 1)
    parts = [(value[cut:], value[:cut]) if from_end else (value[:cut], value[cut:]) for cut in cuts]
    rests = [rest for part, rest in parts if simple.fullmatch(part)]
    expected = (min if longest else max)(rests, key=len) if rests else value
    assert Pattern(pattern).trimmed(value, longest=longest, from_end=from_end) == expected


def test_total_size_of_expanded_words_is_limited() -> None:
    lexer = Lexer("\\", Budget(10_000))
    value = "x" * 1000
    with pytest.raises(DockerfileError, match="too large"):
        for _ in range(15):
            value = lexer.word("$A$A", {"A": value})


def test_deeply_nested_substitutions_are_refused() -> None:
    with pytest.raises(WordError, match="nested too deeply"):
        expand("${N:-" * 1000 + "}" * 1000)
