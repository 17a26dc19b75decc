"""The sandboxed unpack worker, started in the same way as by the daemon: real namespaces, real root, hostile archives."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import signal
import socket
import stat
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import zstandard

from orlop_engine.processes.zygote import Zygote
from orlop_engine.unpacking import Limits, Unpacked, copy_files, copy_up, unpack
from orlop_sdk import DriverError, InvalidParameter, Mount, UnpackTarget
from orlop_sdk.filecopies import Attributes, Batch, Helper

pytestmark = pytest.mark.root

_CHILD = "import socket, sys; from orlop_monitor.unpack.worker import run; run(socket.socket(fileno=int(sys.argv[1])))"


class Spawner:
    """Replaces the zygote: starts the worker's entry point in a new process."""

    def __init__(self) -> None:
        self.children: list[subprocess.Popen[bytes]] = []

    async def spawn(self, entry: str, connection: socket.socket) -> int:
        assert entry == "unpack"
        fd = connection.fileno()
        command = [sys.executable, "-c", _CHILD, str(fd)]
        child = subprocess.Popen(command, pass_fds=[fd])  # noqa: ASYNC220 - a fork and an exec, in a test
        self.children.append(child)
        return child.pid

    def reap(self) -> list[int]:
        return [child.wait(5) for child in self.children]


