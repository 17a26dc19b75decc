"""Layers that are not unpacked: the unpack worker normalizes the tar, and a sandboxed mkfs.erofs makes an image of the tar.

The same archive is also unpacked to a directory. Both must show the same files."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import tarfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from orlop_engine.processes.zygote import Zygote
from orlop_engine.unpacking import Limits, Unpacked, unpack
from orlop_monitor.unpack.errors import UnpackError
from orlop_monitor.unpack.extract import extract
from orlop_monitor.unpack.normalize import normalize
from orlop_monitor.unpack.request import Unpack
from orlop_monitor.unpack.stream import Uncompressed
from orlop_sdk import DriverError, InvalidParameter, StreamTarget, UnpackTarget, Usage
from orlop_sdk.files import tree_usage
from orlop_sdk.linux import detached_mount

from .test_unpack_worker import Spawner, archive, chunks, member

pytestmark = pytest.mark.root

MKFS = ("/usr/bin/mkfs.erofs", "--quiet", "--aufs", "--tar=i", "layer.erofs")
D, L, S = tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
ORIGIN = "trusted.overlay.origin"
Members = list[tuple[tarfile.TarInfo, bytes]]


def run(data: bytes, target: StreamTarget | UnpackTarget, **options: Any) -> Unpacked:
    async def main() -> Unpacked:
        return await unpack(spawner, chunks(data), target, **options)

    spawner = Spawner()
    try:
        return trio.run(main)
    finally:
        spawner.reap()


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    directory = tmp_path / "layer"
    directory.mkdir()
    (tmp_path / "outside").write_text("untouched")
    return directory


def indexed(layer: Path) -> StreamTarget:
    return StreamTarget(str(layer), MKFS, "layer.tar")


def shown(top: str) -> dict[str, tuple[Any, ...]]:
    """All properties of a tree that a layer can express. A hard link is shown as the first name of its file."""
    found: dict[str, tuple[Any, ...]] = {}
    first: dict[int, str] = {}
    for directory, names, files in os.walk(os.fsencode(top)):
        names.sort()
        for name in sorted(names + files):
            path = os.path.join(directory, name)
            info = os.lstat(path)
            relative = os.fsdecode(os.path.relpath(path, os.fsencode(top)))
            kind = stat.S_IFMT(info.st_mode)
            content: Any = b""
            xattrs: dict[str, bytes] = {}
            # mkfs.erofs adds an empty trusted.overlay.origin to directories with whiteouts
            if kind == stat.S_IFREG:
                content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            if kind in (stat.S_IFREG, stat.S_IFDIR):
                xattrs = {key: os.getxattr(path, key) for key in os.listxattr(path) if key != ORIGIN}
            whiteout = kind == stat.S_IFCHR and not info.st_rdev
            mode = 0 if whiteout or kind == stat.S_IFLNK else stat.S_IMODE(info.st_mode)
            mtime = 0 if kind == stat.S_IFDIR or whiteout else info.st_mtime_ns
            link = "" if kind == stat.S_IFDIR else first.setdefault(info.st_ino, relative)
            found[relative] = (kind, mode, info.st_uid, info.st_gid, info.st_rdev, content, mtime, link, xattrs)
    return found


def imaged(layer: Path) -> dict[str, tuple[Any, ...]]:
    fd = detached_mount("erofs", str(layer / "layer.erofs"), ("ro", f"device={layer / 'layer.tar'}"))
    try:
        return shown(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def compare(tmp_path: Path, data: bytes) -> Unpacked:
    """Make an image, unpack to a directory, and compare."""
    layer, plain = tmp_path / "image", tmp_path / "plain"
    for directory in (layer, plain):
        subprocess.run(["rm", "-rf", str(directory)], check=True)
        directory.mkdir(mode=0o755)
    made = run(data, indexed(layer))
    expected = run(data, UnpackTarget(str(plain), True))
    assert imaged(layer) == shown(str(plain))
    assert (made.diff_id, made.size, made.entries) == (expected.diff_id, expected.size, expected.entries)
    assert made.usage == tree_usage(str(plain))
    return made


CAPABILITY = os.fsdecode(bytes.fromhex("0100000202000000000000000000000000000000"))
ACL = os.fsdecode(bytes.fromhex("0200000001000600ffffffff02000600e803000004000400ffffffff10000600ffffffff20000400ffffffff"))
XATTRS = {"SCHILY.xattr.user.a": "1", "SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.security.selinux": "x"}

CASES: dict[str, Members] = {
    "nothing": [],
    "root": [member("./", D, mode=0o700, uid=5), member("a")],
    "owners and modes": [
        member("a", content=b"1", uid=7, gid=8, mode=0o4755),
        member("d", D, uid=3_000_000, gid=4, mode=0o1777),
        member("d/big", uid=4_000_000_000),
    ],
    "times": [member("a", mtime=1_234_567_890.123456789), member("old", mtime=-5), member("far", mtime=2**33 + 1)],
    "devices": [
        member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        member("disk", tarfile.BLKTYPE, devmajor=259, devminor=300000),
        member("pipe", tarfile.FIFOTYPE, mode=0o600, uid=1),
    ],
    "links": [
        member("bin/sh", content=b"elf", mode=0o755),
        member("bin/bash", L, linkname="bin/sh"),
        member("bin/rel", S, linkname="sh"),
        member("bin/linked", L, linkname="bin/rel"),
        member("bin/sh", content=b"another"),
        member("long", S, linkname="x" * 300),
    ],
    "names": [
        member("caf\u00e9\udcff\udcfe", content=b"1"),
        member("new\nline", content=b"2"),
        member("n" * 255, content=b"3"),
        member("/".join(["d" * 100] * 20), content=b"4"),
        member("/absolute", content=b"5"),
        member("./a/./b/../c", content=b"6"),
        member("b\\s l'a\"sh", content=b"7"),
    ],
    "xattrs": [
        member("ping", mode=0o755, pax_headers={"SCHILY.xattr.security.capability": CAPABILITY}),
        member("acl", pax_headers={"SCHILY.xattr.system.posix_acl_access": ACL}, mode=0o664),
        member("some", pax_headers=XATTRS),
        member("dir", D, pax_headers=XATTRS),
        member("link", S, linkname="some", pax_headers=XATTRS),
        member("large", pax_headers={f"SCHILY.xattr.user.{n}": str(n) * 1000 for n in range(3)}),
    ],
    "replaced": [
        member("a", content=b"first"),
        member("a", content=b"second"),
        member("d/x"),
        member("d", content=b"a file now"),
        member("f", content=b"a file"),
        member("f", D, mode=0o700),
        member("f/in", content=b"it"),
        member("s", S, linkname="f"),
        member("s", D),
        member("s/y"),
        member("twice", D, mode=0o700, pax_headers={"SCHILY.xattr.user.a": "1"}),
        member("twice/kept"),
        member("twice", D, mode=0o755, uid=9),
        member("hard", L, linkname="a"),
        member("a", L, linkname="f/in"),
        member("n", tarfile.FIFOTYPE),
        member("n", S, linkname="a"),
        member("n", L, linkname="a"),
    ],
    "through links": [
        member("usr/lib", D),
        member("lib", S, linkname="usr/lib"),
        member("lib/a.so", content=b"1"),
        member("abs", S, linkname="/usr"),
        member("abs/lib/b.so", content=b"2"),
        member("up", S, linkname="../../../usr"),
        member("up/c", content=b"3"),
        member("chain", S, linkname="abs/lib"),
        member("chain/d.so", L, linkname="lib/a.so"),
        member("usr/here", S, linkname="."),
        member("usr/here/here/e", content=b"5"),
        member("lib", S, linkname="nowhere-any-more"),
    ],
    "whiteouts": [
        member("d", D),
        member("d/.wh.gone"),
        member("o", D, uid=3),
        member("o/new"),
        member("o/.wh..wh..opq"),
        member(".wh..wh.plnk"),
        member(".wh.again"),
        member("again", D, mode=0o700),
        member(".wh.implied"),
        member("implied/file"),
        member("kept", D),
        member("kept/file"),
        member(".wh.kept"),
        member(".wh.file"),
        member("file", content=b"stays"),
        member("other", content=b"stays too"),
        member(".wh.other"),
        member("deep/er/.wh.x"),
        member(".wh." + "n" * 200),
    ],
    "sizes": [
        member("empty"),
        *(member(f"s{size}", content=os.urandom(size)) for size in (1, 511, 512, 513, 4095, 4096, 4097, 1 << 20, 3_000_001)),
    ],
    "many": [member(f"d{n // 97}/f{n}", content=b"%d" % n) for n in range(3000)],
}


@pytest.mark.parametrize("case", CASES)
def test_streamed_image_shows_the_same_files_as_an_unpacked_layer(tmp_path: Path, case: str) -> None:
    compare(tmp_path, archive(*CASES[case]))


class Plain:
    """A plain file; implements `normalize.Output`."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")

    def write(self, data: bytes | memoryview) -> None:
        self.file.write(data)

    def zeros(self, size: int) -> None:
        self.file.write(bytes(size))


