"""overlay2's files on disk, and recovery from crashes, power cuts and foreign files."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from orlop_sdk import DriverError, InvalidParameter, StorageContext, snapshots
from orlop_sdk.overlay import overlay_mount
from orlop_sdk.snapshots import SnapshotIndex
from orlop_sdk.testing.durability import no_descriptors_left, recorded
from orlop_storage_overlay2 import Overlay2, driver, host


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "overlay2"
    path.mkdir()
    with no_descriptors_left():
        yield path


def opened(root: Path) -> Overlay2:
    return Overlay2(StorageContext(str(root)))


async def _image_and_container(driver: Overlay2) -> None:
    await driver.prepare("pull", None)
    Path((await driver.unpack_target("pull")).directory, "file").write_text("1")
    await driver.commit("pull", "base")
    await driver.prepare("c", "base")


def test_files_on_disk_have_the_layout_of_dockerd(root: Path) -> None:
    async def main() -> dict[str, dict[str, str]]:
        driver = opened(root)
        await _image_and_container(driver)
        return {key: await driver.describe(key) for key in ("base", "c")}

    described = trio.run(main)
    base, container = (Path(described[key]["UpperDir"]).parent for key in ("base", "c"))
    assert described["c"] == {
        "LowerDir": str(base / "diff"),
        "MergedDir": str(container / "merged"),
        "UpperDir": str(container / "diff"),
        "WorkDir": str(container / "work"),
    }
    assert "LowerDir" not in described["base"]
    assert len(container.name) == 64
    assert sorted(os.listdir(base)) == ["committed", "diff"]
    assert sorted(os.listdir(container)) == ["diff", "work"]
    (link,) = os.listdir(root / "l")  # only committed layers have a short name
    assert len(link) == 26 and set(link) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
    assert os.readlink(root / "l" / link) == f"../{base.name}/diff"
    assert [oct(os.stat(path).st_mode & 0o777) for path in (container, container / "diff", container / "work")] == [
        "0o710",
        "0o755",
        "0o700",
    ]


def test_mount_options_disable_kernel_defaults_explicitly(root: Path) -> None:
    async def main() -> None:
        driver = opened(root)
        await _image_and_container(driver)
        (mount,) = await driver.mounts("c", volatile=True)
        for option in ("index=off", "xino=off", "metacopy=off", "redirect_dir=off", "nfs_export=off", "volatile"):
            assert option in mount.options
        (mount,) = await driver.mounts("c", readonly=True)
        assert not any(option.startswith("upperdir") for option in mount.options)
        (mount,) = await driver.mounts("base")
        assert (mount.type, mount.options) == ("bind", ("bind", "ro", "rprivate"))

    trio.run(main)


def test_leftovers_of_a_crash_are_removed_and_foreign_files_kept(root: Path) -> None:
    async def before() -> None:
        await _image_and_container(opened(root))

    async def after() -> None:
        driver = opened(root)
        assert sorted(await driver.keys()) == ["base", "c"]
        (mount,) = await driver.mounts("c")
        assert mount.type == "overlay"
        assert driver.trash.wait(10)

    trio.run(before)
    foreign = root / ("f" * 64)
    (foreign / "diff").mkdir(parents=True)
    (root / ".orlop/staging/half/diff").mkdir(parents=True)
    (root / ".orlop/trash/old/diff").mkdir(parents=True)
    (root / "l/DANGLING").symlink_to("../gone/diff")
    (root / ".orlop/active/lost").symlink_to("0" * 64)
    (link,) = (path for path in (root / "l").iterdir() if path.name != "DANGLING")
    link.unlink()  # a power cut can lose the link
    trio.run(after)
    assert foreign.exists()
    assert os.listdir(root / ".orlop/staging") == os.listdir(root / ".orlop/trash") == []
    assert sorted(os.listdir(root / ".orlop/active")) == ["c"]
    assert not os.path.lexists(root / "l/DANGLING")
    assert len(os.listdir(root / "l")) == 1


def test_missing_layer_makes_only_its_descendants_unusable(root: Path) -> None:
    async def before() -> None:
        driver = opened(root)
        await _image_and_container(driver)
        await driver.prepare("other", None)

    async def after() -> None:
        driver = opened(root)
        assert sorted(await driver.keys()) == ["c", "other"]
        with pytest.raises(DriverError, match="cannot use snapshot c: a layer below it is missing"):
            await driver.mounts("c")
        await driver.mounts("other")
        await driver.remove("c")

    trio.run(before)
    (base,) = [path for path in root.iterdir() if (path / "committed").is_file()]
    base.rename(root.parent / "lost")
    trio.run(after)


def test_unsupported_options_are_refused(root: Path) -> None:
    async def main() -> None:
        with pytest.raises(InvalidParameter, match="cannot apply storage option size: the overlay2 driver has no quotas"):
            await opened(root).prepare("c", None, options={"size": "10G"})

    trio.run(main)
    for name in ("size", "nonsense"):
        with pytest.raises(InvalidParameter, match=rf"overlay2\.{name}\b"):
            Overlay2(StorageContext(str(root), ((name, "1G"),)))
    Overlay2(StorageContext(str(root), (("override_kernel_check", "true"),)))
    with pytest.raises(InvalidParameter, match="must not contain ':'"):
        Overlay2(StorageContext("/data:root"))


def test_more_than_128_layers_are_refused() -> None:
    links = ["l/" + "A" * 26] * 128
    root = "/a/rather/long/data/root/of/an/administrator/with/taste/overlay2"
    assert overlay_mount(root, links, f"{root}/{'f' * 64}", volatile=True)
    with pytest.raises(DriverError, match="max depth exceeded"):
        overlay_mount(root, [*links, "l/" + "B" * 26], None)


async def _unpacked(driver: Overlay2, files: int = 3) -> Path:
    await driver.prepare("pull", None)
    directory = Path((await driver.unpack_target("pull")).directory)
    (directory / "sub").mkdir()
    for number in range(files):
        (directory / f"sub/{number}").write_text("1")
    return directory


def test_layer_is_synced_before_it_is_indexed(root: Path) -> None:
    async def main() -> tuple[Path, list[tuple[str, str]]]:
        driver = opened(root)
        directory = await _unpacked(driver)
        with recorded() as steps:
            await driver.commit("pull", "base")
        return directory, steps

    directory, steps = trio.run(main)
    indexed = steps.index(("rename", str(root / ".orlop/committed/base")))
    synced = {path for what, path in steps[:indexed] if what == "sync"}
    content = [directory.parent, directory.parent / "committed", directory, *directory.rglob("*")]
    assert synced == {*map(str, content), str(root), str(root / "l")}


@pytest.mark.parametrize("reason", ["many files", "a symbolic link"])
def test_large_layer_is_synced_by_syncfs(root: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    synced: list[str] = []

    class Libc:
        failing = False

        def syncfs(self, fd: int) -> int:
            if self.failing:
                ctypes.set_errno(errno.EIO)
                return -1
            synced.append(os.readlink(f"/proc/self/fd/{fd}"))
            return 0

    libc = Libc()

    async def main() -> None:
        driver = opened(root)
        directory = await _unpacked(driver, files=3)
        if reason == "many files":
            monkeypatch.setattr(host, "_FEW", 4)
            (directory / "more").touch()
        else:
            (directory / "link").symlink_to("sub")
        monkeypatch.setattr(snapshots, "_libc", libc)
        libc.failing = True
        with pytest.raises(DriverError, match="Input/output error"):
            await driver.commit("pull", "base")
        assert (await driver.keys(), synced) == (["pull"], []), "a layer that is not on disk is not committed"
        libc.failing = False
        with recorded() as steps:
            await driver.commit("pull", "base")
        assert synced == [str(directory.parent)]
        again = [path for what, path in steps if what == "sync" and path.startswith(str(directory.parent))]
        assert again == [], "nothing is synced twice"

    trio.run(main)


def test_layer_with_the_maximum_number_of_files_is_synced_file_by_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_FEW", 6)  # committed, diff, sub and its three files

    async def main() -> list[tuple[str, str]]:
        driver = opened(root)
        await _unpacked(driver)
        with recorded() as steps:
            await driver.commit("pull", "base")
        return steps

    assert any(path.endswith("/sub/2") for what, path in trio.run(main) if what == "sync")


def test_root_directory_has_mode_755_under_any_umask(root: Path) -> None:
    async def main() -> Path:
        driver = opened(root)
        await driver.prepare("c", None)
        return Path((await driver.describe("c"))["UpperDir"])

    before = os.umask(0o077)
    try:
        assert trio.run(main).stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


def test_failed_prepare_leaves_no_snapshot(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        driver = opened(root)
        await driver.keys()

        def full(*names: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "rename", full)
        with pytest.raises(DriverError, match="No space left on device"):
            await driver.prepare("c", None)
        assert await driver.keys() == []
        assert os.listdir(root / ".orlop/active") == []

    trio.run(main)


def test_removal_of_a_snapshot_leaves_no_directory_no_key_and_no_link(root: Path) -> None:
    async def main() -> None:
        driver = opened(root)
        await _image_and_container(driver)
        for key in ("c", "base"):
            await driver.remove(key)
        assert driver.trash.wait(10)

    trio.run(main)
    assert sorted(os.listdir(root)) == [".orlop", "l"]
    assert os.listdir(root / "l") == os.listdir(root / ".orlop/active") == os.listdir(root / ".orlop/committed") == []


def test_only_empty_directories_without_a_snapshot_are_discarded(root: Path) -> None:
    async def main() -> None:
        driver = opened(root)
        await _image_and_container(driver)
        container = Path((await driver.describe("c"))["UpperDir"]).parent.name
        for name in ("empty", "full/file"):
            (root / name.split("/")[0] / "diff").mkdir(parents=True)
        (root / "full/diff/file").touch()
        (root / "other").mkdir()
        found = {each.note: each.repair for each in await driver.audit()}
        assert found == {"empty": "remove it", "full": ""}
        for name in ("empty", "full", "other", container):
            driver.discard(name)
        assert driver.trash.wait(10)
        assert [(root / name).exists() for name in ("empty", "full", "other", container)] == [False, True, True, True]

    trio.run(main)


def test_directories_are_discarded_before_the_snapshots_are_loaded(root: Path) -> None:
    (root / "empty/diff").mkdir(parents=True)
    opened(root).discard("empty")
    assert not (root / "empty").exists()


def test_mark_of_a_volatile_mount_is_removed_before_the_next_mount(root: Path) -> None:
    async def main() -> None:
        driver = opened(root)
        await _image_and_container(driver)
        await driver.mounts("c", volatile=True)
        mark = Path((await driver.describe("c"))["WorkDir"]) / "work/incompat"
        mark.mkdir(parents=True)
        await driver.mounts("c")
        assert not mark.exists()

    trio.run(main)


def test_file_system_without_d_type_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "tells_types", lambda directory: False)

    async def main() -> None:
        with pytest.raises(DriverError, match="does not store file types"):
            await opened(root).keys()

    trio.run(main)


def test_d_type_is_detected_from_directory_entries(root: Path) -> None:
    (root / "file").touch()
    assert host.tells_types(str(root))
    with pytest.raises(FileNotFoundError):
        host.tells_types(str(root / "nowhere"))


@pytest.mark.parametrize("whole", [True, False], ids=["its directory is a link", "its files are a link"])
def test_link_to_an_unmounted_disk_is_kept(root: Path, tmp_path: Path, whole: bool) -> None:
    """Layers that were adopted from a dockerd cannot be used while their disk is not mounted. They can be used again after
    the disk is mounted."""

    async def keys() -> list[str]:
        driver = opened(root)
        found = sorted(await driver.keys())
        for key in found:
            assert Path((await driver.describe(key))["UpperDir"], "file").read_text() == "1"
        return found

    disk = tmp_path / "disk"
    (disk / "layer" / "diff").mkdir(parents=True)
    (disk / "layer" / "diff" / "file").write_text("1")
    index = SnapshotIndex(str(root / ".orlop"))
    index.load()
    index.add("base", "layer", None, committed=True)
    if whole:
        os.symlink(disk / "layer", root / "layer")
    else:
        (root / "layer").mkdir()
        os.symlink(disk / "layer" / "diff", root / "layer" / "diff")
    assert trio.run(keys) == ["base"]
    disk.rename(tmp_path / "elsewhere")
    assert trio.run(keys) == []
    (tmp_path / "elsewhere").rename(disk)
    assert trio.run(keys) == ["base"]


def test_changes_are_found_through_a_linked_diff_directory(root: Path, tmp_path: Path) -> None:
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs" / "file").write_text("1")
    index = SnapshotIndex(str(root / ".orlop"))
    index.load()
    index.add("c", "there", None)
    (root / "there").mkdir()
    os.symlink(tmp_path / "fs", root / "there" / "diff")

    async def main() -> None:
        driver = opened(root)
        assert [change.path for change in await driver.changes("c")] == ["/file"]
        assert (await driver.usage("c")).size == 1
        await driver.remove("c")
        assert await driver.keys() == []

    trio.run(main)
    assert (tmp_path / "fs" / "file").exists(), "the link is removed, not its target"
