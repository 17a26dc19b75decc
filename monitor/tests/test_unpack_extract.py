"""The files that the unpacker writes to disk: links, owners, times, attributes, whiteouts, limits, and entries that replace
earlier entries."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from unpacking import ROOT, archive, content, directory, header, member, octal, pax, unpack

from orlop_monitor.unpack.errors import UnpackError
from orlop_monitor.unpack.extract import extract, is_accepted_xattr
from orlop_monitor.unpack.request import Limits, Unpack
from orlop_monitor.unpack.stream import CHUNK, Uncompressed
from orlop_monitor.unpack.tree import _CACHED, Tree
from orlop_sdk.testing.durability import no_descriptors_left

needs_root = pytest.mark.root
DIR, LINK, HARD, FIFO, CHAR = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE
Member = tuple[tarfile.TarInfo, bytes]


@pytest.fixture
def target() -> Iterator[str]:
    with directory() as path:
        yield path


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    with no_descriptors_left():
        yield


def refused(target: str, message: str, *members: Member, **options: Any) -> None:
    with pytest.raises(UnpackError, match=message):
        unpack(archive(list(members)), target, **options)


def text(path: str) -> str:
    with open(path) as file:
        return file.read()


# --- names and kinds


def test_entry_for_the_root_directory_changes_nothing_and_its_content_is_skipped(target: str) -> None:
    before = os.stat(target)
    members = [member("./", DIR, mode=0o700, uid=5), member("./", content=b"x" * 600), member(".wh.a", content=b"x" * 600)]
    assert unpack(archive([*members, member("last")]), target) == 4
    after = os.stat(target)
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid) and os.listdir(target) == ["last"]


@pytest.mark.parametrize("kind", [b"V", b"M", b"D", b"Z"])
def test_entries_of_unsupported_types_are_refused(target: str, kind: bytes) -> None:
    with pytest.raises(UnpackError, match=f"f: entries of type {kind.decode()} are not supported"):
        unpack(header(b"f", kind), target)


def test_option_keep_kind_forbids_to_replace_a_directory_by_a_file_or_a_file_by_a_directory(target: str) -> None:
    unpack(archive([member("d", DIR), member("d/f", content=b"1"), member("l", LINK, linkname="d")]), target)
    for name, kind in (("d", tarfile.REGTYPE), ("d", LINK), ("d", FIFO)):
        refused(target, "cannot overwrite directory d with non-directory", member(name, kind, linkname="x"), keep_kind=True)
    for name in ("d/f", "l"):
        refused(target, f"cannot overwrite non-directory {name}/ with directory", member(name, DIR), keep_kind=True)
    again = [member("d", DIR), member("d/f", content=b"2"), member("l", LINK, linkname="f"), member("new", DIR)]
    assert unpack(archive([*again, member("g")]), target, keep_kind=True) == 5
    assert text(f"{target}/d/f") == "2" and os.readlink(f"{target}/l") == "f"


TYPES = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "link": stat.S_IFLNK, "hard": stat.S_IFREG, "fifo": stat.S_IFIFO}
KINDS = {
    "file": member("x", content=b"file"),
    "directory": member("x", DIR),
    "link": member("x", LINK, linkname="to"),
    "hard": member("x", HARD, linkname="f"),
    "fifo": member("x", FIFO),
}


@pytest.mark.parametrize("old", KINDS)
@pytest.mark.parametrize("new", KINDS)
def test_entry_of_any_type_replaces_an_earlier_entry_of_any_type(target: str, old: str, new: str) -> None:
    inside = [member("x/sub/f")] if old == "directory" else []
    members = [member("f", content=b"f", mtime=5), KINDS[old], *inside, KINDS[new], member("g")]
    assert unpack(archive(members), target) == len(members)
    info = os.lstat(f"{target}/x")
    assert stat.S_IFMT(info.st_mode) == TYPES[new] and text(f"{target}/f") == "f"
    if new == "hard":
        assert info.st_ino == os.stat(f"{target}/f").st_ino


def test_entry_below_a_symlink_that_replaced_a_directory_is_written_to_the_symlinks_target(target: str) -> None:
    members = [member("e", DIR), member("d/x"), member("d", LINK, linkname="e"), member("d/y")]
    unpack(archive(members), target)
    assert os.listdir(f"{target}/e") == ["y"]


def test_invalid_symlinks_are_refused(target: str) -> None:
    refused(target, "l: a symlink to '' cannot be made", member("l", LINK))
    with pytest.raises(UnpackError, match=r"l: a symlink to 'a.*b' cannot be made"):
        unpack(pax((b"linkpath", b"a\0b")) + header(b"l", b"2"), target)
    assert os.listdir(target) == []


def test_invalid_hard_links_are_refused(target: str) -> None:
    base = [member("d/f"), member("out", LINK, linkname="/etc")]
    for name, link, message in (
        ("f", "f", "f: a hard link to 'f' cannot be made"),
        ("d/f", "./d//f", "d/f: a hard link to './d//f' cannot be made"),
        ("x", "", "x: a hard link to '' cannot be made"),
        ("x", "/", "x: a hard link to '/' cannot be made"),
        ("x", "../x", "leads outside of the root"),
        ("x", "gone", "x: it is a hard link to gone, which does not exist"),
        ("x", "gone/f", "which does not exist"),
        ("x", "d/f/g", "which does not exist"),
        ("x", "out/passwd", "which does not exist"),  # /etc in the root, not the host's
        ("d/f", "gone", "which does not exist"),
    ):
        refused(target, message, *base, member(name, HARD, linkname=link))
    with pytest.raises(PermissionError) as raised:
        unpack(archive([member("dir", DIR), member("sub/x", HARD, linkname="dir")]), target)
    assert (raised.value.filename, raised.value.filename2) == ("sub/x", None), "the entry's name, not the path on the host"


def test_entry_below_a_dangling_symlink_is_refused(target: str) -> None:
    members = [member("l", LINK, linkname="no"), member("l/f")]
    refused(target, "l: it is a dangling symlink, and cannot contain files", *members)


def test_attempt_to_unpack_into_a_removed_root_fails(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        os.rmdir(tmp_path)
        with pytest.raises(FileNotFoundError):
            Tree(root).directory(b"a")
    finally:
        os.close(root)


def test_system_errors_contain_the_name_of_the_entry(target: str) -> None:
    with pytest.raises(OSError, match=r"File name too long: 'd/x{90}") as raised:
        unpack(archive([member("d/" + "x" * 300)]), target)
    assert raised.value.errno == errno.ENAMETOOLONG


# --- limits


def test_archive_that_exactly_reaches_the_limits_is_accepted(target: str) -> None:
    limits = Limits(entries=3, depth=2, path=10, size=20 * 512)
    allowed = [member("a/b"), member("x" * 10), member("l", LINK, linkname="y" * 10)]
    assert unpack(archive(allowed, tarfile.GNU_FORMAT), target, limits=limits) == 3
    refused(target, "l: the name is longer", member("l", LINK, linkname="y" * 11), limits=limits)


def hole(size: int, kind: bytes = b"0") -> bytes:
    records = [
        (b"GNU.sparse.size", b"%d" % size),
        (b"GNU.sparse.map", b"10,5,%d,4" % (size - 4)),
        (b"GNU.sparse.name", b"s"),
    ]
    return pax(*records) + header(b"GNU/s", kind, size=octal(9)) + content(b"begin-end")


def test_sparse_files_are_unpacked_with_holes_and_are_limited_in_size(target: str) -> None:
    for kind in (b"0", b"7"):
        assert unpack(hole(1 << 26, kind) + header(b"f"), target, limits=Limits(size=1 << 26)) == 2
        with open(f"{target}/s", "rb") as file:
            assert file.read(20) == bytes(10) + b"begin" + bytes(5)
            file.seek((1 << 26) - 6)
            assert file.read() == b"\0\0-end"
            assert os.fstat(file.fileno()).st_blocks < 100
    with pytest.raises(UnpackError, match=f"s: the sparse file is larger than {(1 << 26) - 1} bytes"):
        unpack(hole(1 << 26), target, limits=Limits(size=(1 << 26) - 1))
    whole = pax((b"GNU.sparse.size", b"4096"), (b"GNU.sparse.map", b""), (b"GNU.sparse.name", b"hole")) + header(b"x")
    unpack(whole, target)
    assert os.stat(f"{target}/hole").st_size == 4096


def test_progress_is_reported_for_each_entry_and_within_large_entries(target: str) -> None:
    ticks: list[None] = []
    unpack(archive([member("a", content=b"small"), member("b")]), target, tick=lambda: ticks.append(None))
    assert len(ticks) == 2
    unpack(archive([member("a", content=bytes(3 * CHUNK))]), target, tick=lambda: ticks.append(None))
    assert len(ticks) >= 6


def test_number_of_open_directories_is_limited(target: str) -> None:
    seen: list[int] = []
    members = [member(f"d{index}/f") for index in range(200)]
    unpack(archive(members), target, tick=lambda: seen.append(len(os.listdir("/proc/self/fd"))))
    assert max(seen) - min(seen) <= _CACHED


def test_digest_of_an_archive_covers_data_after_the_end_mark(target: str) -> None:
    data = archive([member("f")]) + b"more" * CHUNK
    with open(f"{target}/archive", "w+b") as file:
        file.write(data)
        file.seek(0)
        root = os.open(target, os.O_RDONLY)
        try:
            with Uncompressed(file.fileno(), 1 << 30) as stream:
                extract(stream, root, Unpack(False, ownership=ROOT))
                assert stream.digest() == f"sha256:{hashlib.sha256(data).hexdigest()}"
        finally:
            os.close(root)


# --- attributes


def test_only_safe_extended_attributes_are_accepted() -> None:
    accepted = [b"user.a", b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"]
    others = [
        b"user.overlay.opaque",
        b"trusted.overlay.opaque",
        b"trusted.a",
        b"security.selinux",
        b"security.ima",
        b"system.a",
        b"",
    ]
    assert list(filter(is_accepted_xattr, accepted + others)) == accepted


def with_xattrs(name: str, kind: bytes, xattrs: dict[str, str]) -> Member:
    return member(name, kind, pax_headers={f"SCHILY.xattr.{key}": value for key, value in xattrs.items()})


def test_extended_attributes_are_set_on_files_and_directories(target: str) -> None:
    left_out = {"user.overlay.opaque", "trusted.overlay.opaque", "security.evil"}
    xattrs = {"user.a": "1", **dict.fromkeys(left_out, "y")}
    unpack(archive([with_xattrs("f", tarfile.REGTYPE, xattrs), with_xattrs("d", DIR, xattrs)]), target)
    for name in ("f", "d"):
        path = f"{target}/{name}"
        assert os.getxattr(path, "user.a") == b"1" and not set(os.listxattr(path)) & left_out
    with pytest.raises(UnpackError, match=r"f: .*embedded null"):
        unpack(pax((b"SCHILY.xattr.user.a\0b", b"1")) + header(b"f"), target)


def test_extended_attributes_are_skipped_on_file_systems_without_support(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = archive([with_xattrs("f", tarfile.REGTYPE, {"user.a": "1"}), with_xattrs("d", DIR, {"user.a": "1"})])

    def fail(number: int) -> None:
        def setxattr(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "setxattr", setxattr)

    fail(errno.EOPNOTSUPP)
    assert unpack(data, target) == 2
    fail(errno.ENOSPC)
    with pytest.raises(OSError, match="No space left on device: 'f'"):
        unpack(data, target)


def test_modes_and_times_of_entries_are_set(target: str) -> None:
    """Modes and times are also set on existing directories, and on directories in which files are created later."""
    members = [
        member("made/f", mode=0o600, mtime=1),
        member("made", DIR, mode=0o2701, mtime=2),
        member("d", DIR, mode=0o1777, mtime=3),
        member("d/suid", mode=0o4755, mtime=4),
        member("d/fifo", FIFO, mode=0o2644, mtime=5),
        member("d/link", LINK, linkname="nowhere", mode=0o7777, mtime=6),
        member("now-a-file", DIR, mtime=7),
        member("now-a-file", mtime=8),
        member("now-a-link", DIR, mtime=9),
        member("now-a-link/sub", DIR, mtime=10),
        member("now-a-link", LINK, linkname="nowhere", mtime=11),
    ]
    unpack(archive(members), target)
    found = {info.name: os.lstat(f"{target}/{info.name}") for info, _ in members if info.name != "now-a-link/sub"}
    assert {name: info.st_mtime for name, info in found.items()} == {
        "made/f": 1,
        "made": 2,
        "d": 3,
        "d/suid": 4,
        "d/fifo": 5,
        "d/link": 6,
        "now-a-file": 8,
        "now-a-link": 11,
    }
    modes = {name: stat.S_IMODE(info.st_mode) for name, info in found.items() if not stat.S_ISLNK(info.st_mode)}
    expected = {"made/f": 0o600, "made": 0o2701, "d": 0o1777, "d/suid": 0o4755, "d/fifo": 0o2644, "now-a-file": 0o644}
    assert modes == expected


def test_failure_to_set_times_is_reported(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    utime = os.utime

    def fail(name: object, *more: Any, **options: Any) -> None:
        if name == b"d":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        utime(name, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "utime", fail)
    with pytest.raises(OSError, match="Input/output error"):
        unpack(archive([member("d", DIR)]), target)


def owners(target: str, members: list[Member]) -> dict[str, tuple[int, int]]:
    found = {info.name: os.lstat(f"{target}/{info.name}") for info, _ in members}
    return {name: (info.st_uid, info.st_gid) for name, info in found.items()}


@needs_root
def test_owners_are_set(target: str) -> None:
    """New files in a directory with set-group-ID get the directory's group, so the owner of such files must always be
    set."""
    members = [member("g/early"), member("g", DIR, mode=0o2755, gid=5)]
    for name, kind in {"file": tarfile.REGTYPE, "dir": DIR, "link": LINK, "fifo": FIFO}.items():
        members.append(member(f"g/{name}", kind, linkname="to"))
        for uid, gid in ((0, 7), (7, 0), (8, 9)):
            members.append(member(f"{name}-{uid}-{gid}", kind, linkname="to", uid=uid, gid=gid))
    unpack(archive(members), target)
    assert owners(target, members) == {info.name: (info.uid, info.gid) for info, _ in members}
    with directory() as other:
        unpack(archive(members), other, owner=(3, 4))
        assert set(owners(other, members).values()) == {(3, 4)}
    with directory() as other:
        unpack(archive(members), other, ownership=False)
        assert {uid for uid, _ in owners(other, members).values()} == {0}


@needs_root
def test_devices_are_created(target: str) -> None:
    null = member("null", CHAR, devmajor=1, devminor=3, mode=0o4666)
    assert unpack(archive([member("null"), null]), target) == 2
    info = os.stat(f"{target}/null")
    assert (info.st_rdev, info.st_mode) == (os.makedev(1, 3), stat.S_IFCHR | 0o4666)


def test_fifos_are_unpacked_even_if_device_nodes_are_not_allowed(target: str) -> None:
    assert unpack(archive([member("p", FIFO)]), target, devices=False) == 1
    for kind in (CHAR, tarfile.BLKTYPE):
        refused(target, "d: device nodes are not allowed", member("d", kind), devices=False)


# --- whiteouts

OVERLAY = pytest.mark.parametrize("overlay", [False, pytest.param(True, marks=pytest.mark.root)])


@OVERLAY
@pytest.mark.parametrize("name", [".wh.", "d/.wh..", ".wh..."])
def test_whiteouts_that_contain_no_file_name_are_refused(target: str, overlay: bool, name: str) -> None:
    refused(target, f"{name}: it is not a valid whiteout", member(name), overlay=overlay)


@OVERLAY
def test_names_of_whiteouts_have_no_special_meaning_outside_layers(target: str, overlay: bool) -> None:
    names = [".wh.a", ".wh..wh..opq", "d/.wh."]
    unpack(archive([member(name) for name in names]), target, layer=False, overlay=overlay)
    assert all(os.path.isfile(f"{target}/{name}") for name in names)


@OVERLAY
def test_whiteouts_of_aufs_are_ignored(target: str, overlay: bool) -> None:
    unpack(archive([member("lower"), member(".wh..wh.lower"), member(".wh..wh.plnk")]), target, overlay=overlay)
    assert os.listdir(target) == ["lower"]


@pytest.mark.parametrize(
    ("members", "left"),
    [
        (["d/.wh..wh..opq", ".wh.d"], ["d", "l"]),  # `.wh.d` does not remove `d`, which this layer contains
        (["d/sub/.wh.x", "d/.wh.sub", "d/sub/new"], ["d", "d/sub", "d/sub/new", "d/z", "l"]),
        (["d/sub/.wh.x", "d/.wh..wh..opq", "d/sub/new"], ["d", "d/sub", "d/sub/new", "l"]),
        (["d/sub/new", ".wh.d"], ["d", "d/sub", "d/sub/new", "l"]),
        ([".wh..wh..opq"], []),
        ([".wh.l"], ["d", "d/sub", "d/sub/x", "d/z"]),
        (["l/.wh.z"], ["d", "d/sub", "d/sub/x", "l"]),  # through a symlink in the root
        (["d/z/.wh.x", "gone/.wh.x"], ["d", "d/sub", "d/sub/x", "d/z", "l"]),
    ],
)
def test_whiteouts_remove_entries_of_a_plain_tree(target: str, members: list[str], left: list[str]) -> None:
    unpack(archive([member("d/sub/x"), member("d/z"), member("l", LINK, linkname="d")]), target)
    unpack(archive([member(name) for name in members]), target)
    assert sorted(str(path.relative_to(target)) for path in Path(target).rglob("*")) == left


@pytest.mark.parametrize("whiteout", ["d/.wh..wh..opq", "d/.wh.sub"])
def test_directory_removed_by_a_whiteout_can_be_created_again(target: str, whiteout: str) -> None:
    unpack(archive([member("d/sub/x")]), target)
    unpack(archive([member("h", HARD, linkname="d/sub/x"), member(whiteout), member("d/sub/new")]), target)
    assert os.listdir(f"{target}/d/sub") == ["new"] and os.stat(f"{target}/h").st_nlink == 1


def overlay_picture(target: str) -> dict[str, str]:
    """All files below `target`: whiteouts, opaque directories and other files."""
    found = {}
    for at, names, files in os.walk(target):
        for name in names + files:
            path = os.path.join(at, name)
            info = os.lstat(path)
            opaque = stat.S_ISDIR(info.st_mode) and "trusted.overlay.opaque" in os.listxattr(path)
            whiteout = stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
            kind = "dir" if stat.S_ISDIR(info.st_mode) else "file"
            found[os.path.relpath(path, target)] = "opaque" if opaque else "whiteout" if whiteout else kind
    return found


@needs_root
@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([member(".wh.a"), member("d/.wh.a")], {"a": "whiteout", "d": "dir", "d/a": "whiteout"}),
        ([member("d/.wh..wh..opq"), member("d/f")], {"d": "opaque", "d/f": "file"}),
        ([member("d/f"), member("d/.wh..wh..opq")], {"d": "opaque", "d/f": "file"}),
        ([member("d", DIR), member("d/.wh..wh..opq"), member("d", DIR, uid=1)], {"d": "opaque"}),
        # A layer with a whiteout and an entry of the same name: the entry stays. If it is a directory, it becomes opaque, so
        # that it hides the directory in the lower layer.
        ([member("f"), member(".wh.f")], {"f": "file"}),
        ([member(".wh.f"), member("f")], {"f": "file"}),
        ([member("d/f"), member(".wh.d")], {"d": "opaque", "d/f": "file"}),
        ([member(".wh.d"), member("d", DIR)], {"d": "opaque"}),
        ([member(".wh.d"), member("d/f")], {"d": "opaque", "d/f": "file"}),
        ([member("a/.wh.d"), member("a/d/e/f")], {"a": "dir", "a/d": "opaque", "a/d/e": "dir", "a/d/e/f": "file"}),
        ([member(".wh.d"), member("d/.wh.f")], {"d": "opaque", "d/f": "whiteout"}),
        ([member(".wh.a"), member(".wh.a")], {"a": "whiteout"}),
        ([member("f"), member("f", DIR)], {"f": "dir"}),
        ([member("null", CHAR, devmajor=1, devminor=3), member("null", DIR)], {"null": "dir"}),
    ],
)
def test_whiteouts_are_converted_to_whiteouts_and_opaque_directories_of_overlayfs(
    target: str, members: list[Member], expected: dict[str, str]
) -> None:
    unpack(archive(members), target, overlay=True)
    assert overlay_picture(target) == expected
    assert not any("opaque" in each for each in os.listxattr(target))


@needs_root
def test_entry_below_a_file_or_symlink_or_device_is_refused_in_an_overlay_layer(target: str) -> None:
    for between in (
        member("f", content=b"file"),
        member("f", LINK, linkname="g"),
        member("f", CHAR, devmajor=1, devminor=3),
    ):
        with pytest.raises(NotADirectoryError), directory() as other:
            unpack(archive([member("g"), between, member("f/x")]), other, overlay=True)


@needs_root
def test_opaque_whiteout_in_the_root_marks_the_root_as_opaque(target: str) -> None:
    unpack(archive([member(".wh..wh..opq")]), target, overlay=True)
    assert os.getxattr(target, "trusted.overlay.opaque") == b"y" and os.listdir(target) == []