def attempt(directory: Path, members: Members, normalized: Path | None = None) -> str:
    """Unpack or normalize in this process. Returns "" or the kind of refusal."""
    source = directory.with_suffix(".source")
    source.write_bytes(archive(*members))
    with source.open("rb") as file, Uncompressed(file.fileno(), 1 << 30) as stream:
        try:
            if normalized is not None:
                out = Plain(normalized)
                with out.file:
                    normalize(stream, out, Limits())
            else:
                shutil.rmtree(directory, ignore_errors=True)
                directory.mkdir()
                root = os.open(directory, os.O_RDONLY)
                try:
                    extract(stream, root, Unpack(overlay_whiteouts=True))
                finally:
                    os.close(root)
            return ""
        except (UnpackError, OSError):
            return "refused"


def some_member(dice: random.Random) -> tuple[tarfile.TarInfo, bytes]:
    """A random member. Its name is one of few, so that entries, links and whiteouts often have the same name."""
    names = ["a", "b", "a/x", "a/y", "b/x", "a/x/p", "b/x/p", "c", "c/x"]
    name = dice.choice(names)
    kind = dice.choice(["file", "file", "dir", "dir", "symlink", "hardlink", "fifo"])
    if kind == "file":
        return member(name, content=dice.randbytes(dice.randrange(700)), mode=dice.choice([0o644, 0o755]))
    if kind == "dir":
        return member(name, D, mode=dice.choice([0o755, 0o700]))
    if kind == "symlink":
        return member(name, S, linkname=dice.choice(["a", "/b", "../c", "x", "c/x", "/"]))
    if kind == "hardlink":
        # The link's target must not be a file that the link removes first: with symlinks, only one of the two ways detects
        # this
        return member(name, L, linkname=dice.choice([other for other in names if not other.startswith(f"{name}/")]))
    return member(name, tarfile.FIFOTYPE)


