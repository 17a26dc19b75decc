"""The init layer: its paths, also if the image has other files there, and its removal together with the layer below."""

import os
import stat

import pytest
import trio

from orlop_engine.images.content import ContentStore
from orlop_engine.images.layers import Layers, init_layer, temporary_key
from orlop_monitor.unpack.init_layer import PATHS, make
from orlop_sdk import StorageContext
from orlop_sdk.testing import FakeStorage

LOW, HIGH = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def shown(root):
    found = {}
    for path in PATHS:
        info = os.lstat(root + path)
        link = os.readlink(root + path) if stat.S_ISLNK(info.st_mode) else ""
        found[path] = (stat.S_IFMT(info.st_mode), link or stat.S_IMODE(info.st_mode))
    return found


@pytest.fixture
def made(tmp_path):
    def run():
        root = os.open(tmp_path, os.O_RDONLY)
        before = os.umask(0)
        try:
            make(root)
        finally:
            os.umask(before)
            os.close(root)
        return shown(str(tmp_path))

    return run


EXPECTED = {
    path: (stat.S_IFDIR, 0o755) if kind == "directory" else (stat.S_IFREG, 0o755) if kind == "file" else (stat.S_IFLNK, kind)
    for path, kind in PATHS.items()
}


def test_init_layer_files_are_created_in_an_empty_root(made):
    assert made() == EXPECTED
    assert EXPECTED["/etc/mtab"] == (stat.S_IFLNK, "/proc/mounts")


def test_init_layer_replaces_files_of_the_image_and_follows_no_links(made, tmp_path):
    outside = tmp_path / "real"
    outside.mkdir()
    (outside / "resolv.conf").write_text("kept")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text("1.2.3.4 image")
    (tmp_path / "etc/resolv.conf").symlink_to("../real/resolv.conf")
    (tmp_path / "dev").symlink_to("real")
    (tmp_path / "proc").symlink_to("/")
    (tmp_path / "sys").write_text("a file")
    assert made() == EXPECTED
    assert (tmp_path / "etc/hosts").read_text() == "" and (outside / "resolv.conf").read_text() == "kept"
    assert os.listdir(outside) == ["resolv.conf"]


def test_init_layer_keeps_directories_of_the_image(made, tmp_path):
    for name in ("etc/hosts", "dev/console", "etc/mtab"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc").chmod(0o700)
    found = made()
    assert [found[path][0] for path in ("/etc/hosts", "/dev/console", "/etc/mtab")] == [stat.S_IFDIR] * 3
    assert stat.S_IMODE(os.stat(tmp_path / "etc").st_mode) == 0o700


def with_layers(tmp_path, act):
    async def main():
        storage = FakeStorage(StorageContext(str(tmp_path)))
        async with trio.open_nursery() as nursery:
            layers = Layers(storage, ContentStore(str(tmp_path)), None, None, nursery)
            for key, parent in ((LOW, None), (HIGH, LOW), (init_layer(HIGH), HIGH)):
                active = temporary_key()
                await storage.prepare(active, parent)
                await storage.commit(active, key)
            await act(storage, layers)

    trio.run(main)


def test_init_layer_is_removed_with_the_layer_below_it(tmp_path):
    async def act(storage, layers):
        await storage.prepare("container", init_layer(HIGH))
        assert await layers.remove([LOW, HIGH]) == []
        await storage.remove("container")
        assert [key for key, _ in await layers.remove([LOW, HIGH])] == [HIGH, LOW]
        assert await storage.keys() == []

    with_layers(tmp_path, act)


def test_daemon_start_removes_unfinished_and_orphaned_init_layers(tmp_path):
    async def act(storage, layers):
        await storage.prepare(temporary_key(), HIGH)
        await storage.prepare("a", None)
        await storage.commit("a", init_layer("sha256:" + "9" * 64))
        assert sorted(await layers.sweep()) == [LOW, HIGH]
        assert sorted(await storage.keys()) == [init_layer(HIGH), LOW, HIGH]

    with_layers(tmp_path, act)
