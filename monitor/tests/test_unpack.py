"""Unpacking: comparison with Python's tarfile, and malicious archives. The tests use neither root nor the sandbox, so that
they test the unpacker's own protection."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unpacking import archive, directory, member, picture, unpack

from orlop_monitor.unpack.errors import UnpackError, shown
from orlop_monitor.unpack.header import parse_header, parse_pax
from orlop_monitor.unpack.request import Limits
from orlop_monitor.unpack.stream import sniff
from orlop_monitor.unpack.tree import clean

quick = settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))


# --- comparison with tarfile

names = st.text("abcé .-\udc80", min_size=1, max_size=6).filter(lambda name: name.strip(". ")) | st.sampled_from(
    ["x" * 90, "y" * 120, "é" * 70, "z" * 250]
)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[tuple[tarfile.TarInfo, bytes]], int]:
    form = draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    members: list[tuple[tarfile.TarInfo, bytes]] = []
    taken: set[str] = set()
    files: list[str] = []
    for path in draw(st.lists(paths, max_size=12)):
        parts = path.split("/")
        parents = ["/".join(parts[:n]) for n in range(1, len(parts))]
        if path in taken or any(parent in files for parent in parents):
            continue
        time = draw(st.integers(0, 4_000_000_000)) + draw(st.sampled_from([0, 0.5, 0.25])) * (form == tarfile.PAX_FORMAT)
        owner = {"uid": draw(st.sampled_from([0, 1, 70_000, 3_000_000])), "gid": draw(st.integers(0, 5))}
        mode = draw(st.sampled_from([0o644, 0o755, 0o4755, 0o2711, 0o600, 0o1777]))
        fields: dict[str, Any] = {"mode": mode, "mtime": time, **owner}
        for parent in parents:
            if parent not in taken:
                members.append(member(parent, tarfile.DIRTYPE, **{**fields, "mode": 0o755}))
                taken.add(parent)
        taken.add(path)
        files.append(path)
        kind = draw(st.sampled_from(["file", "file", "dir", "link", "hard", "fifo"]))
        regular = [info.name for info, _ in members if info.isreg()]
        if kind == "hard" and regular:
            members.append(member(path, tarfile.LNKTYPE, linkname=draw(st.sampled_from(regular)), **fields))
            continue
        if kind == "link":
            members.append(member(path, tarfile.SYMTYPE, linkname=draw(paths), **fields))
        elif kind == "dir":
            members.append(member(path, tarfile.DIRTYPE, **{**fields, "mode": 0o755}))
            files.remove(path)
        elif kind == "fifo":
            members.append(member(path, tarfile.FIFOTYPE, **fields))
        else:
            members.append(member(path, content=draw(st.binary(max_size=2000)), **fields))
    # tarfile applies a hard link's attributes to its target; GNU tar and Orlop do not. So link and target get the same
    # attributes here.
    first = {info.name: info for info, _ in members}
    for info, _ in members:
        if info.islnk():
            target = first[info.linkname]
            info.mode, info.mtime, info.uid, info.gid = target.mode, target.mtime, target.uid, target.gid
    return members, form


@given(trees())
@quick
def test_unpacks_like_tarfile(tree: tuple[list[tuple[tarfile.TarInfo, bytes]], int]) -> None:
    data = archive(*tree)
    with directory() as ours, directory() as theirs:
        assert unpack(data, ours) == len(tree[0])
        with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
            tar.extractall(theirs, filter="fully_trusted", numeric_owner=True)
        assert picture(ours) == picture(theirs)


# --- malicious archives

whiteouts = [".wh.a", ".wh.b", ".wh..wh..opq", ".wh...", ".wh."]
parts = st.sampled_from(["a", "b", "c", "..", ".", "", "layer", "outside", *whiteouts])
wild = st.lists(parts, min_size=1, max_size=5).map("/".join)
files = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
kinds = st.sampled_from([*files, tarfile.SYMTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])


@pytest.mark.parametrize("overlay", [False, pytest.param(True, marks=pytest.mark.root)])
@given(data=st.data())
@quick
def test_nothing_is_written_outside_the_target(overlay: bool, data: st.DataObject) -> None:
    with directory() as world:
        layer, outside = f"{world}/layer", f"{world}/outside"
        os.makedirs(f"{outside}/a")
        os.mkdir(layer)
        Path(outside, "b").write_text("untouched")
        targets = wild | st.sampled_from([outside, world, "/", f"../../../../../..{outside}", f"{outside}/a"])
        entries = st.tuples(wild, kinds, targets)
        members = [
            member(name or "x", kind, b"evil" if kind == tarfile.REGTYPE else b"", linkname=target)
            for name, kind, target in data.draw(st.lists(entries, max_size=15))
        ]
        before = picture(outside), os.stat(outside).st_mtime_ns, os.stat(f"{outside}/b").st_nlink
        # Unpack one member at a time, so that the members after a refused member are tried too.
        for each in members:
            try:
                unpack(archive([each]), layer, overlay=overlay)
            except (UnpackError, OSError):
                pass
        try:
            unpack(archive(members), layer, overlay=overlay)
        except (UnpackError, OSError):
            pass
        assert (picture(outside), os.stat(outside).st_mtime_ns, os.stat(f"{outside}/b").st_nlink) == before
        assert sorted(os.listdir(world)) == ["layer", "outside"]


flipped = st.tuples(st.integers(0, 6000), st.integers(0, 255))


@given(flips=st.lists(flipped, min_size=1, max_size=8), cut=st.integers(0, 8000))
@quick
def test_damaged_archives_raise_only_unpack_errors(flips: list[tuple[int, int]], cut: int) -> None:
    long = "n" * 150
    tree = [member("d", tarfile.DIRTYPE), member(f"d/{long}", content=b"x" * 700, pax_headers={"SCHILY.xattr.user.a": "b"})]
    data = bytearray(archive([*tree, member("d/l", tarfile.SYMTYPE, linkname=long)]))
    for at, value in flips:
        data[at % len(data)] = value
    with directory() as target:
        try:
            unpack(bytes(data[: cut + 512]), target)
        except (UnpackError, OSError) as error:
            assert str(error)


# --- single rules


def test_whiteouts_remove_only_entries_of_lower_layers() -> None:
    with directory() as target:
        below = [member(name) for name in ("gone", "d/old", "o/old", "o/sub/old", "o/own/old", "file")]
        unpack(archive(below), target)
        above = [
            member(".wh.gone"),
            member("d/.wh.old"),
            member("o/own/new"),
            member("o/first"),
            member("o/.wh..wh..opq"),
            member("o/last"),
            member("mine"),
            member(".wh.mine"),
            member("missing/.wh.x"),
            member(".wh..wh.aufs"),
        ]
        unpack(archive(above), target)
        assert sorted(picture(target)) == ["d", "file", "mine", "o", "o/first", "o/last", "o/own", "o/own/new"]


def test_error_about_an_exceeded_limit_contains_the_limit_and_the_entry() -> None:
    cases = [
        (Limits(entries=1), [member("a"), member("b")], "more than 1 entries"),
        (Limits(depth=2), [member("a/b/c")], "a/b/c: it is more than 2 directories deep"),
        (Limits(path=10), [member("abcdefghijk")], "abcdefghijk: the name is longer than 10 bytes"),
        (Limits(size=4096), [member("a", content=bytes(8192))], "more than 4096 bytes uncompressed"),
    ]
    for limits, members, text in cases:
        with directory() as target, pytest.raises(UnpackError, match=text):
            unpack(archive(members), target, limits=limits)


def test_devices_are_refused_if_not_allowed() -> None:
    with directory() as target, pytest.raises(UnpackError, match="dev/sda: device nodes are not allowed"):
        unpack(archive([member("dev/sda", tarfile.BLKTYPE)]), target, devices=False)


def test_later_entry_replaces_an_earlier_entry_of_the_same_name() -> None:
    with directory() as target:
        unpack(
            archive(
                [
                    member("a", tarfile.DIRTYPE),
                    member("a/x"),
                    member("a", content=b"file"),
                    member("b", tarfile.SYMTYPE, linkname="a"),
                    member("b", content=b"own"),
                    member("c", content=b"one"),
                    member("d", tarfile.LNKTYPE, linkname="c"),
                    member("c", content=b"two"),
                    member("e", tarfile.SYMTYPE, linkname="nowhere"),
                    member("e", tarfile.DIRTYPE),
                    member("e/x", content=b"in"),
                ]
            ),
            target,
        )
        content = {name: shown[-1] for name, shown in picture(target).items()}
        assert content == {"a": b"file", "b": b"own", "c": b"two", "d": b"one", "e": None, "e/x": b"in"}


def test_entry_of_an_old_tar_is_a_directory_if_its_name_ends_in_a_slash() -> None:
    with directory() as target:
        unpack(archive([member("d/", tarfile.AREGTYPE), member("f", tarfile.AREGTYPE)]), target)
        assert [shown[0] for shown in picture(target).values()] == [stat.S_IFDIR, stat.S_IFREG]
    with directory() as target:
        long = "x" * 99 + "/" + "y" * 60  # the first 100 bytes, which are in the header, end in a slash
        unpack(archive([member(long, content=b"file")], tarfile.PAX_FORMAT), target)
        assert Path(target, long).read_bytes() == b"file"


def test_names_of_entries_are_normalized_and_unsafe_names_are_refused() -> None:
    assert clean(b"./a//b/./c/") == b"a/b/c"
    assert clean(b"/etc/passwd") == b"etc/passwd"
    assert clean(b"a/../b") == b"b"
    assert clean(b"./") == clean(b"/") == b""
    for bad in (b"..", b"a/../..", b"/..", b"a\0b"):
        with pytest.raises(UnpackError):
            clean(bad)
    assert shown(b"a\x1b[31m\xff") == "a\\x1b[31m\\xff"
    assert len(shown(b"x" * 5000)) < 130


def test_header_numbers_are_parsed_and_checksums_verified() -> None:
    info = tarfile.TarInfo("f")
    info.uid, info.size, info.mtime = 1 << 24, 1 << 40, -5
    entry = parse_header(info.tobuf(tarfile.GNU_FORMAT)[:512])
    assert (entry.uid, entry.size, entry.mtime_ns) == (1 << 24, 1 << 40, -5_000_000_000)
    with pytest.raises(UnpackError, match="invalid tar header"):
        parse_header(bytes(100) + b"0000644" + bytes(405))
    assert parse_pax(b"13 path=a b\xff\n9 uid=12\n") == [(b"path", b"a b\xff"), (b"uid", b"12")]
    for bad in (b"x", b"5 a=b", b"99 a=b\n", b"7 abcd\n", b"0 a=b\n", b"3 =\n"):
        with pytest.raises(UnpackError):
            parse_pax(bad)


def test_compression_is_detected_by_its_magic_bytes() -> None:
    heads = (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x52\x2a\x4d\x18", b"BZh9", b"\xfd7zXZ\0", b"ustar")
    assert [sniff(head) for head in heads] == ["gzip", "zstd", "zstd", "bzip2", "xz", ""]
    for other in (b"PK\3\4 zip", b"\x60\x2a\x4d\x18", b"\x50\x2a\x4d", b"BZ", b""):
        assert sniff(other) == ""


def test_compressed_streams_of_several_members_are_read() -> None:
    """pigz and zstd:chunked write such streams."""
    data = archive([member("a", content=b"x" * 5000)])
    half = len(data) // 2
    skippable = b"\x50\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"ignored"
    zstd = zstandard.ZstdCompressor().compress
    for compressed in (
        gzip.compress(data[:half]) + gzip.compress(data[half:]),
        bz2.compress(data[:half]) + bz2.compress(data[half:]),
        lzma.compress(data[:half]) + bytes(8) + lzma.compress(data[half:]),
        skippable + zstd(data[:half]) + zstd(data[half:]) + skippable,
    ):
        with directory() as target:
            assert unpack(compressed, target) == 1
            assert Path(target, "a").read_bytes() == b"x" * 5000
