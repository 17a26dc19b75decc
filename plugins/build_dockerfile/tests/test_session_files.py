"""Transfers of directories: the received directory equals the sent one, only differences are sent again, and no path leads
outside."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.pb import fsutil_pb2 as pb
from orlop_build_dockerfile.session import last
from orlop_build_dockerfile.session.packets import DATA, ERR, FIN, REQ, STAT, encode_metadata, go_mode, unix_mode
from orlop_build_dockerfile.session.receiver import OPEN_FILES, Receiver
from orlop_build_dockerfile.session.transfer import _Sender

DIR, LINK, CHAR_DEVICE = 1 << 31, 1 << 27, 1 << 26 | 1 << 21


def packet(kind: int, number: int = 0, data: bytes = b"", **entry: object) -> bytes:
    result = pb.Packet(type=kind, ID=number, data=data)
    if entry:
        result.stat.CopyFrom(pb.Entry(uid=os.getuid(), gid=os.getgid(), **entry))  # type: ignore[arg-type]
    return result.SerializeToString()


def transfer(source: Path, target: Path, beside: str = "") -> Receiver:
    """Send one directory to another, without a connection."""
    root = os.open(source, os.O_RDONLY)
    receiver = Receiver(str(target), beside)
    try:
        sender = _Sender(root)
        answers: list[bytes] = []
        packets = list(sender.entries())
        for place in range(0, len(packets), 3):
            found = receiver.match(packets[place : place + 3])
            answers += receiver.feed(packets[place : place + 3]) if found is None else found
        for raw in answers:
            asked = pb.Packet.FromString(raw)
            if asked.type == REQ:
                answers += receiver.feed(sender.content(asked.ID))
        assert pb.Packet.FromString(answers[-1]).type == FIN
        receiver.feed([packet(FIN)])
        assert receiver.done
    finally:
        receiver.close()
        os.close(root)
    return receiver


def described(root: Path) -> dict[str, tuple[object, ...]]:
    """All attributes that a transfer sends, by path."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        name = str(path.relative_to(root))
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = (path.read_bytes(), first.setdefault(info.st_ino, name))
        found[name] = (info.st_mode, info.st_mtime_ns, content)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "a" / "deep" / "er").mkdir(parents=True)
    (root / "a.txt").write_text("beside a")
    (root / "a" / "file").write_bytes(os.urandom(100_000))
    (root / "a" / "deep" / "er" / "x").write_text("x")
    (root / "a" / "deep" / "empty").touch()
    (root / "link").symlink_to("/etc/passwd")
    (root / "a" / "deep" / "up").symlink_to("../../a.txt")
    os.link(root / "a" / "file", root / "z-same")
    (root / "script").write_text("#!")
    (root / "script").chmod(0o4755)
    (root / "a" / "deep").chmod(0o2711)
    os.utime(root / "a.txt", ns=(1, 1_600_000_000_123_456_789))
    os.mkfifo(root / "pipe", 0o640)
    (root / os.fsdecode(b"not \xff utf-8")).write_text("x")
    return root


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir()
    return path


def test_received_directory_equals_the_sent_directory(source: Path, target: Path) -> None:
    assert transfer(source, target).requested == 6
    assert described(target) == described(source)
    assert transfer(source, target).requested == 0
    assert described(target) == described(source)


def test_only_changed_files_are_sent_again(source: Path, target: Path) -> None:
    transfer(source, target)
    before = {name: (target / name).lstat().st_ctime_ns for name in described(target)}
    (source / "a.txt").write_text("other")
    (source / "a" / "new").write_text("new")
    (source / "script").unlink()
    assert transfer(source, target).requested == 2
    assert described(target) == described(source)
    for name in ("a/file", "z-same", "link", "a/deep/er/x", "a/deep/empty"):  # the ctime must not change
        assert (target / name).lstat().st_ctime_ns == before[name]


def test_entries_that_change_their_type_are_replaced(source: Path, target: Path) -> None:
    transfer(source, target)
    (source / "a.txt").unlink()
    (source / "a.txt").mkdir()
    (source / "a.txt" / "inside").write_text("x")
    (source / "link").unlink()
    (source / "link").write_text("a file now")
    for name in ("a/deep/er/x", "a/deep/up", "a/deep/empty"):
        (source / name).unlink()
    (source / "a" / "deep" / "er").rmdir()
    (source / "a" / "deep").rmdir()
    (source / "a" / "deep").symlink_to("/")
    (source / "pipe").unlink()
    (source / "pipe").symlink_to("a")
    transfer(source, target)
    assert described(target) == described(source)


