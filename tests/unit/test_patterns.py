"""Filters of clients may be regular expressions, but no expression can block the daemon."""

import time

import pytest

from orlop_engine.patterns import compiled
from orlop_sdk import InvalidParameter


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("web", "a-web-1", True),
        ("^/?web-[0-9]+$", "/web-12", True),
        ("^(web|db)-.*_1$", "db-x_1", True),
        ("a.*b.*c", "xaybzc", True),
        (r"web\.1", "web21", False),
        ("[(a+)+]+", "(", True),
        ("^x{2,3}$", "xxx", True),
        ("(?i)WEB", "web", True),
        ("(?:web)+", "webweb", True),
    ],
)
def test_filter_with_an_ordinary_regular_expression_is_accepted(pattern, text, found):
    assert bool(compiled(pattern).search(text)) is found


@pytest.mark.parametrize("pattern", ["web(", "*", "[a", "a**"])
def test_filter_with_an_invalid_regular_expression_is_ignored(pattern):
    assert compiled(pattern) is None


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a*)*b",
        "(a|aa)+$",
        "((a+))+$",
        "(a{1,9}){1,9}$",
        "(?:a+)*x",
        "(.*)(.*)\\1",
        ".*.*.*.*.*x",
        "(a?b?a?)*c",
        "a?" * 30 + "a" * 30,
        "a" * 257,
    ],
)
def test_filter_with_a_regular_expression_of_exponential_cost_is_refused(pattern):
    began = time.monotonic()
    with pytest.raises(InvalidParameter, match="could take too long"):
        compiled(pattern)
    assert time.monotonic() - began < 1


def test_most_expensive_accepted_regular_expression_is_fast():
    began = time.monotonic()
    assert compiled(".*.*.*.*$x").search("a" * 64) is None
    assert time.monotonic() - began < 2
