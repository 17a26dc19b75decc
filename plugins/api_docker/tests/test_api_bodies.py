"""JSON bodies of requests: keys in any case, types, limits, errors."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
import trio

from orlop_api_docker.decode import decode_json
from orlop_engine.types import WireBase
from orlop_engine.types.containers import CreateRequest
from orlop_kernel.http.messages import BodyError
from orlop_kernel.routing.call import Call
from orlop_sdk import errors

from .calls import call


def test_body_cannot_be_decoded_as_two_types() -> None:
    asked = call(body=b'{"a":1}', content_type="application/json")

    async def main() -> None:
        assert await asked.json(dict[str, int]) is await asked.json(dict[str, int])
        with pytest.raises(TypeError, match="it was decoded as dict before"):
            await asked.json(list)

    trio.run(main)


def test_missing_body_means_an_empty_object_unless_a_body_is_required() -> None:
    async def main() -> None:
        assert await call().json(CreateRequest) == CreateRequest()
        with pytest.raises(errors.InvalidParameter, match="got EOF while reading request body"):
            await call().json(CreateRequest, required=True)
        asked = call()
        await asked.json(CreateRequest)  # a guard calls it like this, because it does not know whether a body is required
        with pytest.raises(errors.InvalidParameter, match="got EOF while reading request body"):
            await asked.json(CreateRequest, required=True)

    trio.run(main)


class Inner(WireBase):
    memory: int = 0
    names: list[str] = msgspec.field(default_factory=list)


class Outer(WireBase):
    image: str = ""
    host_config: Inner = msgspec.field(default_factory=Inner)
    endpoints: dict[str, Inner | None] = msgspec.field(default_factory=dict)
    labels: dict[str, str] | None = None
    extra: Any = None
    raw: msgspec.Raw = msgspec.Raw(b"")
    again: Outer | None = None


def read(c: Call, required: bool = True) -> Outer:
    async def main() -> Outer:
        return await c.json(Outer, required)

    return trio.run(main)


def test_json_body_is_decoded() -> None:
    got = read(
        call(body=b'{"Image":"i","HostConfig":{"Memory":5},"Unknown":1}', content_type="Application/JSON; charset=utf-8")
    )
    assert (got.image, got.host_config.memory) == ("i", 5)


def test_keys_match_in_upper_and_lower_case_and_null_means_absent() -> None:
    got = decode_json(
        b'{"IMAGE":null,"hostconfig":{"MEMORY":null,"Names":["a",null]},"endpoints":{"N":null,"m":{"memory":1}},'
        b'"labels":{"KeepCase":null},"extra":{"Any":null},"raw":{"x":1},"Again":{"image":"deep"}}',
        Outer,
    )
    assert got.image == ""
    assert got.host_config == Inner(names=["a", ""])
    assert got.endpoints == {"N": None, "m": Inner(memory=1)}
    assert got.labels == {"KeepCase": ""}
    assert got.extra == {"Any": None}
    assert bytes(got.raw) == b'{"x":1}'
    assert got.again is not None and got.again.image == "deep"
    assert decode_json(b"null", Outer) == Outer()
    assert decode_json(b"null", list[int]) == []


def test_key_in_the_exact_case_is_preferred_to_a_key_in_another_case() -> None:
    class Both(WireBase):
        a: int = msgspec.field(name="x", default=0)
        b: int = msgspec.field(name="X", default=0)

    assert decode_json(b'{"x":1,"X":2}', Both) == Both(a=1, b=2)


def test_case_of_keys_is_folded_like_in_go() -> None:
    """When Go's encoding/json compares keys, it treats the long s as "s" and the Kelvin sign as "k". Other letters beyond
    ASCII match only themselves."""
    assert decode_json('{"ho\u017ftConfig":{"Memory":5}}'.encode(), Outer).host_config.memory == 5

    class Stock(WireBase):
        stock: str = ""

    assert decode_json('{"\u017ftoc\u212a":"a"}'.encode(), Stock).stock == "a"
    assert decode_json('{"ﬁ":"a","ß":"b","İ":"c"}'.encode(), Stock) == Stock()


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ('{"Image":"a","Image":"a"}', "Image"),
        ('{"Image":"a","image":"b"}', "image"),
        ('{"image":"a","Image":"b"}', "image"),
        ('{"image":"a","IMAGE":"b"}', "IMAGE"),
        ('{"Image":"a","image":null}', "image"),
        ('{"image":null,"IMAGE":null}', "IMAGE"),
        ('{"HostConfig":{"Memory":1},"ho\u017ftConfig":{"Memory":2}}', "ho\u017ftConfig"),
        ('{"HostConfig":{"Memory":1,"memory":2}}', "memory"),
        ('{"Im\\u0061ge":"a","Image":"b"}', "Image"),
        ('{"Labels":{"a":"1","a":"1"}}', "a"),
        ('{"Unknown":{"a":1,"b":[{"c":1,"c":2}]}}', "c"),
        ('{"Endpoints":{"n":{"Names":[]},"n":{"Memory":1}}}', "n"),
        ('{"Endpoints":{"n":{"Names":[],"names":[]}}}', "names"),
        ('{"a\\"":1,"a\\"":1}', 'a\\"'),
    ],
)
def test_duplicate_keys_are_refused(body: str, key: str) -> None:
    with pytest.raises(errors.InvalidParameter) as caught:
        decode_json(body.encode(), Outer)
    assert str(caught.value) == f'invalid JSON: duplicate key "{key}"'


def test_keys_of_maps_and_unknown_keys_are_case_sensitive() -> None:
    got = decode_json(b'{"Labels":{"a":"1","A":"2"},"Endpoints":{"n":null,"N":null},"x":1,"X":2}', Outer)
    assert got.labels == {"a": "1", "A": "2"}
    assert list(got.endpoints) == ["n", "N"]


@pytest.mark.parametrize("number", ["1.0", "1e3", "1E3", "0.0", "-1e0"])
def test_numbers_with_a_fraction_are_not_integers(number: str) -> None:
    with pytest.raises(errors.InvalidParameter, match=r"^invalid JSON: HostConfig.Memory: expected int, got float$"):
        decode_json(b'{"HostConfig":{"Memory":%b}}' % number.encode(), Outer)


def test_number_of_values_in_a_body_is_limited() -> None:
    text = '",[{\\' * 100_000
    assert decode_json(json.dumps({"Image": text, "Labels": {"a": text}}).encode(), Outer).image == text
    for body in (b"[" + b"[]," * 50_001 + b"1]", b"[" + b'"",' * 50_001 + b"1]", b'{"a":' * 50_001):
        with pytest.raises(errors.InvalidParameter, match=r"^invalid JSON: more than 50000 values$"):
            decode_json(body, Outer)


@pytest.mark.parametrize("unit", [b'\\"', b'"', b"\\", b'"\\', b"[", b" "])
def test_size_check_of_a_body_takes_linear_time(unit: bytes) -> None:
    began = time.thread_time()
    with pytest.raises(errors.InvalidParameter):
        decode_json(b'{"' + b"," * 50_001 + unit * (2 << 20), Outer)
    assert time.thread_time() - began < 1


def test_missing_body_is_refused_if_required() -> None:
    with pytest.raises(errors.InvalidParameter, match=r"^invalid JSON: got EOF while reading request body$"):
        read(call())
    assert read(call(), required=False) == Outer()
    assert read(call(content_type="application/json"), required=False) == Outer()


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("text/plain", "unsupported Content-Type header (text/plain): must be 'application/json'"),
        ("", "malformed Content-Type header (): mime: no media type"),
    ],
)
def test_content_type_must_be_json(content_type: str, text: str) -> None:
    with pytest.raises(errors.InvalidParameter) as caught:
        read(call(body=b"{}", content_type=content_type))
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"  ", "invalid JSON: got EOF while reading request body"),
        (b'{"Image":"x"', "invalid JSON: unexpected EOF"),
        (b"{} {}", "unexpected content after JSON"),
        (b"{,}", "invalid JSON: object keys must be strings (byte 1)"),
        (b"[" * 40_000, "invalid JSON: nested too deeply"),
        (b"[]", "invalid JSON: expected object, got array"),
        (b'{"Image":1}', "invalid JSON: Image: expected str, got int"),
        (b'{"hostconfig":{"memory":"1"}}', "invalid JSON: HostConfig.Memory: expected int, got str"),
        (b'{"HostConfig":{"Names":["a",2]}}', "invalid JSON: HostConfig.Names[1]: expected str, got int"),
        (b'{"HostConfig":{"Memory":1.5}}', "invalid JSON: HostConfig.Memory: expected int, got float"),
        (b'{"HostConfig":{"Memory":' + b"9" * 5000 + b"}}", "invalid JSON: HostConfig.Memory: does not fit into 64 bits"),
        (b'{"Image":"a","x":NaN}', "invalid JSON: invalid character (byte 17)"),
        (b'{"Image":"a","x":1e999}', "invalid JSON: Number out of range"),
        (b'\xef\xbb\xbf{"Image":"a"}', "invalid JSON: invalid character (byte 0)"),
        (b'{"Image":"\\udc00"}', "invalid JSON: invalid utf-16 surrogate pair (byte 16)"),
        (b'{"Image":"a","extra":' + b"[" * 9_999 + b"]" * 9_999 + b"}", "invalid JSON: nested too deeply"),
        (b'{"HostConfig":{"Memory":9223372036854775808}}', "invalid JSON: HostConfig.Memory: does not fit into 64 bits"),
        (b'{"HostConfig":{"Memory":99999999999999999999}}', "invalid JSON: HostConfig.Memory: does not fit into 64 bits"),
    ],
)
def test_malformed_json_is_refused(body: bytes, text: str) -> None:
    with pytest.raises(errors.InvalidParameter) as caught:
        decode_json(body, Outer)
    assert str(caught.value) == text


def test_json_with_invalid_utf8_is_refused() -> None:
    for body in (b"\xff", b'{"Image":"\xff"}', b'{"Image":"\\ud800"}'):
        with pytest.raises(errors.InvalidParameter, match="invalid JSON"):
            decode_json(body, Outer)


def test_too_large_body_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(BodyError):
            await call(body=b"x" * 11, content_type="application/json").json_bytes(10)

    trio.run(main)


def test_length_of_lists_maps_and_strings_is_limited() -> None:
    for body, text in (
        ({"HostConfig": {"Names": ["a"] * 10_001}}, "HostConfig.Names: has more than 10000 elements"),
        ({"Labels": {str(number): "" for number in range(10_001)}}, "Labels: has more than 10000 elements"),
        ({"Image": "x" * (1 << 20) + "y"}, "Image: has more than 1048576 characters"),
        ({"Labels": {"a": "x" * (1 << 20) + "y"}}, "Labels: has more than 1048576 characters"),
    ):
        with pytest.raises(errors.InvalidParameter) as caught:
            decode_json(json.dumps(body).encode(), Outer)
        assert str(caught.value) == f"invalid JSON: {text}"
    assert decode_json(json.dumps({"HostConfig": {"Names": ["a"] * 10_000}}).encode(), Outer).host_config.names