@pytest.mark.parametrize("seed", range(15))
def test_streamed_image_equals_the_unpacked_layer_for_any_order_of_entries(tmp_path: Path, seed: int) -> None:
    """Entries replace other entries, also through links that are replaced. Unpacking and streaming refuse the same
    archives."""
    dice, kept = random.Random(seed), Members()
    image, plain, tar = tmp_path / "image", tmp_path / "plain", tmp_path / "image/layer.tar"
    image.mkdir()
    mask = os.umask(0)
    try:
        for _ in range(50):
            tried = [*kept, some_member(dice)]
            results = attempt(image, tried, tar), attempt(plain, tried)
            last = tried[-1][0]
            said = [(each.name, each.type, each.linkname) for each, _ in tried]
            assert results[0] == results[1], f"{last.name} {last.type!r} {last.linkname} of {said}"
            if not results[0]:
                kept = tried
        assert (attempt(image, kept, tar), attempt(plain, kept)) == ("", "")
    finally:
        os.umask(mask)
    with tar.open("rb") as file:
        subprocess.run(MKFS, stdin=file, cwd=image, check=True)
    assert imaged(image) == shown(str(plain)), [(each.name, each.type, each.linkname) for each, _ in kept]


# --- the program's sandbox

REPORT = """
import ctypes, json, os, resource, socket, sys
sys.stdin.buffer.read()
libc = ctypes.CDLL(None, use_errno=True)
def refused(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return 0
caps = ctypes.create_string_buffer(24)
libc.capget(ctypes.byref(ctypes.create_string_buffer(bytes.fromhex("2205082000000000"))), caps)
print(json.dumps({
    "root": sorted(os.listdir("/")), "here": sorted(os.listdir(".")), "cwd": os.getcwd(), "env": dict(os.environ),
    "caps": caps.raw.hex(), "fds": [fd for fd in range(3, 64) if not refused(lambda: os.fstat(fd))],
    "socket": refused(socket.socket), "usr": refused(lambda: open("/usr/x", "w")), "top": refused(lambda: open("/x", "w")),
    "mount": libc.mount(b"none", b"/", b"tmpfs", 0, None), "chroot": refused(lambda: os.chroot(".")),
    "kill": refused(lambda: os.kill(os.getppid(), 9)), "suid": bool(os.statvfs(".").f_flag & os.ST_NOSUID),
    "memory": resource.getrlimit(resource.RLIMIT_AS)[1], "cpu": resource.getrlimit(resource.RLIMIT_CPU)[1],
}), file=open("report", "w"))
"""
SMALL = archive(member("a", content=b"1"))
LARGE = archive(member("a", content=bytes(20 << 20)))


