"""The audit log's file: complete lines, rotation, a full disk, and requests that wait with `required`."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from orlop_guard_listeners import audit, audit_file
from orlop_guard_listeners.audit import Audit, Line, Unwritable
from orlop_guard_listeners.audit_file import AuditFile
from orlop_guard_listeners.keys import AuditLog
from orlop_kernel.config import ConfigError


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def line(number: int) -> Line:
    return Line(time="t", event="call", id=str(number), path="/x\n/y")


class Disk:
    """Simulates a disk. While `full` is set, writes fail with ENOSPC after half of the data, as on a real disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full, self.write = False, os.write
        monkeypatch.setattr(audit_file.os, "write", self._write)

    def _write(self, fd: int, data: Any) -> int:
        if self.full and len(data) <= 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.write(fd, data[: max(4, len(data) // 2)] if self.full else data)


def test_audit_file_is_private_to_root_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "made" / "audit.log"
    path.parent.mkdir()
    path.write_bytes(b"before\n")
    path.chmod(0o644)
    file = AuditFile(str(path), 1 << 20, 2)
    file.append(b"one\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"before\none\n"
    file.close()


def test_symlink_or_pipe_as_audit_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to("target")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError):
            AuditFile(str(tmp_path / name), 1 << 20, 2).open()


def test_rotation_keeps_as_many_audit_files_as_max_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    file = AuditFile(str(path), 10, 3)
    for number in range(5):
        file.append(b"line %d\n" % number)
    assert sorted(os.listdir(tmp_path)) == ["audit.log", "audit.log.1", "audit.log.2"]
    assert [(tmp_path / name).read_bytes() for name in ("audit.log", "audit.log.1", "audit.log.2")] == [
        b"line 4\n",
        b"line 3\n",
        b"line 2\n",
    ]
    file.close()
    single = AuditFile(str(tmp_path / "single"), 10, 1)
    single.append(b"line 1\n")
    single.append(b"line 2\n")
    assert (tmp_path / "single").read_bytes() == b"line 2\n"
    single.close()


def test_audit_file_that_was_moved_away_is_created_again(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    file = AuditFile(str(path), 1 << 20, 2)
    file.append(b"one\n")
    path.rename(tmp_path / "taken")
    file.append(b"two\n")
    assert (path.read_bytes(), (tmp_path / "taken").read_bytes()) == (b"two\n", b"one\n")
    file.close()


def test_partly_written_audit_line_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, path = Disk(monkeypatch), tmp_path / "audit.log"
    file = AuditFile(str(path), 1 << 20, 2)
    file.append(b"one whole line\n")
    disk.full = True
    with pytest.raises(OSError, match="No space left"):
        file.append(b"another whole line\n")
    assert path.read_bytes() == b"one whole line\n"
    disk.full = False
    file.append(b"third\n")
    assert path.read_bytes() == b"one whole line\nthird\n"
    file.close()


def run(path: Path, body: Callable[[Audit], Any], **settings: Any) -> None:
    async def main() -> None:
        with trio.fail_after(20):
            async with Audit.open(AuditLog(path=str(path), **settings)) as audit:
                await body(audit)

    trio.run(main)


def test_audit_lines_are_written_after_a_delay_and_at_shutdown(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"

    async def body(audit: Audit) -> None:
        await audit.wait(audit.write(line(1)))
        assert [each["id"] for each in lines(path)] == ["1"]
        audit.write(line(2))

    run(path, body)
    assert [each["id"] for each in lines(path)] == ["1", "2"]
    assert lines(path)[0]["path"] == "/x\n/y"


def test_cancelled_daemon_still_writes_its_audit_lines(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"

    async def main() -> None:
        with trio.CancelScope() as scope:
            async with Audit.open(AuditLog(path=str(path))) as audit:
                audit.write(line(1))
                scope.cancel()
                await trio.sleep_forever()

    trio.run(main)
    assert len(lines(path)) == 1


def test_hanging_disk_does_not_delay_the_shutdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """After the cancellation, the writer is shielded for a limited time. This time begins with the cancellation, even if the
    shutdown has other work to do."""
    monkeypatch.setattr(audit, "_PATIENCE", 0.2)
    begun, released = threading.Event(), threading.Event()

    def hang(self: AuditFile, data: bytes) -> None:
        begun.set()
        released.wait(60)

    monkeypatch.setattr(AuditFile, "append", hang)

    async def main() -> None:
        with trio.CancelScope() as outer:
            async with Audit.open(AuditLog(path=str(tmp_path / "audit.log"))) as log:
                log.write(line(1))
                await trio.to_thread.run_sync(begun.wait)
                outer.cancel()
                with trio.CancelScope(shield=True):
                    with trio.fail_after(20):
                        while math.isinf(log._life.deadline):
                            await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()

    try:
        trio.run(main)
    finally:
        released.set()
    assert "the last 1 lines of the audit log may be lost" in caplog.text


def test_full_disk_delays_audit_lines_but_loses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    disk, path = Disk(monkeypatch), tmp_path / "audit.log"

    async def body(audit: Audit) -> None:
        disk.full = True
        for number in (1, 2):
            with pytest.raises(Unwritable, match="so the request is refused: No space left on device"):
                await audit.wait(audit.write(line(number)))
        assert caplog.text.count("cannot write the audit log") == 1
        disk.full = False
        await audit.wait(audit.write(line(3)))

    run(path, body)
    assert [each["id"] for each in lines(path)] == ["1", "2", "3"]
    assert "can be written again" in caplog.text


def test_audit_lines_over_the_buffer_limit_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlop_guard_listeners.audit._KEEP", 200)
    disk, path = Disk(monkeypatch), tmp_path / "audit.log"

    async def body(audit: Audit) -> None:
        disk.full = True
        numbers = [audit.write(line(number)) for number in range(10)]
        assert numbers[:2] == [1, 2]
        assert numbers[-1] == 0
        with pytest.raises(Unwritable):
            await audit.wait(numbers[-1])
        disk.full = False

    run(path, body)
    kept = [each for each in lines(path) if each["event"] == "call"]
    (lost,) = [each for each in lines(path) if each["event"] == "lost"]
    assert len(kept) + lost["count"] == 10


def test_daemon_does_not_start_with_an_unusable_audit_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    async def body(audit: Audit) -> None:
        raise AssertionError("it was opened")

    with pytest.raises(ConfigError, match=r"cannot write the audit log .*: Not a directory"):
        run(tmp_path / "file" / "audit.log", body)
