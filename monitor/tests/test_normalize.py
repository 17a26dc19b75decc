"""The normalized tar of a layer has the form that `orlop_sdk.LayerStream` needs. `test_layer_stream.py` compares the files
in the resulting image with the files of an unpacked layer."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from typing import Any

import pytest

from orlop_monitor.unpack.errors import UnpackError
from orlop_monitor.unpack.normalize import Normalized, normalize
from orlop_monitor.unpack.request import Limits
from orlop_monitor.unpack.stream import Uncompressed

D, L, S = tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
Member = tuple[tarfile.TarInfo, bytes]


class Out:
    def __init__(self) -> None:
        self.data = bytearray()
        self.holes = 0

    def write(self, data: bytes | memoryview) -> None:
        self.data += data

    def zeros(self, size: int) -> None:
        self.holes += size
        self.data += bytes(size)


def member(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(content), 0o755 if kind == D else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def normalized(*members: Member, form: int = tarfile.PAX_FORMAT, limits: Limits | None = None) -> tuple[Out, Normalized]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    made = Out()
    with tempfile.TemporaryFile() as file:
        file.write(out.getvalue())
        file.seek(0)
        with Uncompressed(file.fileno(), 1 << 30) as source:
            return made, normalize(source, made, limits or Limits())


def read(out: Out) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(bytes(out.data)), errorlevel=2) as tar:
        return tar.getmembers()


def names(*members: Member) -> list[str]:
    return [info.name for info in read(normalized(*members)[0])]


def test_parent_directories_precede_their_entries_and_names_are_normalized() -> None:
    assert names(member("/a/./b/../c/f"), member("a/d", D), member("a/d/g")) == [".", "a", "a/c", "a/c/f", "a/d", "a/d/g"]
    assert names() == ["."]


def test_symlinks_in_names_of_entries_are_resolved() -> None:
    found = read(
        normalized(
            member("usr/lib", D),
            member("lib", S, linkname="/usr/lib"),
            member("lib/a", content=b"1"),
            member("hard", L, linkname="lib/a"),
        )[0]
    )
    assert [info.name for info in found][-3:] == ["lib", "usr/lib/a", "hard"]
    assert found[-1].linkname == "usr/lib/a"


def test_whiteouts_are_at_the_end_and_not_for_names_that_the_layer_contains() -> None:
    found = names(
        member("d/.wh.gone"),
        member(".wh.file"),
        member("file"),
        member("dir", D),
        member(".wh.dir"),
        member("o/.wh..wh..opq"),
        member(".wh..wh.plnk"),
        member("last"),
    )
    assert found[:6] == [".", "d", "file", "dir", "o", "last"]
    assert sorted(found[6:]) == ["d/.wh.gone", "dir/.wh..wh..opq", "o/.wh..wh..opq"]


def test_opaque_directory_stays_opaque_after_other_entries_replaced_the_directory() -> None:
    assert names(member("o/.wh..wh..opq"), member("o", content=b"x"), member("o", D))[-1] == "o/.wh..wh..opq"


def test_unneeded_pax_headers_are_dropped() -> None:
    pax = {"SCHILY.xattr.user.a": "1", "SCHILY.xattr.trusted.x": "2", "comment": "c", "GNU.volume.label": "l"}
    out, _ = normalized(member("f", content=b"x", uname="root", gname="root", pax_headers=pax, mtime=1.5, uid=3_000_000))
    (_, info) = read(out)
    assert set(info.pax_headers) == {"SCHILY.xattr.user.a", "mtime", "uid"}
    assert (info.mtime, info.uid, info.uname) == (1.5, 3_000_000, "")
    assert b"trusted" not in out.data and b"comment" not in out.data
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out, _ = normalized(member("n" * 180 + "/" + "m" * 200, content=b"x"), form=form)
        assert b"././@LongLink" not in out.data and read(out)[-1].name.endswith("m" * 200)


def test_sparse_files_stay_sparse() -> None:
    hole = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": "1000000"}
    content = b"1\n500000\n3\n".ljust(512, b"\0") + b"abc"
    out, made = normalized(member("GNUSparseFile.0/s", content=content, pax_headers=hole))
    (_, info) = read(out)
    assert (info.name, info.size, made.content) == ("s", 1_000_000, 1_000_000)
    assert out.holes == 1_000_000 - 3 and not info.issparse()
    with pytest.raises(UnpackError, match="the sparse files are larger than 1000 bytes"):
        normalized(member("GNUSparseFile.0/s", content=content, pax_headers=hole), limits=Limits(size=1000))


def test_counts_of_bytes_and_inodes_equal_those_of_the_unpacked_files() -> None:
    _, made = normalized(
        member("a", content=b"12345"),
        member("b", L, linkname="a"),
        member("d/c", content=b"1"),
        member("a2", content=b"replaced"),
        member("a2", content=b"12"),
        member(".wh.x"),
        member("d/.wh..wh..opq"),
    )
    assert (made.content, made.inodes, made.entries) == (8, 5, 7)  # inodes of a, d, d/c, a2 and a whiteout


def test_repeated_replacement_of_large_directories_takes_little_time() -> None:
    many = [member(f"d/{n}") for n in range(5000)]
    again = [each for n in range(2000) for each in (member("d", content=b""), member(f"d{n % 2}", D))]
    _, made = normalized(*many, *again)
    assert made.inodes == 3 and made.entries == 9000


def test_symlink_loops_are_refused() -> None:
    chain = [member(f"l{n}", S, linkname=f"l{n + 1}") for n in range(50)]
    with pytest.raises(UnpackError, match="l0: Too many levels of symbolic links"):
        normalized(*chain, member("l50", D), member("l0/f"))
    assert names(*chain[20:], member("l50", D), member("l20/f"))[-1] == "l50/f"
    assert os.sep not in names(member("x"))[-1]


def test_entry_may_replace_a_directory_through_which_its_own_path_leads() -> None:
    """`a/l` is a symlink to `/`, so the entry `a/l/a` replaces the directory `a`. After that, `a/l` does not exist any
    more."""
    link = member("a/l", S, linkname="/")
    assert names(member("a", D), link, member("a/l/b"))[-1] == "b"
    with pytest.raises(UnpackError, match="a/l: Not a directory"):
        normalized(member("a", D), link, member("a/l/a", content=b"x"), member("a/l/b"))
