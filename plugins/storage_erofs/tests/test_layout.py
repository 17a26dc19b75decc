"""The driver's files on disk, options, and recovery from crashes and damage. The tests need no mkfs.erofs, mounts or
root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from orlop_sdk import Conflict, DriverError, InvalidParameter, Mount, StorageContext, Usage
from orlop_sdk.testing.durability import no_descriptors_left, recorded
from orlop_storage_erofs import Erofs, driver, host
from orlop_storage_erofs.options import Options, check_options, mkfs_command, parse_options

MKFS = "/sbin/mkfs.erofs"


@pytest.fixture(autouse=True)
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a host with mkfs.erofs, whose kernel mounts images as files."""
    monkeypatch.setattr(driver, "check_installed", lambda: MKFS)
    monkeypatch.setattr(driver, "probe", lambda *_: False)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "erofs"
    path.mkdir()
    with no_descriptors_left():
        yield path


def opened(root: Path, **options: str) -> Erofs:
    return Erofs(StorageContext(str(root), tuple(options.items())))


async def layer(erofs: Erofs, name: str, parent: str | None = None, content: bytes = b"tar") -> Path:
    """A committed layer, with files like those of the kernel and mkfs.erofs."""
    await erofs.prepare("pull", parent)
    target = await erofs.stream_target("pull")
    directory = Path(target.directory)
    (directory / "layer.erofs").write_bytes(b"index")
    if target.keep:
        (directory / target.keep).write_bytes(content)
    await erofs.stream_written("pull", Usage(7, 3))
    await erofs.commit("pull", name)
    return directory


def test_layers_are_mounted_below_the_overlay(root: Path) -> None:
    async def main() -> None:
        erofs = opened(root)
        one = await layer(erofs, "one")
        two = await layer(erofs, "two", "one")
        await erofs.prepare("c", "two")
        device = f"device={one}/layer.tar"
        (alone,) = await erofs.mounts("one")
        assert alone == Mount("erofs", f"{one}/layer.erofs", "", ("ro", device))
        first, second, overlay = await erofs.mounts("c")
        assert first == Mount("erofs", f"{one}/layer.erofs", "", ("ro", device), f"{one}/diff")
        assert second.mountpoint == f"{two}/diff"
        container = (await erofs.describe("c"))["UpperDir"]
        assert overlay.type == "overlay" and overlay.mountpoint == overlay.target == ""
        assert {f"lowerdir={two}/diff:{one}/diff", f"upperdir={container}"} <= set(overlay.options)
        *_, overlay = await erofs.mounts("c", readonly=True)
        assert f"lowerdir={container}:{two}/diff:{one}/diff" in overlay.options
        assert not any(option.startswith("upperdir") for option in overlay.options)
        assert (await erofs.describe("c"))["LowerDir"] == f"{two}/layer.erofs:{one}/layer.erofs"
        assert await erofs.usage("one") == Usage(7, 3)

    trio.run(main)


def test_layer_is_synced_before_it_is_indexed(root: Path) -> None:
    async def main() -> tuple[Path, list[tuple[str, str]]]:
        with recorded() as steps:
            return await layer(opened(root), "one"), steps

    directory, steps = trio.run(main)
    indexed = steps.index(("rename", str(root / ".orlop/committed/one")))
    synced = {path for what, path in steps[:indexed] if what == "sync"}
    assert synced == {f"{directory}/{name}" for name in ("layer.erofs", "layer.tar", "image")} | {str(directory), str(root)}


def test_leftovers_of_a_crash_are_removed(root: Path) -> None:
    async def before() -> None:
        erofs = opened(root)
        await layer(erofs, "one")
        await erofs.prepare("half", None)
        Path((await erofs.stream_target("half")).directory, "layer.erofs").write_text("half")

    async def after() -> None:
        erofs = opened(root)
        assert sorted(await erofs.keys()) == ["half", "one"]
        await erofs.remove("half")
        assert await trio.to_thread.run_sync(erofs.trash.wait, 10)
        (mount,) = await erofs.mounts("one")
        assert mount.type == "erofs"

    trio.run(before)
    (root / ".orlop/staging/half/diff").mkdir(parents=True)
    (root / ".orlop/trash/old/diff").mkdir(parents=True)
    (root / ".orlop/active/lost").symlink_to("0" * 20)
    trio.run(after)
    assert (
        os.listdir(root / ".orlop/staging") == os.listdir(root / ".orlop/trash") == os.listdir(root / ".orlop/active") == []
    )
    assert len(os.listdir(root)) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("layer.erofs", None, "its file layer.erofs is missing"),
        ("layer.tar", None, "its file layer.tar is missing"),
        ("layer.tar", b"short", "its file layer.tar has 5 bytes instead of 3"),
        ("image", b"{", "its record is damaged"),
    ],
)
def test_damaged_layer_and_its_descendants_are_refused(root: Path, name: str, content: bytes | None, said: str) -> None:
    async def before() -> Path:
        erofs = opened(root)
        directory = await layer(erofs, "one")
        await erofs.prepare("c", "one")
        await layer(erofs, "sound")
        return directory

    async def after() -> None:
        erofs = opened(root)
        found = await erofs.audit()
        assert [(drift.kind, drift.id) for drift in found] == [("damaged", "one")] and said in found[0].text
        for key in ("one", "c"):
            with pytest.raises(DriverError, match=f"cannot use snapshot {key}: {said}"):
                await erofs.mounts(key)
        await erofs.mounts("sound")
        await erofs.remove("c")
        await erofs.remove("one")
        assert list(await erofs.audit()) == [] and list(await erofs.keys()) == ["sound"]

    directory = trio.run(before)
    (directory / name).unlink()
    if content is not None:
        (directory / name).write_bytes(content)
    trio.run(after)


