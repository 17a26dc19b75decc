"""Packing files as tar: headers that every tar program reads, and trees that change while they are packed. The tests need no
root."""

import hashlib
import io
import os
import stat
import tarfile
import threading

import msgspec
import pytest

from orlop_monitor.unpack.archive import entries
from orlop_monitor.unpack.encode import END, entry_header, padding
from orlop_monitor.unpack.header import Entry
from orlop_monitor.unpack.layer import pack_layer
from orlop_monitor.unpack.pack import Measurer, Packer, go_mode
from orlop_monitor.unpack.request import Change
from orlop_sdk.testing.durability import no_descriptors_left


def entry(name=b"f", kind=b"0", **more):
    base = {"mode": 0o644, "uid": 1, "gid": 2, "size": 0, "mtime_ns": 5 * 10**9, "link": b"", "major": 0, "minor": 0}
    return Entry(name, kind, **{**base, **more})


def read(data):
    return tarfile.open(fileobj=io.BytesIO(data + END), mode="r:")


@pytest.mark.parametrize(
    "name",
    [
        b"plain",
        b"a/" * 40 + b"b",  # fits in the fields prefix and name
        b"x" * 101,
        b"d/" + b"x" * 200,
        b"dir/" * 80 + b"end",
        "umläut/ß".encode(),
        b"d" * 150 + b"/" + b"f" * 99,
    ],
)
def test_packed_names_of_any_length_can_be_read_by_tarfile(name):
    """Long names need pax records."""
    with read(entry_header(entry(name))) as tar:
        (member,) = tar.getmembers()
        assert member.name.encode() == name and (member.uid, member.gid, member.mtime) == (1, 2, 5)


def test_numbers_that_do_not_fit_in_the_tar_header_are_written_as_pax_records():
    big = entry(uid=3_000_000, gid=2**31, mtime_ns=-(10**9), xattrs=[(b"security.capability", b"\1\0=\n")])
    with read(entry_header(big)) as tar:
        (member,) = tar.getmembers()
    assert (member.uid, member.gid, int(member.mtime)) == (3_000_000, 2**31, -1)
    assert member.pax_headers["SCHILY.xattr.security.capability"].encode() == b"\1\0=\n"
    huge = entry_header(entry(size=9 * 2**30))
    with tarfile.open(fileobj=io.BytesIO(huge), mode="r|") as tar:
        assert tar.next().size == 9 * 2**30


def test_links_and_devices_are_packed():
    long = b"to/" * 60 + b"here"
    data = entry_header(entry(b"l", b"2", link=long)) + entry_header(entry(b"d", b"3", major=10, minor=229))
    with read(data) as tar:
        link, device = tar.getmembers()
    assert link.linkname.encode() == long and (device.devmajor, device.devminor) == (10, 229)


def packed(tmp_path, write, **options):
    """The output of a packer as bytes. The packer writes to a pipe, as in a worker."""
    reading, writing = os.pipe()
    got = []

    def drain():
        with open(reading, "rb") as file:
            got.append(file.read())

    thread = threading.Thread(target=drain)
    thread.start()
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        packer = Packer(writing, **options)
        write(packer, root)
        packer.finish()
    finally:
        os.close(root)
        os.close(writing)
        thread.join()
    return got[0]


def test_tree_is_packed_with_links_and_pipes(tmp_path):
    (tmp_path / "t/sub").mkdir(parents=True)
    (tmp_path / "t/a").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "t/a", tmp_path / "t/sub/b")
    (tmp_path / "t/l").symlink_to("/outside")
    os.mkfifo(tmp_path / "t/pipe")
    os.chmod(tmp_path / "t/a", 0o4755)
    data = packed(tmp_path, lambda packer, root: packer.tree(root, "t", b"shown"))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {member.name: member for member in tar}
        assert list(found) == ["shown", "shown/a", "shown/l", "shown/pipe", "shown/sub", "shown/sub/b"]
        assert tar.extractfile("shown/a").read() == b"x" * 100_000
    assert found["shown/a"].mode == 0o4755 and found["shown/l"].linkname == "/outside"
    assert found["shown/sub/b"].islnk() and found["shown/sub/b"].linkname == "shown/a"
    assert found["shown/pipe"].isfifo()


def test_packed_tree_is_read_by_the_unpacker(tmp_path):
    class Source(io.BytesIO):
        def skip(self, size):
            self.read(size)

    (tmp_path / ("n" * 120)).write_bytes(b"content")
    source = Source(packed(tmp_path, lambda packer, root: packer.content(root, b"")))
    for found in entries(source):
        assert found.name == b"n" * 120 and source.read(found.size) == b"content"


def test_files_with_holes_are_packed_as_sparse_files(tmp_path):
    with open(tmp_path / "holes", "wb") as file:
        file.seek(50 << 20)
        file.write(b"middle")
        file.truncate(100 << 20)
    data = packed(tmp_path, lambda packer, root: packer.tree(root, "holes", b"holes"))
    assert len(data) < 1 << 20
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        (member,) = tar.getmembers()
        assert (member.name, member.size) == ("holes", 100 << 20)
        file = tar.extractfile(member)
        file.seek(50 << 20)
        assert file.read(7) == b"middle\0"
    whole = packed(tmp_path, lambda packer, root: packer.tree(root, "holes", b"holes"), sparse=False)
    assert len(whole) > 100 << 20