def member(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(content), 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


async def chunks(data: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def run(data: bytes, directory: Path, *, overlay: bool = True, **options: Any) -> Unpacked:
    async def main() -> Unpacked:
        return await unpack(spawner, chunks(data), UnpackTarget(str(directory), overlay), **options)

    spawner = Spawner()
    try:
        return trio.run(main)
    finally:
        spawner.reap()


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A layer directory, next to files that must not change."""
    (tmp_path / "outside").write_text("untouched")
    (tmp_path / "layer").mkdir()
    return tmp_path


def assert_contained(world: Path) -> None:
    assert sorted(os.listdir(world)) == ["layer", "outside"]
    assert (world / "outside").read_text() == "untouched"
    assert os.stat(world / "outside").st_nlink == 1
    assert "orlop" not in Path("/proc/self/mountinfo").read_text().split()


@pytest.mark.parametrize(
    "compress",
    [lambda data: data, gzip.compress, bz2.compress, lzma.compress, zstandard.compress],
    ids=["none", "gzip", "bzip2", "xz", "zstd"],
)
def test_diff_id_of_a_layer_is_independent_of_its_compression(world: Path, compress: Any) -> None:
    data = archive(member("etc", tarfile.DIRTYPE), member("etc/motd", content=b"hello" * 100_000, uid=7, gid=8, mode=0o4711))
    done = run(compress(data), world / "layer")
    assert done == Unpacked("sha256:" + hashlib.sha256(data).hexdigest(), len(data), 2)
    info = os.stat(world / "layer/etc/motd")
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode), info.st_size) == (7, 8, 0o4711, 500_000)


def test_worker_reads_the_blob_from_a_descriptor(world: Path) -> None:
    async def main() -> Unpacked:
        with open(blob, "rb") as file:
            return await unpack(spawner, file.fileno(), UnpackTarget(str(world / "layer"), True), progress=seen.append)

    seen: list[int] = []
    blob = world / "outside"
    blob.write_bytes(gzip.compress(archive(member("a", content=b"x"))))
    spawner = Spawner()
    assert trio.run(main).entries == 1
    assert spawner.reap() != []
    assert os.listdir(world / "layer") == ["a"]


@pytest.mark.parametrize(
    "members",
    [
        [member("../outside", content=b"!")],
        [member("a/../../outside", content=b"!")],
        [member("link", tarfile.LNKTYPE, linkname="../outside")],
        [member(".wh...", content=b"")],
        [member("a/.wh..", content=b"")],
        [member("x" * 5000, content=b"")],
        [member("/".join("d" for _ in range(300)), content=b"")],
        [member("hard", tarfile.LNKTYPE, linkname="missing")],
        [member("self", tarfile.LNKTYPE, linkname="self")],
        [member("odd", b"V")],
    ],
    ids=[
        "dotdot",
        "inner-dotdot",
        "hardlink-out",
        "wh-dotdot",
        "wh-dot",
        "long",
        "deep",
        "hardlink-missing",
        "self",
        "type",
    ],
)
def test_layer_with_a_hostile_entry_is_refused_and_changes_no_other_files(
    world: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    with pytest.raises(InvalidParameter, match="cannot unpack layer: "):
        run(archive(*members), world / "layer")
    assert_contained(world)


@pytest.mark.parametrize("overlay", [True, False])
def test_links_in_a_layer_never_lead_outside_of_its_directory(world: Path, overlay: bool) -> None:
    up = "../" * 20
    run(
        archive(
            member("abs", tarfile.SYMTYPE, linkname=str(world)),
            member(f"{str(world)[1:]}", tarfile.DIRTYPE),
            member("abs/outside", content=b"through an absolute link"),
            member("rel", tarfile.SYMTYPE, linkname=f"{up}{str(world)[1:]}"),
            member("rel/second", content=b"through a relative one"),
            member("dir", tarfile.DIRTYPE),
            member("dir", tarfile.SYMTYPE, linkname=str(world)),
            member("dir/third", content=b"a directory that became a link"),
            member("file", tarfile.SYMTYPE, linkname=str(world / "outside")),
            member("file", content=b"replaces the link, not what it names"),
            member("hard", tarfile.LNKTYPE, linkname="abs/outside"),
            member("/absolute", content=b"in the root"),
        ),
        world / "layer",
        overlay=overlay,
    )
    assert_contained(world)
    inside = world / "layer" / str(world)[1:]
    assert (inside / "outside").read_text() == "through an absolute link"
    assert sorted(os.listdir(inside)) == ["outside", "second", "third"]
    assert (world / "layer/file").read_text() == "replaces the link, not what it names"
    assert (world / "layer/absolute").exists()
    assert os.stat(world / "layer/hard").st_ino == os.stat(inside / "outside").st_ino


def test_unpacking_stops_at_the_limits_of_size_and_number_of_entries(world: Path) -> None:
    zeros = gzip.compress(archive(member("zeros", content=bytes(30 << 20))))
    with pytest.raises(InvalidParameter, match="more than 1048576 bytes uncompressed"):
        run(zeros, world / "layer", limits=Limits(size=1 << 20))
    with pytest.raises(InvalidParameter, match="more than 10 entries"):
        run(archive(*(member(f"f{n}") for n in range(11))), world / "layer", limits=Limits(entries=10))
    assert_contained(world)


def test_unpack_of_a_damaged_layer_fails(world: Path) -> None:
    whole = gzip.compress(archive(member("a", content=os.urandom(100_000))))
    flipped = whole[:2000] + bytes(100) + whole[2100:]
    for broken in (whole[:-50_000], flipped, b"not a tar archive" * 100, b"\x1f\x8bgarbage"):
        with pytest.raises(
            InvalidParameter, match=r"cannot unpack layer: (damaged|archive.tar: invalid tar header|unexpected EOF)"
        ):
            run(broken, world / "layer")
    with pytest.raises(InvalidParameter, match=r"invalid diffID: expected sha256:00, got sha256:"):
        run(whole, world / "layer", expect_diff_id="sha256:00")


def test_attributes_and_special_files_are_unpacked(world: Path) -> None:
    capability = bytes.fromhex("0100000202000000000000000000000000000000")
    pax = {"SCHILY.xattr.security.capability": capability.decode("latin-1"), "SCHILY.xattr.trusted.overlay.redirect": "/etc"}
    run(
        archive(
            member("ping", content=b"elf", pax_headers=pax, mode=0o755),
            member("dev", tarfile.DIRTYPE, mode=0o1777, mtime=1234567890.25),
            member("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666, uid=3),
            member("dev/fifo", tarfile.FIFOTYPE, mode=0o600),
            member("dev/disk", tarfile.BLKTYPE, devmajor=8, devminor=1),
        ),
        world / "layer",
    )
    layer = world / "layer"
    assert os.listxattr(layer / "ping") == ["security.capability"]
    assert os.getxattr(layer / "ping", "security.capability") == capability
    null, fifo = os.stat(layer / "dev/null"), os.stat(layer / "dev/fifo")
    assert (null.st_rdev, null.st_uid, stat.S_IMODE(null.st_mode)) == (os.makedev(1, 3), 3, 0o666)
    assert stat.S_ISFIFO(fifo.st_mode)
    assert os.stat(layer / "dev").st_mtime_ns == 1_234_567_890_250_000_000
    assert stat.S_IMODE(os.stat(layer / "dev").st_mode) == 0o1777


def test_whiteouts_of_a_layer_become_whiteouts_of_overlayfs(world: Path) -> None:
    run(
        archive(
            member("d", tarfile.DIRTYPE),
            member("d/.wh.gone"),
            member("o", tarfile.DIRTYPE),
            member("o/new"),
            member("o/.wh..wh..opq"),
            member(".wh..wh.plnk"),
            member(".wh.again"),
            member("again", tarfile.DIRTYPE),
            member(".wh.implied"),
            member("implied/file"),
            member("kept", tarfile.DIRTYPE),
            member("kept/file"),
            member(".wh.kept"),
        ),
        world / "layer",
    )
    layer = world / "layer"
    gone = os.stat(layer / "d/gone")
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0
    for opaque in ("o", "again", "implied", "kept"):
        assert os.getxattr(layer / opaque, "trusted.overlay.opaque") == b"y"
    assert os.listdir(layer / "o") == ["new"] and os.listdir(layer / "kept") == ["file"]
    assert sorted(os.listdir(layer)) == ["again", "d", "implied", "kept", "o"]


def test_sandboxed_worker_can_access_only_the_layer(world: Path) -> None:
    """A child process enters the sandbox, and tries operations that hostile code in a worker could try."""
    script = """
import ctypes, os, socket
from orlop_monitor.unpack.sandbox import confine, enter, own_mounts
target = os.getcwd()
own_mounts(); enter(target); confine(file_size=1 << 30, trusted_xattrs=True)
libc = ctypes.CDLL(None, use_errno=True)
assert sorted(os.listdir("/")) == ["sd"], os.listdir("/")
for attempt in (
    lambda: os.open("/sd", os.O_RDONLY),                 # nodev
    lambda: socket.socket(),
    lambda: os.execv("/sd", ["x"]),
    lambda: os.kill(os.getppid(), 0),
    lambda: os.chroot("."),
    lambda: os.unshare(0x20000) if hasattr(os, "unshare") else os.chroot("."),
):
    try:
        attempt()
    except (PermissionError,):
        pass
    else:
        raise SystemExit("not refused")
assert libc.mount(b"none", b"/", b"tmpfs", 0, None) < 0 and ctypes.get_errno() == 1
os.setxattr("/", "trusted.overlay.opaque", b"y")
print("walled in")
"""
    os.mknod(world / "layer/sd", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    result = subprocess.run([sys.executable, "-c", script], cwd=world / "layer", capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("walled in\n", "")


def test_worker_forked_by_the_zygote_unpacks_a_layer(world: Path) -> None:
    async def main() -> Unpacked:
        async with Zygote.start(str(world / "exec")) as zygote:
            return await unpack(zygote, chunks(gzip.compress(data)), UnpackTarget(str(world / "layer"), True))

    data = archive(member("etc", tarfile.DIRTYPE), member("etc/motd", content=b"hello"))
    assert trio.run(main).diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert (world / "layer/etc/motd").read_text() == "hello"


def test_cancelled_unpack_kills_its_worker(world: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield archive(member("a"))[:512]
        started.set()
        await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as nursery:

            async def job() -> None:
                await unpack(spawner, endless(), UnpackTarget(str(world / "layer"), True))

            nursery.start_soon(job)
            await started.wait()
            nursery.cancel_scope.cancel()

    spawner, started = Spawner(), trio.Event()
    trio.run(main)
    assert spawner.reap() == [-signal.SIGKILL]


def test_unpack_raises_the_error_of_its_source_unchanged(world: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield archive(member("a"))[:512]
        raise ConnectionError("the registry went away")

    async def main() -> None:
        await unpack(spawner, broken(), UnpackTarget(str(world / "layer"), True))

    spawner = Spawner()
    with pytest.raises(ConnectionError, match="registry"):
        trio.run(main)
    spawner.reap()


def test_full_disk_is_reported_as_an_error_of_the_host(world: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(world / "layer")], check=True)
    try:
        with pytest.raises(DriverError, match="cannot unpack layer: big: No space left on device"):
            run(archive(member("big", content=os.urandom(4 << 20))), world / "layer")
    finally:
        subprocess.run(["umount", str(world / "layer")], check=True)


def test_files_of_the_image_are_copied_into_an_empty_volume(world: Path) -> None:
    layer = world / "layer"
    run(
        archive(
            member("data", tarfile.DIRTYPE, uid=5, gid=6, mode=0o2750),
            member("data/a", content=b"one", uid=5),
            member("data/sub", tarfile.DIRTYPE),
            member("data/sub/b", tarfile.LNKTYPE, linkname="data/a"),
            member("data/link", tarfile.SYMTYPE, linkname="/etc/passwd"),
            member("way", tarfile.SYMTYPE, linkname="/data"),
        ),
        layer,
    )
    mounts = [Mount("bind", str(layer), "", ("bind", "ro", "rprivate"))]

    async def copy(path: str, target: str) -> bool:
        os.makedirs(world / target, exist_ok=True)
        directory = os.open(world / target, os.O_RDONLY)
        try:
            return await copy_up(spawner, mounts, path, directory, str(world / "scratch"))
        finally:
            os.close(directory)

    (world / "scratch").mkdir()
    spawner = Spawner()
    assert trio.run(copy, "/way", "volume") is True
    info = os.stat(world / "volume")
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (5, 6, 0o2750)
    assert (world / "volume/a").read_text() == "one"
    assert os.stat(world / "volume/a").st_ino == os.stat(world / "volume/sub/b").st_ino
    assert os.readlink(world / "volume/link") == "/etc/passwd"
    assert trio.run(copy, "/data", "volume") is False, "a volume with content is left alone"
    assert trio.run(copy, "/missing", "other") is False
    with pytest.raises(DriverError, match="cannot mount volume over existing file, file exists"):
        trio.run(copy, "/data/a", "other")
    spawner.reap()
    assert os.listdir(world / "scratch") == []


def test_worker_copies_files_with_all_attributes(world: Path) -> None:
    """In its sandbox, the worker keeps the capabilities that it needs to copy owners and extended attributes."""
    (world / "new").mkdir()
    file = world / "layer" / "file"
    file.write_text("content")
    os.chown(file, 7, 8)
    file.chmod(0o4750)
    xattrs = {"user.note": b"u", "trusted.note": b"t", "security.capability": bytes.fromhex("0100000200200000" + "00" * 12)}
    for key, value in xattrs.items():
        os.setxattr(file, key, value)
    os.utime(file, ns=(10**18, 10**18 + 5))
    spawner = Spawner()
    directories = [os.open(world / name, os.O_RDONLY | os.O_DIRECTORY) for name in ("layer", "new")]

    def own(connection: socket.socket) -> tuple[str, list[str]] | None:
        helper: Helper[str] = Helper(lambda: connection)
        assert helper.give(directories[0], directories[1], Batch([("file", 0o4750), ("missing", 0)], Attributes()), "label")
        try:
            return helper.take(wait=True)
        finally:
            helper.close()

    async def main() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy_files, spawner, theirs.fileno())
                assert await trio.to_thread.run_sync(own, ours) == ("label", ["missing"])

    try:
        trio.run(main)
    finally:
        spawner.reap()
        for fd in directories:
            os.close(fd)
    info = (world / "new/file").stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode), info.st_mtime_ns) == (7, 8, 0o4750, 10**18 + 5)
    assert {key: os.getxattr(world / "new/file", key) for key in os.listxattr(world / "new/file")} == xattrs
    assert (world / "new/file").read_text() == "content"
