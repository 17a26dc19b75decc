"""DNS messages and name tables, and the answers to invalid queries. The tests use no sockets."""

import os
import random
import struct

import msgspec
import pytest

from orlop_monitor.dns import wire
from orlop_monitor.dns.names import ContainerNames, NetworkNames, Tables

encode = msgspec.msgpack.encode


def query(name, kind=wire.A, ident=7, flags=0x0100, klass=1, edns=0):
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split(".") if label)
    head = struct.pack("!6H", ident, flags, 1, 0, 0, 1 if edns else 0)
    opt = b"\0" + struct.pack("!HHIH", 41, edns, 0, 0) if edns else b""
    return head + labels + b"\0" + struct.pack("!2H", kind, klass) + opt


def test_question_is_parsed():
    asked = wire.question(query("Web.Example", edns=1232))
    assert (asked.ident, asked.name, asked.type, asked.size) == (7, "web.example", wire.A, 1232)
    assert wire.question(query("web")).size == 512
    assert wire.question(query("web", edns=60000)).size == 4096
    assert wire.question(query("")).name == ""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 11,
        query("web")[:14],
        query("web")[:-1],
        query("web", klass=3),
        query("web", flags=0x8000),
        query("web", flags=0x2800),
        b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1",  # a compression pointer to itself
        struct.pack("!6H", 1, 0, 2, 0, 0, 0) + query("web")[12:],
        query("web", ident=1)[:12] + b"\x3f" + b"a" * 300,
    ],
)
def test_malformed_dns_questions_are_ignored(data):
    assert wire.question(data) is None


def test_unsupported_dns_queries_are_refused():
    assert wire.refusal(b"short") == b"" and wire.refusal(query("web", flags=0x8000)) == b""
    assert wire.rcode(wire.refusal(query("web", flags=0x2800))) == 4
    refused = wire.refusal(query("web", klass=3))
    assert refused[:2] == b"\0\7" and wire.rcode(refused) == 1 and len(refused) == 12


def test_damaged_dns_queries_raise_no_exception():
    noise = random.Random(3)
    for _ in range(3000):
        data = bytearray(query("web.example", edns=900))
        for _ in range(noise.randrange(1, 6)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        data = bytes(data[: noise.randrange(len(data) + 1)])
        asked = wire.question(data)
        if asked is not None:
            assert wire.reply(data, asked, [wire.address_record("10.0.0.1")])
        wire.refusal(data)
        wire.rcode(data)


def test_dns_answer_contains_all_addresses_that_fit():
    data = query("web")
    asked = wire.question(data)
    found = wire.reply(data, asked, [wire.address_record("10.1.2.3"), wire.address_record("fd00::7")])
    ident, flags, questions, answers, _, _ = struct.unpack_from("!6H", found)
    assert (ident, questions, answers) == (7, 1, 2) and flags & 0x8000 and flags & 0x0100
    assert found[12 : asked.end] == data[12 : asked.end]
    assert found.endswith(bytes.fromhex("fd000000000000000000000000000007"))
    many = wire.reply(data, asked, [wire.address_record(f"10.0.0.{n}") for n in range(100)], size=512)
    assert len(many) <= 512 and struct.unpack_from("!H", many, 2)[0] & 0x0200


def test_dns_error_answer_is_neither_authoritative_nor_recursive():
    """In an error answer, the DNS flags AA (authoritative) and RA (recursion available) are not set."""
    data = query("elsewhere.test")
    for code in (wire.SERVFAIL, wire.REFUSED):
        (flags,) = struct.unpack_from("!H", wire.reply(data, wire.question(data), code=code), 2)
        assert flags == 0x8100 | code, "an answer, neither authoritative nor recursive"


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("4.3.2.10.in-addr.arpa", "10.2.3.4"),
        ("7" + ".0" * 29 + ".d.f.ip6.arpa", "fd00::7"),
        ("x.in-addr.arpa", ""),
        ("1.2.3.in-addr.arpa", ""),
        ("z" + ".0" * 31 + ".ip6.arpa", ""),
        ("web", ""),
    ],
)
def test_reverse_lookup_names_are_converted_to_addresses(name, address):
    assert wire.reverse_name(name) == address


# --- tables ---------------------------------------------------------------------------------------------------------


def put(path, value):
    new = path.with_suffix(".new")
    new.write_bytes(encode(value))
    os.rename(new, path)


@pytest.fixture
def tables(tmp_path):
    put(
        tmp_path / "n1",
        NetworkNames("front", {"web": ("10.0.0.2", "fd00::2"), "both": ("10.0.0.9",)}, {"10.0.0.2": "web.front"}),
    )
    put(tmp_path / "n2", NetworkNames("back", {"db": ("10.1.0.2",), "both": ("10.1.0.9",)}))
    put(tmp_path / "me", ContainerNames((str(tmp_path / "n1"), str(tmp_path / "n2")), links={"store": "db"}))
    return Tables(str(tmp_path / "me"))


def addresses(records):
    return sorted(record[12:] for record in records)


def test_name_is_looked_up_in_the_first_network_that_has_the_name(tables):
    assert addresses(tables.answer(wire.A, "web")) == [bytes((10, 0, 0, 2))]
    assert addresses(tables.answer(wire.A, "web.front")) == [bytes((10, 0, 0, 2))]
    assert addresses(tables.answer(wire.A, "both")) == [bytes((10, 0, 0, 9))]
    assert addresses(tables.answer(wire.A, "both.back")) == [bytes((10, 1, 0, 9))]
    assert addresses(tables.answer(wire.A, "store")) == [bytes((10, 1, 0, 2))]
    assert len(tables.answer(wire.ANY, "web")) == 2
    assert tables.answer(wire.A, "nobody") is None


def test_query_for_a_known_name_without_records_of_the_requested_type_gets_an_empty_answer(tables):
    assert tables.answer(wire.AAAA, "db") == [] and tables.answer(15, "web") == []


def test_reverse_lookup_returns_name_and_network(tables):
    (record,) = tables.answer(wire.PTR, "2.0.0.10.in-addr.arpa")
    assert record.endswith(b"\3web\5front\0")
    assert tables.answer(wire.PTR, "3.0.0.10.in-addr.arpa") is None


def test_replaced_name_table_is_read_and_a_damaged_or_missing_table_is_ignored(tables, tmp_path):
    assert tables.answer(wire.A, "new") is None
    put(tmp_path / "n2", NetworkNames("back", {"new": ("10.1.0.5",)}))
    assert tables.answer(wire.A, "new") and tables.answer(wire.A, "db") is None
    (tmp_path / "n2").write_bytes(b"\xff\xff torn")
    assert tables.answer(wire.A, "new")
    (tmp_path / "n2").unlink()
    assert tables.answer(wire.A, "new")
    put(tmp_path / "me", ContainerNames((str(tmp_path / "n1"),)))
    assert tables.answer(wire.A, "new") is None and tables.answer(wire.A, "web")