def test_transfer_of_a_changed_file_does_not_change_hard_links_to_the_old_file(
    source: Path, target: Path, tmp_path: Path
) -> None:
    transfer(source, target)
    os.link(target / "a.txt", tmp_path / "shared")
    os.link(target / "script", tmp_path / "shared mode")
    (source / "a.txt").write_text("other")
    (source / "script").chmod(0o600)
    transfer(source, target)
    assert (tmp_path / "shared").read_text() == "beside a"
    assert (tmp_path / "shared mode").stat().st_mode == 0o104755


def test_transfers_create_and_replace_hard_links_like_the_source(source: Path, target: Path) -> None:
    transfer(source, target)
    assert (target / "z-same").samefile(target / "a" / "file")
    data = (source / "z-same").read_bytes()
    (source / "z-same").unlink()
    (source / "z-same").write_bytes(data)
    transfer(source, target)
    assert not (target / "z-same").samefile(target / "a" / "file")
    (source / "z-same").unlink()
    os.link(source / "a" / "deep" / "er" / "x", source / "z-same")
    transfer(source, target)
    assert described(target) == described(source)


def test_interrupted_transfer_is_completed_by_the_next(source: Path, target: Path) -> None:
    root = os.open(source, os.O_RDONLY)
    receiver, sender = Receiver(str(target)), _Sender(root)
    asked = [pb.Packet.FromString(raw).ID for raw in receiver.feed(sender.entries())]
    [large] = [content for number in asked if len(content := list(sender.content(number))) > 3]
    receiver.feed(large[:2])
    receiver.close()
    os.close(root)
    assert transfer(source, target).requested == 6
    assert described(target) == described(source)


def test_extended_attributes_are_transferred(source: Path, target: Path) -> None:
    entry = {"path": b"f", "mode": 0o644, "size": 1, "modTime": 5, "xattrs": {"user.a": b"1"}}
    try:
        os.setxattr(source / "a.txt", "user.test", b"")
    except OSError:
        pytest.skip("the file system has no extended attributes")

    def send(value: bytes) -> int:
        entry["xattrs"] = {"user.a": value, "trusted.overlay.opaque": b"y", "security.evil": b"x"}
        receiver = Receiver(str(target))
        wanted = receiver.feed([packet(STAT, **entry)])
        for raw in wanted:
            receiver.feed([packet(DATA, pb.Packet.FromString(raw).ID, b"x"), packet(DATA, pb.Packet.FromString(raw).ID)])
        receiver.feed([packet(STAT), packet(FIN)])
        receiver.close()
        return receiver.requested

    assert send(b"1") == 1
    assert os.listxattr(target / "f") == ["user.a"]
    assert send(b"1") == 0
    assert send(b"2") == 1
    assert os.getxattr(target / "f", "user.a") == b"2"


@pytest.mark.parametrize(
    "entries",
    [
        [{"path": b"../x"}],
        [{"path": b".."}],
        [{"path": b"/etc/x"}],
        [{"path": b"a//b"}],
        [{"path": b"."}],
        [{"path": b"./x"}],
        [{"path": b"a\0b"}],
        [{"path": b"x" * 256}],
        [{"path": b"a", "mode": DIR | 0o755}, {"path": b"a/.."}],
        [{"path": b"a/b"}],  # not in a listed directory
        [{"path": b"a"}, {"path": b"a/b"}],  # in a file
        [{"path": b"a", "mode": LINK | 0o777, "linkname": b"/tmp"}, {"path": b"a/b"}],  # through a link
        [{"path": b"a"}, {"path": b"a"}],
        [{"path": b"b"}, {"path": b"a"}],
        [{"path": b"a", "mode": DIR | 0o755}, {"path": b"a.b"}, {"path": b"a/b"}],
        [{"path": b"a", "linkname": b"/etc/passwd"}],
        [{"path": b"a"}, {"path": b"b", "linkname": b"../a"}],
        [{"path": b"b"}, {"path": b"c", "linkname": b"c"}],
        [{"path": b"a", "mode": LINK | 0o777, "linkname": b"/etc/passwd"}, {"path": b"b", "linkname": b"a"}],
        [{"path": b"a", "mode": DIR | LINK}],
        [{"path": b"a", "mode": LINK | 0o777, "linkname": b"x\0y"}],
        [{"path": b"a", "size": -1}],
        [{"path": b"a", "modTime": -(1 << 63)}],
        [{"path": b"a", "mode": CHAR_DEVICE, "devmajor": 1 << 40}],
    ],
)
def test_unsafe_or_malformed_entries_are_refused(entries: list[dict[str, object]], target: Path, tmp_path: Path) -> None:
    receiver = Receiver(str(target))
    with pytest.raises(BuildFailed, match="the client sent") as caught:
        receiver.feed([packet(STAT, **{"mode": 0o644, **entry}) for entry in entries] + [packet(STAT)])
    receiver.close()
    assert caught.value.code == 3
    assert set(os.listdir(tmp_path)) == {"target"}


