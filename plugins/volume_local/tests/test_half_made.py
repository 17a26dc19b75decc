"""Creation and removal of volumes are atomic when the daemon dies."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from orlop_sdk import DeadlineExceeded, DriverError, VolumeContext
from orlop_volume_local import driver as driver_module
from orlop_volume_local.driver import LocalVolumes


def test_incomplete_volumes_are_removed_when_the_driver_starts(tmp_path: Path) -> None:
    (tmp_path / ".new" / "0123" / "_data").mkdir(parents=True)
    (tmp_path / ".trash" / "4567" / "_data").mkdir(parents=True)
    driver = LocalVolumes(VolumeContext(str(tmp_path)))

    async def main() -> None:
        while os.listdir(tmp_path / ".trash"):  # noqa: ASYNC110 - a thread's own time
            await trio.sleep(0.01)
        assert await driver.names() == []
        await driver.create("data", {"type": "tmpfs", "device": "tmpfs"})
        assert await driver.names() == ["data"]

    trio.run(main)
    assert os.listdir(tmp_path / ".new") == []
    assert sorted(os.listdir(tmp_path / "data")) == ["_data", "opts.json"]


def test_failed_create_leaves_no_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = LocalVolumes(VolumeContext(str(tmp_path)))

    def rename(*of: object) -> None:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", rename)
            with pytest.raises(DriverError):
                await driver.create("data", {})
        assert await driver.names() == []
        await driver.create("data", {})

    trio.run(main)
    assert os.listdir(tmp_path / ".new") == []


def test_directory_made_by_an_administrator_becomes_a_volume(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    trio.run(LocalVolumes(VolumeContext(str(tmp_path))).create, "disk", {})
    assert (tmp_path / "disk" / "_data").is_dir()


def test_unreachable_server_fails_the_mount_at_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, exists = threading.Event(), os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: answers.wait(10) if path == "/dead/server" else exists(path))
    driver = LocalVolumes(VolumeContext(str(tmp_path)))

    async def main() -> None:
        await driver.create("data", {"type": "none", "o": "bind", "device": "/dead/server"})
        with trio.move_on_after(0.3):
            async with trio.open_nursery() as nursery:
                for _ in range(60):  # more than trio's default limit of threads
                    nursery.start_soon(driver.mounts, "data")
        with trio.fail_after(5):
            await driver.names()

    began = time.monotonic()
    try:
        trio.run(main)
        assert time.monotonic() - began < 5
    finally:
        answers.set()


def test_hanging_mount_fails_and_can_be_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "bin" / "mount"
    helper.parent.mkdir()
    helper.write_text(f"#!/bin/sh\ntrap '' TERM\necho $$ >>{tmp_path}/pids\nexec /bin/sleep 30\n")
    helper.chmod(0o755)
    monkeypatch.setattr(driver_module, "_ENV", {"PATH": str(helper.parent)})
    monkeypatch.setattr(driver_module, "_SECONDS", 0.3)
    driver = LocalVolumes(VolumeContext(str(tmp_path / "volumes")))

    async def main() -> None:
        await driver.create("data", {"type": "tmpfs", "device": "tmpfs"})
        for _ in range(2):
            with trio.fail_after(5), pytest.raises(DeadlineExceeded, match=r"cannot mount .*: no answer within"):
                await driver.mounts("data")

    trio.run(main)
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2 and not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_mount_process_that_cannot_be_killed_is_abandoned_at_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = threading.Event()
    monkeypatch.setattr(driver_module.subprocess, "run", lambda *args, **options: ends.wait(30))
    driver = LocalVolumes(VolumeContext(str(tmp_path)))

    async def main() -> None:
        await driver.create("data", {"type": "tmpfs", "device": "tmpfs"})
        with pytest.raises(DeadlineExceeded, match=r"cannot mount .*: no answer within 20 s"):
            await driver.mounts("data")

    try:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        ends.set()
