"""The json-file format, compared with a model of moby's jsonlog and with records written by dockerd 26.1."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from orlop_log_jsonfile import JsonFile
from orlop_log_jsonfile.records import JsonEncoder, JsonRecords, escape
from orlop_sdk import LogBlock, LogInfo, LogQuery

NS = 1_763_975_591_661_595_082


def go_escape(data: bytes) -> bytes:
    """Decode UTF-8 like Go, and escape like jsonlog, byte by byte."""
    out, at = bytearray(), 0
    while at < len(data):
        byte = data[at : at + 1]
        if byte < b"\x80":
            if byte in (b"\\", b'"'):
                out += b"\\" + byte
            elif byte == b"\r":
                out += b"\\r"
            elif byte == b"\n" or (byte >= b" " and byte not in b"<>&"):
                out += byte
            else:
                out += b"\\u%04x" % byte[0]
            at += 1
            continue
        for length in (2, 3, 4):
            try:
                rune = data[at : at + length].decode()
            except UnicodeDecodeError:
                continue
            break
        else:
            rune, length = "", 1
        at += length
        out += {"": b"\\ufffd", "\u2028": b"\\u2028", "\u2029": b"\\u2029"}.get(rune, rune.encode())
    return bytes(out)


@given(st.one_of(st.binary(), st.text().map(str.encode), st.text(alphabet='\\"<>&?\n\r\t\0\x7f\u2028é').map(str.encode)))
def test_text_is_escaped_as_by_go(data: bytes) -> None:
    assert escape(data) == go_escape(data)


def test_each_byte_value_and_long_runs_are_escaped_as_by_go() -> None:
    for code in range(256):
        for count in (1, 63, 64, 65, 200):
            data = b"a" + bytes([code]) * count + b"b"
            assert escape(data) == go_escape(data)


def test_encoded_records_equal_the_records_of_dockerd() -> None:
    """Records from a file of dockerd: sorted and escaped attributes, order of keys, control characters, one U+FFFD per bad
    byte."""
    attributes = {"x<y": "1&2", "MODE": "prod", "role": "web"}
    encode = JsonEncoder(attributes)
    tail = b'"stream":"stdout","attrs":{"MODE":"prod","role":"web","x\\u003cy":"1\\u00262"},'
    tail += b'"time":"2025-11-24T09:13:11.661595082Z"}\n'
    for data, log in (
        (b"a\x00b?\n", b"a\\u0000b?\\n"),
        (b"\ttab\x08\x0c\x1b[0m\x7f\r\n", b"\\u0009tab\\u0008\\u000c\\u001b[0m\x7f\\r\\n"),
        (b"\xe2\x82x\n", b"\\ufffd\\ufffdx\\n"),
        (b"\xed\xa0\x80\n", b"\\ufffd\\ufffd\\ufffd\\n"),
        (b"\xef\xbf\xbd \xe2\x80\xa8\n", b"\xef\xbf\xbd \\u2028\\n"),
        (b'\\n "q" <b>&amp;</b>\n', b'\\\\n \\"q\\" \\u003cb\\u003e\\u0026amp;\\u003c/b\\u003e\\n'),
    ):
        assert encode(LogBlock("stdout", data, NS)) == b'{"log":"' + log + b'",' + tail


def test_encoded_block_of_lines_equals_the_lines_encoded_one_by_one() -> None:
    encode = JsonEncoder({})
    lines = [b"one\n", b"\n", b'"two"\n', b"\xff\n"]
    whole = encode(LogBlock("stderr", b"".join(lines), NS))
    assert whole == b"".join(encode(LogBlock("stderr", line, NS)) for line in lines)
    assert [json.loads(line)["log"] for line in whole.splitlines()] == ["one\n", "\n", '"two"\n', "\ufffd\n"]


def test_partial_record_has_no_newline() -> None:
    record = JsonEncoder({})(LogBlock("stdout", b"pie\xc3\xa9ce", NS, partial=True))
    assert record == b'{"log":"pie\xc3\xa9ce","stream":"stdout","time":"2025-11-24T09:13:11.661595082Z"}\n'


@given(st.lists(st.binary(max_size=30).map(lambda text: text.replace(b"\n", b"")), min_size=1, max_size=10))
def test_decoded_records_equal_the_encoded_records_except_for_invalid_utf8(lines: list[bytes]) -> None:
    data = JsonEncoder({"a": "b"})(LogBlock("stdout", b"".join(line + b"\n" for line in lines), NS))
    records = JsonRecords().decode(data)
    want = [json.loads(b'"%b"' % go_escape(line)).encode() + b"\n" for line in lines]
    assert [record.data for record in records] == want
    assert all(record.attrs == {"a": "b"} and record.time == "2025-11-24T09:13:11.661595082Z" for record in records)


def test_damaged_records_are_skipped() -> None:
    good = JsonEncoder({})(LogBlock("stdout", b"good\n", NS))
    for bad in (
        b"\n",
        b"garbage\n",
        good[:20] + b"\n",
        good[20:],
        good[:-3] + good,
        b'{"log":1}\n',
        b'{"log":"\xff"}\n',
        b'{"log":"a",\n"stream":"x"}\n',  # two torn lines that would form a valid object
    ):
        assert [record.data for record in JsonRecords().decode(good + bad + good)] == [b"good\n"] * 2
    assert [record.data for record in JsonRecords().decode(bytes(4096) + good)] == [b"good\n"]


def test_record_without_the_member_log_is_read_as_empty_text() -> None:
    """A record without the member `log` is an entry without text."""
    [record] = JsonRecords().decode(b'{"stream":"stderr","time":"2024-01-01T00:00:00Z"}\n')
    assert (record.stream, record.data) == ("stderr", b"")


@given(st.lists(st.integers(0, 40), max_size=40), st.integers(0, 45), st.booleans())
def test_last_records_of_a_log_are_found_from_its_end(lengths: list[int], count: int, torn: bool) -> None:
    data = b"".join(b"x" * length + b"\n" for length in lengths) + (b"torn" if torn else b"")
    fd = os.memfd_create("log")
    try:
        os.write(fd, data)
        start, found = JsonRecords().last(fd, len(data), count)
    finally:
        os.close(fd)
    whole = data[: data.rfind(b"\n") + 1]
    assert found == min(count, len(lengths))
    assert data[start : len(whole)].count(b"\n") == found
    assert start == 0 or data[start - 1 : start] == b"\n"


def test_last_records_of_a_large_file_are_found() -> None:
    fd = os.memfd_create("log")
    try:
        os.write(fd, b"0123456789\n" * 300_000)
        for count in (0, 1, 1489, 1490, 100_000, 299_999, 300_000):
            assert JsonRecords().last(fd, 3_300_000, count) == (3_300_000 - 11 * count, count)
        assert JsonRecords().last(fd, 3_300_000, 300_001) == (0, 300_000)
    finally:
        os.close(fd)


def test_log_file_is_named_after_the_container_and_has_its_attributes(tmp_path: Path) -> None:
    identity = "0123456789abcdef" * 4
    info = LogInfo(identity, "/web", "", "example/web:1", "", "", str(tmp_path), labels={"role": "web"})
    driver, options = JsonFile(), {"labels": "role", "tag": "{{.Name}}/{{.ID}}"}
    writer = driver.open_writer(info, options)
    writer.write([LogBlock("stdout", b"x\n", 0)])
    writer.close()
    assert driver.path(info) == str(tmp_path / f"{identity}-json.log")
    assert Path(driver.path(info)).read_bytes() == (
        b'{"log":"x\\n","stream":"stdout","attrs":{"role":"web","tag":"web/0123456789ab"},"time":"1970-01-01T00:00:00Z"}\n'
    )
    reader = driver.open_reader(info, options, LogQuery())
    assert reader.read()[0].attrs == {"role": "web", "tag": "web/0123456789ab"}
    reader.close()


def test_unlimited_log_is_not_rotated(tmp_path: Path) -> None:
    info = LogInfo("c", "/c", "", "", "", "", str(tmp_path))
    writer = JsonFile().open_writer(info, {"max-file": "5"})
    for _ in range(50):
        writer.write([LogBlock("stdout", b"line\n" * 1000, 1)])
    writer.close()
    assert os.listdir(tmp_path) == ["c-json.log"]