def test_link_that_replaced_a_directory_is_not_followed(target: Path, tmp_path: Path) -> None:
    """The link may also have been created by another process after the directory was read."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("safe")
    receiver = Receiver(str(target))
    [wanted] = receiver.feed([packet(STAT, path=b"d", mode=DIR | 0o755), packet(STAT, path=b"d/f", mode=0o644, size=4)])
    os.rmdir(target / "d")
    (target / "d").symlink_to(outside)
    with pytest.raises(OSError):
        receiver.feed([packet(DATA, pb.Packet.FromString(wanted).ID, b"evil")])
    receiver.close()
    assert (outside / "f").read_text() == "safe"


def test_link_to_another_directory_inside_the_target_is_not_followed(target: Path) -> None:
    receiver = Receiver(str(target))
    names = [b"d", b"d/x", b"e", b"e/x"]
    entries = [packet(STAT, path=name, mode=DIR | 0o755) for name in names]
    [wanted] = receiver.feed([*entries[:2], packet(STAT, path=b"d/x/f", mode=0o644, size=1), *entries[2:]])
    (target / "d" / "x").rmdir()
    (target / "d").rmdir()
    (target / "d").symlink_to("e")
    with pytest.raises(OSError):
        receiver.feed([packet(DATA, pb.Packet.FromString(wanted).ID, b"x")])
    receiver.close()
    assert not os.listdir(target / "e" / "x")


def test_removal_of_a_stale_directory_does_not_follow_a_new_link_to_the_outside(target: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("safe")
    (target / "d").mkdir()
    (target / "d" / "f").write_text("old")
    receiver = Receiver(str(target))
    receiver.feed([packet(STAT, path=b"d", mode=LINK | 0o777, linkname=os.fsencode(outside)), packet(STAT)])
    receiver.close()
    assert (outside / "f").read_text() == "safe"
    assert (target / "d").is_symlink()


def test_removal_of_a_stale_directory_does_not_follow_a_new_link_inside_the_target(target: Path) -> None:
    (target / "d" / "x").mkdir(parents=True)
    (target / "d" / "x" / "f").write_text("old")
    receiver = Receiver(str(target))
    wanted = receiver.feed(
        [
            packet(STAT, path=b"d", mode=LINK | 0o777, linkname=b"e"),
            packet(STAT, path=b"e", mode=DIR | 0o755),
            packet(STAT, path=b"e/x", mode=DIR | 0o755),
            packet(STAT, path=b"e/x/f", mode=0o644, size=3),
        ]
    )
    number = pb.Packet.FromString(wanted[0]).ID
    receiver.feed([packet(DATA, number, b"new"), packet(DATA, number), packet(STAT), packet(FIN)])
    receiver.close()
    assert (target / "e" / "x" / "f").read_text() == "new"


@pytest.mark.parametrize(
    "packets",
    [
        [packet(DATA, 0, b"x")],  # the receiver has not requested the file
        [packet(STAT, path=b"a", mode=DIR | 0o755), packet(DATA, 0, b"x")],  # a directory
        [packet(STAT), packet(STAT, path=b"a", mode=0o644)],  # after the end of the list
        [packet(STAT, path=b"a", mode=0o644), packet(STAT), packet(FIN)],  # the end arrives before the file's content
        [packet(FIN)],
        [packet(REQ, 0)],
        [packet(77)],
        [b"\xff\xff\xff"],
        [packet(ERR, data=b"no such directory")],
    ],
)
def test_unexpected_packets_are_refused(packets: list[bytes], target: Path) -> None:
    receiver = Receiver(str(target))
    with pytest.raises(BuildFailed):
        receiver.feed(packets)
    receiver.close()


def test_too_many_files_open_at_once_are_refused(target: Path) -> None:
    receiver = Receiver(str(target))
    names = [b"%05d" % number for number in range(OPEN_FILES + 1)]
    receiver.feed([packet(STAT, path=name, mode=0o644, size=1) for name in names])
    with pytest.raises(BuildFailed, match="too many files"):
        receiver.feed([packet(DATA, number, b"x") for number in range(len(names))])
    receiver.close()


def test_file_shorter_than_its_announced_size_is_sent_again(target: Path) -> None:
    for times in range(2):
        receiver = Receiver(str(target))
        receiver.feed([packet(STAT, path=b"f", mode=0o644, size=1_000_000, modTime=5), packet(STAT)])
        assert receiver.requested == 1, times  # the receiver knows that its file differs
        receiver.feed([packet(DATA, 0, b"short"), packet(DATA, 0), packet(FIN)])
        receiver.close()
    assert (target / "f").read_bytes() == b"short"


def flat(root: Path) -> None:
    """Files and directories without hard links, whose inodes a list does not have."""
    (root / "d" / "e").mkdir(parents=True)
    for name in ("a", "d/b", "d/e/c", "z"):
        (root / name).write_text(name)
    (root / "link").symlink_to("a")


def test_list_of_files_equal_to_the_last_list_is_answered_without_reading_the_directory(
    tmp_path: Path, target: Path
) -> None:
    flat(tmp_path / "source")
    beside = str(tmp_path / "list")
    first = transfer(tmp_path / "source", target, beside)
    (target / "d" / "b").write_text("what no transfer has written")  # no transfer writes this file
    again = transfer(tmp_path / "source", target, beside)
    assert (again.requested, again.state) == (0, first.state) and first.state
    assert again.size == sum(map(len, last.load(beside, os.open(target, os.O_RDONLY)).packets)) + len(packet(FIN))  # type: ignore[union-attr]


@pytest.mark.parametrize("hard_links", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "a").write_text("other"),
        lambda root: (root / "d" / "new").write_text("new"),
        lambda root: (root / "zz").symlink_to("a"),
        lambda root: (root / "z").unlink(),
        lambda root: (root / "a").unlink(),
        lambda root: (root / "d" / "e").chmod(0o700),
        lambda root: ((root / "a").unlink(), (root / "a").mkdir()),
        lambda root: os.rename(root / "d", root / "moved"),
    ],
)
def test_next_transfer_updates_a_directory_that_was_changed_meanwhile(
    change: Callable[[Path], object], hard_links: bool, tmp_path: Path, target: Path
) -> None:
    source, beside = tmp_path / "source", str(tmp_path / "list")
    flat(source)
    if hard_links:
        os.link(source / "d" / "b", source / "d" / "same")
    first = transfer(source, target, beside)
    change(source)
    second = transfer(source, target, beside)
    assert second.state not in ("", first.state)
    assert described(target) == described(source)
    assert transfer(source, target, beside).state == second.state


def test_interrupted_transfer_leaves_no_list_of_files(tmp_path: Path, target: Path) -> None:
    source, beside = tmp_path / "source", str(tmp_path / "list")
    flat(source)
    transfer(source, target, beside)
    receiver = Receiver(str(target), beside)
    wanted = receiver.feed([packet(STAT, path=b"a", mode=0o644, size=5, modTime=1)])
    receiver.feed([packet(DATA, pb.Packet.FromString(wanted[0]).ID, b"part")])
    receiver.close()
    assert transfer(source, target, beside).requested == 1
    assert described(target) == described(source)


def test_saved_list_of_files_is_ignored_after_a_boot_and_for_another_directory(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, beside = tmp_path / "source", str(tmp_path / "list")
    flat(source)
    transfer(source, target, beside)
    (target / "a").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(last, "_boot", lambda: "another")
        assert transfer(source, target, beside).requested == 1
    transfer(source, target, beside)
    target.rename(tmp_path / "before")
    target.mkdir()
    assert transfer(source, target, beside).requested == 4
    Path(beside).write_bytes(b"damaged")
    assert transfer(source, target, beside).requested == 0


def test_list_of_files_is_not_saved_if_a_file_had_another_size(tmp_path: Path, target: Path) -> None:
    beside = str(tmp_path / "list")
    for times in range(2):
        receiver = Receiver(str(target), beside)
        assert receiver.match([packet(STAT, path=b"f", mode=0o644, size=9, modTime=5), packet(STAT)]) is None, times
        receiver.feed([packet(STAT, path=b"f", mode=0o644, size=9, modTime=5), packet(STAT)])
        assert receiver.requested == 1, times
        receiver.feed([packet(DATA, 0, b"short"), packet(DATA, 0), packet(FIN)])
        receiver.close()
        assert receiver.state == ""


def test_packets_after_a_list_of_files_equal_to_the_last_list_are_refused(tmp_path: Path, target: Path) -> None:
    source, beside = tmp_path / "source", str(tmp_path / "list")
    flat(source)
    transfer(source, target, beside)
    with contextlib.closing(Receiver(str(target), beside)) as receiver:
        root = os.open(source, os.O_RDONLY)
        assert receiver.match(list(_Sender(root).entries())) == [packet(FIN)]
        os.close(root)
        for raw in (packet(STAT, path=b"y", mode=0o644), packet(STAT), packet(DATA, 0, b"x")):
            with pytest.raises(BuildFailed):
                receiver.feed([raw])
    assert described(target) == described(source)


@pytest.mark.root
def test_devices_are_created_but_whiteouts_are_refused(target: Path) -> None:
    receiver = Receiver(str(target))
    receiver.feed([packet(STAT, path=b"null", mode=CHAR_DEVICE | 0o666, devmajor=1, devminor=3)])
    assert stat.S_ISCHR((target / "null").stat().st_mode)
    with pytest.raises(PermissionError):
        receiver.feed([packet(STAT, path=b"z", mode=CHAR_DEVICE | 0o666)])
    receiver.close()
    assert os.listdir(target) == ["null"]


@pytest.mark.root
def test_file_is_sent_again_if_its_owner_changed(target: Path) -> None:
    def send(uid: int) -> int:
        receiver = Receiver(str(target))
        raw = pb.Packet(type=STAT, stat=pb.Entry(path=b"f", mode=0o644, uid=uid, gid=7, modTime=9)).SerializeToString()
        for _ in receiver.feed([raw]):
            receiver.feed([packet(DATA, 0)])
        receiver.feed([packet(STAT), packet(FIN)])
        receiver.close()
        return receiver.requested

    assert send(5) == 1
    assert ((target / "f").stat().st_uid, (target / "f").stat().st_gid) == (5, 7)
    assert send(5) == 0
    assert send(6) == 1


NAMES = st.sampled_from(["a", "a.b", "a-", "b", "ab", "é", "z"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(trees=st.lists(st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map(tuple), st.integers(0, 3)), max_size=3))
def test_any_tree_can_be_updated_to_any_other_tree(
    trees: list[dict[tuple[str, ...], int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("trees")
    (base / "target").mkdir()
    for number, tree in enumerate(trees):
        source = base / f"source{number}"
        source.mkdir()
        for parts, kind in tree.items():
            path = source.joinpath(*parts)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == 0:
                    path.mkdir()
                elif kind == 1:
                    path.symlink_to("/".join(parts))
                else:
                    path.write_text(f"{parts}{kind}")
                os.utime(path, ns=(kind, kind * 10**9), follow_symlinks=False)
            except OSError:
                continue  # another entry has the name
        transfer(source, base / "target")
        assert described(base / "target") == described(source)


@given(st.integers(0, 0o7777), st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR]))
def test_modes_are_converted_without_loss(permissions: int, kind: int) -> None:
    assert unix_mode(go_mode(kind | permissions)) == kind | permissions


def test_metadata_with_characters_not_allowed_in_headers_is_encoded() -> None:
    assert encode_metadata("k", ["a b", "c"]) == [("k", "a b"), ("k", "c")]
    assert encode_metadata("k", ["a b", "é%"]) == [("k-encoded", "1"), ("k", "a+b"), ("k", "%C3%A9%25")]
    assert encode_metadata("k", ["a\nb"]) == [("k-encoded", "1"), ("k", "a%0Ab")]
    assert encode_metadata("k", [" a"]) == [("k-encoded", "1"), ("k", "+a")]
