"""Reading a tar stream: headers, long names, pax headers and sparse maps that are damaged or contradictory."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from unpacking import base256, content, header, octal, pax

from orlop_monitor.unpack.archive import META_LIMIT, SPARSE_LIMIT, entries
from orlop_monitor.unpack.errors import CUT_OFF, NO_TAR, UnpackError
from orlop_monitor.unpack.header import Entry, apply_pax, parse_header, parse_pax


class Source(io.BytesIO):
    def skip(self, size: int) -> None:
        if len(self.read(size)) < size:
            raise UnpackError(CUT_OFF)


def read(data: bytes) -> list[tuple[Entry, bytes]]:
    source = Source(data)
    return [(entry, source.read(entry.size)) for entry in entries(source)]


def one(data: bytes) -> Entry:
    """The first of two entries. The second entry can be found only if the first entry is read exactly to its end."""
    (first, _), (second, _) = read(data + header(b"last"))
    assert second.name == b"last" and not second.xattrs
    return first


def segments(*numbers: int) -> bytes:
    return b"".join(b"%011o\0" % number for number in numbers)


# --- header blocks


def test_prefix_field_is_part_of_the_name_in_ustar_headers_but_not_in_gnu_headers() -> None:
    assert parse_header(header(b"f", prefix=b"dir")).name == b"dir/f"
    assert parse_header(header(b"f")).name == b"f"
    gnu_times = b"12345670123\0" * 2  # GNU tar stores times in the bytes where ustar stores the prefix
    assert parse_header(header(b"f", magic=b"ustar  \0", prefix=gnu_times)).name == b"f"
    assert parse_header(header(b"f", magic=b"\0" * 8, prefix=b"junk")).name == b"f"


def test_text_in_a_header_field_ends_at_a_nul_byte_or_at_the_end_of_the_field() -> None:
    entry = parse_header(header(b"n" * 100, link=b"l\0junk"))
    assert (entry.name, entry.link) == (b"n" * 100, b"l")
    assert parse_header(header(b"")).name == parse_header(header()).link == b""


def test_device_numbers_are_read_only_in_headers_of_devices() -> None:
    """Some tar programs leave garbage in the device fields of other entries."""
    for kind in (b"3", b"4"):
        entry = parse_header(header(b"d", kind, major=b"0000010\0", minor=b"0000345\0"))
        assert (entry.major, entry.minor) == (8, 229)
        with pytest.raises(UnpackError, match=NO_TAR):
            parse_header(header(b"d", kind, major=b"garbage\0"))
    entry = parse_header(header(major=b"garbage\0", minor=b"garbage\0"))
    assert (entry.major, entry.minor) == (0, 0)


def test_header_checksums_computed_from_signed_bytes_are_accepted() -> None:
    name = b"\x7f\x80\xff"
    assert parse_header(header(name)).name == parse_header(header(name, signed=True)).name == name


@pytest.mark.parametrize("bad", [b"12a", b"0x1", b"8", b"\xc3"])
def test_header_numbers_that_are_not_octal_are_refused(bad: bytes) -> None:
    with pytest.raises(UnpackError, match=NO_TAR):
        parse_header(header(uid=bad)) if bad[0] < 128 else parse_header(header(uid=b" " + bad))


# --- pax headers and long names


@pytest.mark.parametrize(
    "data",
    [
        b"x",  # no length
        b"6 a=b",  # without the final newline
        b"7 a=b\n",  # the record is longer than the data of the header
        b"5 a=b\n",  # the length ends inside the record
        b"6 abc\n",  # no value
        b"6 a=b\n1 ",  # a length smaller than the length field itself
        b"6 a=b\n0 a=b\n",
        b"6 a=b\n-6 a=b\n",
        b"6 a=b\n\xb2 a=b\n",  # no ASCII digit
        b"6 a=b\n 6 a=b\n",
        b"0000000000000000000000006 a=b\n",
        b"9" * 5000 + b" a=b\n",
    ],
)
def test_malformed_pax_headers_are_refused(data: bytes) -> None:
    with pytest.raises(UnpackError, match="a pax header is malformed"):
        parse_pax(data)


def test_pax_records_override_the_fields_of_the_header() -> None:
    records = [
        (b"path", b"\xff=\n"),
        (b"linkpath", b"to"),
        (b"uid", b"70000"),
        (b"gid", b""),
        (b"mtime", b"-1.5"),
        (b"SCHILY.xattr.user.a", b"\0=\n"),
        (b"SCHILY.xattr.user.empty", b""),
        (b"comment", b"x" * 2000),
    ]
    entry = one(pax(*records) + header(b"f", b"2", gid=b"0000007\0"))
    assert (entry.name, entry.link, entry.uid, entry.gid) == (b"\xff=\n", b"to", 70000, 7)
    assert entry.mtime_ns == 0, "before the epoch, as in Docker"
    assert entry.xattrs == [(b"user.a", b"\0=\n"), (b"user.empty", b"")]


@pytest.mark.parametrize("key", [b"size", b"uid", b"gid", b"mtime"])
@pytest.mark.parametrize("value", [b"x", b"0x10", b"1e3", b"\xff", b"9" * 5000])
def test_malformed_pax_numbers_are_refused(key: bytes, value: bytes) -> None:
    with pytest.raises(UnpackError, match=f"pax {key.decode()} is "):
        apply_pax(parse_header(header()), [(key, value)])


def test_global_pax_headers_are_ignored_and_a_gnu_long_name_applies_to_the_next_entry() -> None:
    long, link = b"n" * 200, b"l" * 200
    data = b"".join(
        [
            header(b"g", b"g", size=octal(20)) + content(b"20 path=overwritten\n"),
            header(b"L", b"L", size=octal(201)) + content(long + b"\0"),
            header(b"K", b"K", size=octal(205)) + content(link + b"\0junk"),
        ]
    )
    entry = one(data + header(b"short", b"2"))
    assert (entry.name, entry.link) == (long, link)


@pytest.mark.parametrize(
    ("kind", "what"), [(b"x", "pax header"), (b"g", "global pax header"), (b"L", "long name"), (b"K", "long link name")]
)
def test_the_size_of_headers_with_content_is_limited(kind: bytes, what: str) -> None:
    for number in (-1, META_LIMIT + 1, 1 << 62):
        with pytest.raises(UnpackError, match=f"a {what} of {number} bytes is beyond the limit"):
            read(header(b"h", kind, size=base256(number)) + bytes(META_LIMIT + 1024))
    assert one(header(b"h", kind) + header(b"f")).name == b"f"
    record = b"%d a=" % META_LIMIT
    largest = record + b"v" * (META_LIMIT - len(record) - 1) + b"\n"
    assert one(header(b"h", kind, size=octal(META_LIMIT)) + largest + header(b"f"))
    with pytest.raises(UnpackError, match=CUT_OFF):
        read(header(b"h", kind, size=octal(600)) + bytes(512))


# --- numbers of entries


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": base256(-1)}, "f has a negative size"),
        ({"uid": b"\xff" * 8}, "f: owner -1:0 is out of range"),
        ({"gid": b"\xff" * 8}, "f: owner 0:-1 is out of range"),
        ({"uid": b"\x80\0\0\0\xff\xff\xff\xff"}, "f: owner 4294967295:0 is out of range"),
        ({"gid": b"\x80\0\0\0\xff\xff\xff\xff"}, "f: owner 0:4294967295 is out of range"),
    ],
)
def test_sizes_and_owners_out_of_range_are_refused(fields: dict[str, bytes], message: str) -> None:
    with pytest.raises(UnpackError, match=message):
        read(header(**fields))


def test_largest_allowed_sizes_and_owners_are_accepted() -> None:
    entry = one(header(uid=b"\x80\0\0\0\xff\xff\xff\xfe", gid=b"\x80\0\0\0\xff\xff\xff\xfe"))
    assert (entry.uid, entry.gid) == (0xFFFFFFFE, 0xFFFFFFFE)
    for mtime, expected in ((b"0", 0), (b"9223372036.854775807", (1 << 63) - 1), (b"9223372036.854775808", 0), (b"-1", 0)):
        assert one(pax((b"mtime", mtime)) + header()).mtime_ns == expected


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_size_of_an_entry_that_is_not_a_file_is_ignored(kind: bytes) -> None:
    assert one(header(b"f", kind, size=octal(600), link=b"to")).size == 0


@pytest.mark.parametrize("kind", [b"0", b"7", b"\0", b"V"])
def test_content_is_padded(kind: bytes) -> None:
    for length in (0, 1, 512, 513):
        assert one(header(b"f", kind, size=octal(length)) + content(b"\1" * length)).size == length


def test_archive_ends_at_its_end_mark_and_a_truncated_archive_is_refused() -> None:
    whole = header(b"a", size=octal(5)) + content(b"hello")
    assert [data for _, data in read(whole)] == [data for _, data in read(whole + bytes(1024) + header(b"b"))] == [b"hello"]
    for cut in (1, 511, 513, 1023):
        with pytest.raises(UnpackError, match=CUT_OFF):
            read(whole[:cut])
    with pytest.raises(UnpackError, match=NO_TAR):
        read(whole + b"\0" + b"x" * 511)


# --- sparse maps, in all forms


def old_gnu(*numbers: int, real: bytes = octal(20), data: bytes = b"x" * 10) -> bytes:
    """A tar with an old GNU sparse map: four segments are in the header, 21 in each following block."""
    inside, more = numbers[:8], numbers[8:]
    blocks = [more[at : at + 42] for at in range(0, len(more), 42)]
    text = header(
        b"f",
        b"S",
        magic=b"ustar  \0",
        size=octal(len(data)),
        sparse=segments(*inside),
        real_size=real,
        extended=bytes([bool(more)]),
    )
    for index, block in enumerate(blocks):
        text += segments(*block).ljust(504, b"\0") + bytes([index + 1 < len(blocks)]) + bytes(7)
    return text + content(data)


def pax_0_0(*numbers: int, real: bytes = b"20", data: bytes = b"x" * 10, kind: bytes = b"0") -> bytes:
    keys = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
    records = [(keys[index % 2], b"%d" % number) for index, number in enumerate(numbers)]
    head = [(b"GNU.sparse.size", real), (b"GNU.sparse.numblocks", b"%d" % (len(numbers) // 2))]
    return pax(*head, *records) + header(b"f", kind, size=octal(len(data))) + content(data)


def pax_0_1(
    *numbers: int, real: bytes = b"20", data: bytes = b"x" * 10, text: bytes | None = None, kind: bytes = b"0"
) -> bytes:
    text = b",".join(b"%d" % number for number in numbers) if text is None else text
    records = [(b"GNU.sparse.size", real), (b"GNU.sparse.map", text), (b"GNU.sparse.name", b"f")]
    return pax(*records) + header(b"GNUSparseFile.0/f", kind, size=octal(len(data))) + content(data)


def pax_1_0(
    *numbers: int, real: bytes = b"20", data: bytes = b"x" * 10, text: bytes | None = None, kind: bytes = b"0"
) -> bytes:
    if text is None:
        text = b"".join(b"%d\n" % number for number in (len(numbers) // 2, *numbers))
    records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", real), (b"GNU.sparse.name", b"f")]
    whole = content(text) + data
    return pax(*records) + header(b"GNUSparseFile.0/f", kind, size=octal(len(whole))) + content(whole)


Form = Callable[..., bytes]
FORMS = pytest.mark.parametrize("form", [old_gnu, pax_0_0, pax_0_1, pax_1_0])
PAX = pytest.mark.parametrize("form", [pax_0_0, pax_0_1, pax_1_0])


@FORMS
@pytest.mark.parametrize(
    ("numbers", "data"),
    [
        ((), b""),
        ((0, 10), b"x" * 10),
        ((10, 10), b"x" * 10),  # the data ends at the end of the file
        ((0, 5, 5, 5), b"x" * 10),  # without a hole between the segments
        ((0, 5, 20, 0), b"x" * 5),  # GNU tar ends a sparse map with the file's size
        (tuple(n for at in range(10) for n in (2 * at, 1)), b"x" * 10),  # more segments than fit in a header
        (tuple(n for at in range(60) for n in (20, 0)), b""),
    ],
)
def test_valid_sparse_maps_are_read(form: Form, numbers: tuple[int, ...], data: bytes) -> None:
    entry = one(form(*numbers, data=data))
    assert (entry.name, entry.type, entry.size, entry.real_size) == (b"f", b"0", len(data), 20)
    assert entry.segments == list(zip(numbers[::2], numbers[1::2], strict=True))


@FORMS
@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 6, 5, 4), "out of order"),  # they overlap
        ((10, 5, 0, 5), "out of order"),
        ((11, 10), "out of order"),  # one byte beyond the end
        ((1 << 32, 10), "out of order"),
        ((0, 9), "does not match its size"),
        ((0, 11), "does not match its size"),
        ((), "does not match its size"),
    ],
)
def test_inconsistent_sparse_maps_are_refused(form: Form, numbers: tuple[int, ...], message: str) -> None:
    with pytest.raises(UnpackError, match=f"the sparse map of f .*{message}"):
        read(form(*numbers))


@PAX
@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6", b"V"])
def test_sparse_map_of_an_entry_that_is_not_a_file_is_refused(form: Form, kind: bytes) -> None:
    """If the map were accepted, the content of a symlink would be parsed as the next header."""
    with pytest.raises(UnpackError, match="f has a sparse map, but is not a file"):
        read(form(0, 10, kind=kind))


def test_negative_numbers_in_old_gnu_sparse_maps_are_refused() -> None:
    with pytest.raises(UnpackError, match="f has a negative size"):
        read(old_gnu(real=base256(-1), data=b""))
    negative = header(b"f", b"S", size=octal(0), sparse=octal(5) + base256(-5) + octal(0) + octal(5), real_size=octal(20))
    with pytest.raises(UnpackError, match="out of order"):
        read(negative)
    with pytest.raises(UnpackError, match=CUT_OFF):
        read(old_gnu(*range(10))[:512])


@PAX
@pytest.mark.parametrize("real", [b"", b"-1", b"x", b"9" * 21, b"9" * 5000])
def test_malformed_sizes_of_sparse_files_are_refused(form: Form, real: bytes) -> None:
    with pytest.raises(UnpackError, match="the size of a sparse file is malformed"):
        read(form(0, 10, real=real))


@pytest.mark.parametrize("text", [b"0", b"0,10,20", b"0,x", b"0,-1", b"x,10", b"0,", b"0," + b"9" * 21, b"0," + b"1" * 5000])
def test_malformed_sparse_maps_in_pax_headers_are_refused(text: bytes) -> None:
    with pytest.raises(UnpackError, match="a sparse map is malformed"):
        read(pax_0_1(text=text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"x\n", "malformed"),
        (b"-1\n", "malformed"),
        (b"", "malformed"),
        (b"1\n0\nx\n", "malformed"),
        (b"1\nx\n10\n", "malformed"),
        (b"1\n0\n" + b"1" * 5000 + b"\n", "malformed"),
        (b"%d\n" % (SPARSE_LIMIT + 1), "longer than the limit"),
        (b"1\n" + b"1" * (META_LIMIT + 1), "longer than the limit"),
        (b"2\n0\n10\n", CUT_OFF),
    ],
)
def test_malformed_sparse_maps_in_the_content_are_refused(text: bytes, message: str) -> None:
    with pytest.raises(UnpackError, match=message):
        read(pax_1_0(text=text))


def test_number_of_sparse_segments_is_limited() -> None:
    def empty(count: int) -> list[int]:
        return [20, 0] * count

    assert one(pax_1_0(*empty(SPARSE_LIMIT), data=b"")).segments == [(20, 0)] * SPARSE_LIMIT
    most = SPARSE_LIMIT - (SPARSE_LIMIT - 4) % 21  # whole blocks
    assert one(old_gnu(*empty(most), data=b"")).segments == [(20, 0)] * most
    assert one(old_gnu(*empty(SPARSE_LIMIT), data=b"")).segments == [(20, 0)] * SPARSE_LIMIT
    with pytest.raises(UnpackError, match=f"f has more than {SPARSE_LIMIT} sparse segments"):
        read(old_gnu(*empty(SPARSE_LIMIT + 1), data=b""))


def test_sparse_map_in_the_content_of_an_entry_may_be_as_long_as_a_pax_header() -> None:
    count = (META_LIMIT - 8) // 42  # two numbers of 20 digits each
    text = b"%d\n" % count + b"%020d\n%020d\n" % (20, 0) * count
    assert META_LIMIT - 512 < len(text) <= META_LIMIT
    assert one(pax_1_0(text=text, data=b"")).segments == [(20, 0)] * count


def test_sparse_file_may_be_empty() -> None:
    entry = one(old_gnu(real=octal(0), data=b""))
    assert (entry.segments, entry.real_size) == ([], 0)