def script(layer: Path, text: str, *words: str) -> StreamTarget:
    return StreamTarget(str(layer), ("/usr/bin/python3", "-c", text, *words))


def test_mkfs_erofs_has_access_only_to_the_layer(layer: Path) -> None:
    run(SMALL, script(layer, REPORT))
    report = json.loads((layer / "report").read_text())
    assert set(report.pop("root")) <= {"bin", "sbin", "lib", "lib32", "lib64", "nix", "usr", "layer"}
    assert report.pop("env") == {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": ".", "LC_ALL": "C"}
    assert report == {
        "here": [],
        "cwd": "/layer",
        "caps": "0" * 48,
        "fds": [],
        "socket": errno.EPERM,
        "usr": errno.EROFS,
        "top": errno.EROFS,
        "mount": -1,
        "chroot": errno.EPERM,
        "kill": errno.EPERM,
        "suid": True,
        "memory": 2 << 30,
        "cpu": 900,
    }
    assert (layer.parent / "outside").read_text() == "untouched"
    assert "layer" not in Path("/proc/self/mountinfo").read_text()
    assert os.stat(layer / "report").st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text, data, said",
    [
        ("import sys; sys.stdin.buffer.read(); sys.exit('no such thing')", SMALL, "exit code 1: no such thing"),
        ("import sys; sys.exit('had enough')", LARGE, "exit code 1: had enough"),
        ("raise SystemExit", LARGE, "python3 ended early with exit code 0"),
        ("import sys; __import__('os').close(0); __import__('time').sleep(60)", LARGE, "python3 stopped reading"),
        ("import sys; sys.stdin.buffer.read(); x = bytes(3 << 30)", SMALL, "MemoryError"),
        ("import sys, os; sys.stdin.buffer.read(); os.abort()", SMALL, "was killed by SIGABRT"),
        ("import os; os.read(0, 1); [os.write(2, b'x' * 4096) for _ in range(16)]; os._exit(9)", SMALL, "exit code 9: xxx"),
        ("import os; os.write(2, b'No space left on device'); os._exit(1)", SMALL, "No space left on device"),
    ],
)
def test_failure_of_mkfs_erofs_is_reported(layer: Path, text: str, data: bytes, said: str) -> None:
    with pytest.raises(DriverError, match=f"(?s)cannot unpack layer: .*{said}"):
        run(data, script(layer, text))


def test_missing_mkfs_erofs_is_reported(layer: Path) -> None:
    with pytest.raises(DriverError, match=r"mkfs\.erofs ended early with exit code 126: cannot run it: .*No such file"):
        run(SMALL, StreamTarget(str(layer), ("/usr/bin/no/mkfs.erofs",)))


def _running(mark: str) -> bool:
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (directory / "cmdline").read_bytes().split(b"\0"):
                return True
        except (FileNotFoundError, ProcessLookupError):
            continue
    return False


def test_mkfs_erofs_is_killed_when_its_unpack_worker_dies(layer: Path) -> None:
    mark = f"orlop-test-{os.getpid()}"
    text = "import sys, time; sys.stdin.buffer.read(); open('reading-done', 'w'); time.sleep(300)"

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(unpack, spawner, chunks(SMALL), script(layer, text, mark)))
            with trio.fail_after(150):
                while not (layer / "reading-done").exists():  # noqa: ASYNC110 - another process makes it
                    await trio.sleep(0.02)
            assert _running(mark)
            nursery.cancel_scope.cancel()

    spawner = Spawner()
    trio.run(main)
    spawner.reap()
    deadline = time.monotonic() + 5
    while _running(mark):
        assert time.monotonic() < deadline, "the program outlived its worker"


