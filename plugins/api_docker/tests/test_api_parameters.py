"""Query parameters of a call: flags, integers, terminal sizes, filters."""

from __future__ import annotations

import json

import pytest

from orlop_sdk import errors

from .calls import call


def test_labels_that_a_guard_requires_are_added_to_the_filters_of_a_request() -> None:
    asked = call('filters={"label":["a=1"],"name":["x"]}')
    asked.only = ("team=web",)
    assert asked.filters() == {"label": ["a=1", "team=web"], "name": ["x"]}
    bare = call()
    bare.only = ("team=web",)
    assert bare.filters() == {"label": ["team=web"]}


@pytest.mark.parametrize("text", ["", "0", "no", "FALSE", "none", "%20No%20"])
def test_boolean_parameter_is_false_for_the_values_that_docker_treats_as_false(text: str) -> None:
    assert call(f"a={text}").flag("a", True) is False


@pytest.mark.parametrize("text", ["1", "true", "abc", "off", "2"])
def test_boolean_parameter_is_true_for_all_other_values(text: str) -> None:
    assert call(f"a={text}").flag("a") is True


def test_absent_parameters_have_defaults() -> None:
    assert call().flag("a") is False
    assert call().flag("a", True) is True
    assert call().integer("a", -1) == -1
    assert call("a=").integer("a", 3) == 3
    assert call("a=1&a=2").args("a") == ["1", "2"]


def test_integers_are_parsed() -> None:
    assert [call(f"a={text}").integer("a") for text in ("7", "-7", "%2B7", "9223372036854775807")] == [7, -7, 7, 2**63 - 1]


@pytest.mark.parametrize("text", ["x", "1.5", "1_0", "+1", "-", "9223372036854775808", "%D9%A1", "9" * 5000])
def test_invalid_integers_are_refused(text: str) -> None:
    with pytest.raises(errors.InvalidParameter, match="a: "):
        call(f"a={text}").integer("a")


def test_terminal_sizes_are_parsed() -> None:
    assert call("h=-1&w=70000").terminal_size() == (-1, 70000)
    for query, words in (("h=x&w=1", 'parsing "x": invalid syntax'), ("h=1", 'parsing "": invalid syntax')):
        with pytest.raises(errors.InvalidParameter, match=words):
            call(query).terminal_size()


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ("", {}),
        ("{}", {}),
        ("null", {}),
        ('{"a":{"x":true,"y":true,"z":false}}', {"a": ["x", "y"]}),
        ('{"a":["x","x","y"],"b":null}', {"a": ["x", "y"], "b": []}),
    ],
)
def test_filters_are_parsed_in_both_notations(text: str, filters: dict[str, list[str]]) -> None:
    assert call("filters=" + text.replace('"', "%22")).filters() == filters


@pytest.mark.parametrize("text", ["x", "[]", '{"a":1}', '{"a":"b"}', "{", "[" * 5000, "%ff"])
def test_malformed_filters_are_refused(text: str) -> None:
    with pytest.raises(errors.InvalidParameter, match=r"^invalid filter$"):
        call("filters=" + text.replace('"', "%22")).filters()


def test_number_of_filter_values_is_limited() -> None:
    def filters(count: int) -> dict[str, list[str]]:
        wanted = json.dumps({"label": [f"l{number}" for number in range(count)]}, separators=(",", ":"))
        return call(f"filters={wanted}").filters()

    assert len(filters(256)["label"]) == 256
    with pytest.raises(errors.InvalidParameter, match=r"^invalid filter 'label': more than 256 values$"):
        filters(257)
