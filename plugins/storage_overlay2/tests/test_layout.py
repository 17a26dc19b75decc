"""overlay2's files on disk, and recovery from crashes, power cuts and foreign files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from orlop_sdk import DriverError, InvalidParameter, StorageContext
from orlop_storage_overlay2 import Overlay2
from orlop_storage_overlay2.options import overlay_mount


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "overlay2"
    path.mkdir()
    return path


def opened(root: Path) -> Overlay2:
    return Overlay2(StorageContext(str(root)))


async def _image_and_container(driver: Overlay2) -> None:
    await driver.prepare("pull", None)
    Path((await driver.unpack_target("pull")).directory, "file").write_text("1")
    await driver.commit("pull", "base")
    await driver.prepare("c", "base")


def test_docker_s_layout(root: Path) -> None:
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


def test_the_options_are_written_out(root: Path) -> None:
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


def test_what_a_crash_left_is_cleared_and_what_is_not_ours_stays(root: Path) -> None:
    async def before() -> None:
        await _image_and_container(opened(root))

    async def after() -> None:
        driver = opened(root)
        assert sorted(await driver.keys()) == ["base", "c"]
        (mount,) = await driver.mounts("c")
        assert mount.type == "overlay"
        assert driver._layout.trash and driver._layout.trash.wait(10)

    trio.run(before)
    foreign = root / ("f" * 64)
    (foreign / "diff").mkdir(parents=True)
    (root / ".orlop/staging/half/diff").mkdir(parents=True)
    (root / ".orlop/trash/old/diff").mkdir(parents=True)
    (root / "l/DANGLING").symlink_to("../gone/diff")
    (root / ".orlop/active/lost").symlink_to("0" * 64)
    (link,) = (path for path in (root / "l").iterdir() if path.name != "DANGLING")
    link.unlink()  # as after a power cut
    trio.run(after)
    assert foreign.exists()
    assert os.listdir(root / ".orlop/staging") == os.listdir(root / ".orlop/trash") == []
    assert sorted(os.listdir(root / ".orlop/active")) == ["c"]
    assert not os.path.lexists(root / "l/DANGLING")
    assert len(os.listdir(root / "l")) == 1


def test_a_lost_layer_breaks_what_stands_on_it_and_nothing_else(root: Path) -> None:
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


def test_what_it_does_not_do_is_refused_in_words(root: Path) -> None:
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


def test_the_depth_limit() -> None:
    links = ["l/" + "A" * 26] * 128
    root = "/a/rather/long/data/root/of/an/administrator/with/taste/overlay2"
    assert overlay_mount(root, links, f"{root}/{'f' * 64}", volatile=True)
    with pytest.raises(DriverError, match="max depth exceeded"):
        overlay_mount(root, [*links, "l/" + "B" * 26], None)