def test_files_that_shrink_or_vanish_during_packing_do_not_damage_the_tar(tmp_path):
    (tmp_path / "a").write_bytes(b"y" * 300_000)
    (tmp_path / "z").write_bytes(b"last")

    def write(packer, root):
        truncate = packer._copy
        packer._copy = lambda fd, offset, size: (os.truncate(tmp_path / "a", 10), truncate(fd, offset, size))
        packer.tree(root, "a", b"a")
        packer._copy = truncate
        packer.tree(root, "gone", b"gone")
        packer.tree(root, "z", b"z")

    with tarfile.open(fileobj=io.BytesIO(packed(tmp_path, write))) as tar:
        assert tar.getnames() == ["a", "z"]
        assert tar.extractfile("a").read() == b"y" * 10 + bytes(299_990) and tar.extractfile("z").read() == b"last"


def test_modes_are_converted_to_go_file_modes():
    assert go_mode(stat.S_IFREG | 0o644) == 0o644
    assert go_mode(stat.S_IFDIR | 0o1777) == (1 << 31) | (1 << 20) | 0o777
    assert go_mode(stat.S_IFLNK | 0o777) == (1 << 27) | 0o777
    assert go_mode(stat.S_IFREG | 0o6755) == (1 << 23) | (1 << 22) | 0o755
    assert padding(0) == b"" and len(padding(1)) == 511


def test_packed_layer_contains_the_listed_changes_and_whiteouts(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/new").write_bytes(b"content")
    (tmp_path / "d/other").write_bytes(b"not listed")
    (tmp_path / "d/sub").mkdir()
    (tmp_path / "d/sub/new").write_bytes(b"below")
    (tmp_path / "d/z").write_bytes(b"last")
    base = str(tmp_path)
    changes = [
        Change(f"{base}/d", False),
        Change(f"{base}/d/new", False),
        Change(f"{base}/d/old", True),
        Change(f"{base}/d/deleted-since", False),
        Change(f"{base}/d/sub/new", False),
        Change(f"{base}/deleted-since/f", False),
        Change(f"{base}/d/z", False),
        Change("/orlop-was-here", True),
        Change("/tmp", False),
    ]
    listed = os.memfd_create("changes")
    os.write(listed, b"\n".join(map(msgspec.json.encode, changes)))
    os.lseek(listed, 0, os.SEEK_SET)
    try:
        with no_descriptors_left():
            data = packed(tmp_path, lambda packer, root: pack_layer(packer, listed))
    finally:
        os.close(listed)
    inside = base.lstrip("/")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        listed_in_d = [f"{inside}/d/{name}" for name in ("new", ".wh.old", "sub/new", "z")]
        expected = [f"{inside}/d", *listed_in_d, ".wh.orlop-was-here", "tmp"]
        assert tar.getnames() == expected
        content = {name: tar.extractfile(f"{inside}/d/{name}").read() for name in ("new", "sub/new", "z")}
        assert content == {"new": b"content", "sub/new": b"below", "z": b"last"}
        assert tar.getmember(".wh.orlop-was-here").size == 0


def test_digest_computed_without_writing_a_tar_equals_the_digest_of_the_tar(tmp_path):
    """The digest in this test must not change: such digests are stored for images that were built. If the packer wrote other
    bytes, these images could not be pushed any more."""
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d/small").write_bytes(b"x" * 100)
    (tree / "d/large").write_bytes(bytes(range(256)) * 12345)
    os.link(tree / "d/small", tree / "hard")
    (tree / "soft").symlink_to("d/small")
    with (tree / "sparse").open("wb") as file:
        file.truncate(3 << 20)
    for path in (tree / "d/small", tree / "d/large", tree / "sparse", tree / "d", tree):
        os.chmod(path, 0o755 if path.is_dir() else 0o640)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    os.utime(tree / "soft", (1_000_000_000, 1_000_000_000), follow_symlinks=False)

    def pack(packer):
        fd = os.open(tree, os.O_RDONLY)
        try:
            packer.content(fd, b"")
            packer.finish()
        finally:
            os.close(fd)

    out = tmp_path / "out.tar"
    with out.open("wb") as file:
        pack(Packer(file.fileno(), sparse=False))
    measurer = Measurer(sparse=False)
    pack(measurer)
    data = out.read_bytes()
    assert (measurer.digest, measurer.size) == (f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
    if (os.getuid(), os.getgid()) == (0, 0):  # the tar contains the owners, so only root gets this digest
        assert measurer.digest == "sha256:064ffdf58431b9fcb132935c4e53da6b07daf032393d311e243727d6d6de2f42"


def test_modification_times_after_the_latest_allowed_time_become_the_latest_allowed_time(tmp_path):
    for name, at in (("old", 5), ("new", 500)):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (at, at))
    for latest, times in ((100, [5, 100]), (None, [5, 500])):
        data = packed(
            tmp_path,
            lambda packer, root: [packer.tree(root, name, name.encode()) for name in ("old", "new")],
            latest=latest,
        )
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert [member.mtime for member in tar] == times