def test_layer_digests_are_checked_once_after_each_start_of_the_daemon(root: Path) -> None:
    async def main() -> None:
        directory = await layer(opened(root, verify="digest"), "one")
        erofs = opened(root, verify="digest")
        await erofs.mounts("one")
        (directory / "layer.tar").write_bytes(b"bad")  # the damaged content has the length of the original
        await erofs.mounts("one")
        with pytest.raises(DriverError, match=r"cannot mount a layer: its file layer\.tar has been changed"):
            await opened(root, verify="digest").mounts("one")
        await opened(root).mounts("one")  # without the option, digests are not checked
        assert "has been changed" in (await opened(root).audit())[0].text

    trio.run(main)


def test_only_empty_directories_without_a_snapshot_are_discarded(root: Path) -> None:
    async def main() -> None:
        erofs = opened(root)
        await erofs.prepare("c", None)
        for name, file in (("empty", ""), ("written", "diff/file"), ("streamed", "layer.tar")):
            (root / name / "diff").mkdir(parents=True)
            if file:
                (root / name / file).touch()
        found = {drift.note: drift for drift in await erofs.audit()}
        assert {name: bool(drift.repair) for name, drift in found.items()} == {
            "empty": True,
            "written": False,
            "streamed": False,
        }
        for drift in found.values():
            await erofs.repair(drift)
        assert not (root / "empty").exists()
        assert (root / "written").exists() and (root / "streamed").exists()

    trio.run(main)


def test_new_layer_stream_removes_the_files_of_an_interrupted_stream(root: Path) -> None:
    async def main() -> None:
        await opened(root).prepare("pull", None)
        directory = Path((await opened(root).stream_target("pull")).directory)
        for name in ("layer.erofs", "layer.tar"):
            (directory / name).write_text("half")
        await opened(root).stream_written("pull", Usage(1))
        await opened(root, mode="full").stream_target("pull")
        assert os.listdir(directory) == ["diff"]

    trio.run(main)


def test_stream_into_a_committed_layer_is_refused(root: Path) -> None:
    async def main() -> None:
        erofs = opened(root)
        await layer(erofs, "one")
        with pytest.raises(Conflict, match="cannot unpack into snapshot one: it is committed"):
            await erofs.stream_target("one")
        with pytest.raises(Conflict):
            await erofs.stream_written("one", Usage(0))

    trio.run(main)


def test_128_layers_fit_in_the_mount_options(root: Path) -> None:
    async def main() -> None:
        erofs, below = opened(root), None
        for number in range(128):
            await layer(erofs, f"l{number}", below)
            below = f"l{number}"
        await erofs.prepare("c", below)
        assert len(await erofs.mounts("c", volatile=True)) == 129
        await layer(erofs, "l128", below)
        with pytest.raises(DriverError, match="max depth exceeded, 128 layers is the most"):
            await erofs.prepare("d", "l128")

    trio.run(main)


# --- options and the host


def test_storage_options_determine_the_arguments_of_mkfs() -> None:
    assert parse_options(()) == Options("index", "", "auto", "none")
    full = parse_options((("mode", "full"), ("compression", "zstd,level=9"), ("mount", "loop"), ("verify", "digest")))
    assert full == Options("full", "zstd,level=9", "loop", "digest")
    assert mkfs_command(MKFS, Options(), "i") == (MKFS, "--quiet", "--aufs", "--tar=i", "i")
    assert mkfs_command(MKFS, full, "i") == (MKFS, "--quiet", "--aufs", "--tar=f", "-zzstd,level=9", "-C65536", "i")
    for name, value in (
        ("mode", "half"),
        ("compression", "lz4 -x"),
        ("compression", "zstd"),
        ("mount", "fuse"),
        ("verify", "yes"),
        ("size", "1G"),
        ("colour", "red"),
    ):
        with pytest.raises(InvalidParameter, match=rf"erofs\.{name}\b"):
            parse_options(((name, value),))
    with pytest.raises(InvalidParameter, match="must not contain ':'"):
        Erofs(StorageContext("/data:root"))


def test_missing_requirements_are_reported_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.shutil, "which", lambda *_, **__: None)
    with pytest.raises(DriverError, match=r"mkfs\.erofs is not installed; install erofs-utils 1\.8 or newer"):
        check_options(())
    monkeypatch.setattr(host.shutil, "which", lambda *_, **__: MKFS)
    monkeypatch.setattr(host, "_has_filesystem", lambda: False)
    with pytest.raises(DriverError, match="this kernel has no EROFS"):
        check_options(())
    monkeypatch.setattr(host, "_has_filesystem", lambda: True)
    check_options(())


def test_old_mkfs_or_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match=r"erofs-utils 1\.8 or newer is needed.*: no --tar"):
        host.probe(("/bin/sh", "-c", "echo no --tar >&2; exit 1"), str(tmp_path), "layer.tar", "layer.erofs", "auto")
    with pytest.raises(DriverError, match=r"this kernel does not mount its images .*as a file: .*Use Linux 6.12"):
        host.probe(("/bin/sh", "-c", "echo no image > layer.erofs"), str(tmp_path), "layer.tar", "layer.erofs", "file")