def test_full_disk_is_reported(layer: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(layer)], check=True)
    try:
        with pytest.raises(DriverError, match="No space left on device"):
            run(LARGE, indexed(layer))
        with pytest.raises(DriverError, match="No space left on device"):
            noise = archive(member("a", content=os.urandom(3 << 20)))
            run(noise, StreamTarget(str(layer), ("/usr/bin/mkfs.erofs", "--quiet", "--tar=f", "layer.erofs")))
    finally:
        subprocess.run(["umount", str(layer)], check=True)


# --- hostile archives


@pytest.mark.parametrize(
    "members",
    [
        [member("../outside", content=b"!")],
        [member("a/../../outside", content=b"!")],
        [member("link", L, linkname="../outside")],
        [member(".wh...")],
        [member("a/.wh..")],
        [member("x" * 5000)],
        [member("x" * 256)],
        [member("/".join("d" for _ in range(300)))],
        [member("hard", L, linkname="missing")],
        [member("hard", L, linkname=".wh.gone"), member(".wh.gone")],
        [member("self", L, linkname="self")],
        [member("d", D), member("hard", L, linkname="d")],
        [member("d/f"), member("d", L, linkname="d/f")],
        [member("f"), member("f/below")],
        [member("loop", S, linkname="loop"), member("loop/below")],
        [member("empty", S, linkname="")],
        [member("odd", b"V")],
    ],
)
def test_error_about_a_hostile_entry_contains_the_name_of_the_entry(layer: Path, members: Members) -> None:
    with pytest.raises(InvalidParameter, match=r"cannot unpack layer: [^:]+: "):
        run(archive(*members), indexed(layer))
    assert sorted(os.listdir(layer.parent)) == ["layer", "outside"]


def test_decompression_bombs_are_stopped_at_the_limit(layer: Path) -> None:
    with pytest.raises(InvalidParameter, match="more than 1048576 bytes uncompressed"):
        run(gzip.compress(LARGE), indexed(layer), limits=Limits(size=1 << 20))
    with pytest.raises(InvalidParameter, match="more than 10 entries"):
        run(archive(*(member(f"f{n}") for n in range(11))), indexed(layer), limits=Limits(entries=10))
    hole = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": str(700 << 20)}
    sparse = [member(f"s{n}", content=b"0\n".ljust(512, b"\0"), pax_headers=hole) for n in range(2)]
    with pytest.raises(InvalidParameter, match="the sparse files are larger than 1073741824 bytes"):
        run(archive(*sparse), indexed(layer), limits=Limits(size=1 << 30))


def test_sparse_files_keep_their_holes(tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.write(b"head")
        file.truncate(50 << 20)
        file.seek(20 << 20)
        file.write(b"middle")
    tar = subprocess.run(["tar", "-S", "-cf", "-", "-C", str(tmp_path), "sparse"], capture_output=True, check=True).stdout
    assert len(tar) < 1 << 20
    compare(tmp_path, tar)
    assert os.stat(tmp_path / "image/layer.tar").st_blocks * 512 < 1 << 20


def test_damaged_stream_is_refused(layer: Path) -> None:
    whole = gzip.compress(archive(member("a", content=os.urandom(100_000))))
    for broken in (whole[:-50_000], whole[:2000] + bytes(100) + whole[2100:], b"not a tar archive" * 100):
        with pytest.raises(InvalidParameter, match=r"cannot unpack layer: (damaged|archive.tar: invalid|unexpected EOF)"):
            run(broken, indexed(layer))
    with pytest.raises(InvalidParameter, match=r"invalid diffID: expected sha256:00, got sha256:"):
        run(whole, indexed(layer), expect_diff_id="sha256:00")


def test_unpack_worker_forked_by_the_zygote_can_stream_a_layer(layer: Path) -> None:
    async def main() -> Unpacked:
        async with Zygote.start(str(layer.parent / "exec")) as zygote:
            return await unpack(zygote, chunks(gzip.compress(SMALL)), indexed(layer))

    done = trio.run(main)
    assert done == Unpacked(f"sha256:{hashlib.sha256(SMALL).hexdigest()}", len(SMALL), 1, Usage(1, 1))
    assert list(imaged(layer)) == ["a"]
