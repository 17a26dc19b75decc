"""The state was damaged by a failing disk, another version or manual changes. The daemon starts, quarantines unusable rows,
logs them, and serves all other objects. No object is removed for lack of a row, because its row may have been lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import BUSYBOX, Engine, alive, archive

from orlop_sdk.testing.ports import free_port

pytestmark = pytest.mark.root

SLEEP = (BUSYBOX, "sleep", "600")
LIVE = {"live-restore": True, "shutdown-timeout": 3}


@pytest.fixture
def live(fresh: Callable[..., Engine]) -> Engine:
    return fresh(LIVE)


def check(engine: Engine, method: str = "GET", query: str = "") -> dict[str, Any]:
    status, answer = engine.api(method, f"/orlop/check{query}")
    assert status == 200, answer
    return dict(answer)


def objects(report: dict[str, Any]) -> list[str]:
    return [finding["object"] for finding in report["findings"]]


def database(engine: Engine) -> Path:
    return engine.data_root / "orlop.db"


def insert(engine: Engine, *rows: tuple[str, str, bytes]) -> None:
    with contextlib.closing(sqlite3.connect(database(engine))) as connection, connection:
        for table, key, value in rows:
            connection.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (key, value))


def row(engine: Engine, table: str, key: str) -> dict[str, Any]:
    with contextlib.closing(sqlite3.connect(database(engine))) as connection:
        (value,) = connection.execute(f"SELECT value FROM {table} WHERE key = ?", (key,)).fetchone()
    return dict(json.loads(value))


def aside(engine: Engine) -> list[Path]:
    return sorted(engine.data_root.glob("orlop.db.damaged-*"))


def test_invalid_rows_are_quarantined(live: Engine) -> None:
    good = live.ok("run", "-d", "--name", "good", *SLEEP)
    bad = live.ok("create", "--name", "bad", *SLEEP)
    pid = live.inspect("good")["State"]["Pid"]
    live.kill()
    record = row(live, "containers", bad)
    shape = json.dumps({**record, "id": "e" * 64, "args": {"of": "another version"}}).encode()
    twin = json.dumps({**record, "id": "f" * 64, "name": "good"}).encode()
    lost = [
        ("containers", bad, b'{"id": "\xff"}'),
        ("containers", "e" * 64, shape),
        ("containers", "f" * 64, twin),
        ("containers", "../../etc", json.dumps({**record, "id": "../../etc", "name": "x"}).encode()),
        ("containers", "d" * 64, b"[" * 100_000),
        ("images", "sha256:" + "1" * 64, b"\xff"),
        ("images", "sha256:" + "2" * 64, b'{"id": 7}'),
        ("images", "ref:NOT A NAME", b"\xff"),
        ("images", "resume:x", b"{}"),
        ("networks", "3" * 64, b"\xa1\xff"),
        ("networks", "4" * 64, b"\x82\xa2id\xa1x\xa4name\x07"),
        ("volumes", "broken", b"\xc1"),
        ("volumes", "other", b"\x80"),
    ]
    insert(live, *lost, ("execs", "x", b"?"), ("events", "0", b"\xff"), ("intents", "x", b"?"), ("meta", "schema", b"?"))
    live.start()
    assert live.inspect("good")["Id"] == good
    assert live.inspect("good")["State"]["Pid"] == pid
    assert live.ok("exec", "good", "echo", "well") == "well"
    assert live.ok("ps", "-a", "--format", "{{.Names}}") == "good"
    assert live.ok("images", "-q")
    assert live.ok("network", "ls", "--format", "{{.Name}}").split() == ["bridge", "host", "none"]
    assert live.ok("run", "--rm", "-v", "fine:/x", BUSYBOX, "echo", "served") == "served"
    assert (live.data_root / "containers" / bad).is_dir(), "files of a quarantined row are kept"
    found = check(live)
    names = [f"quarantined row {table}/{key}" for table, key, _ in lost]
    assert [name for name in names if name not in objects(found)] == []
    assert not found["ok"]
    assert f"containers {bad} cannot be used and is quarantined" in live.log()

    for path in aside(live):  # the damaged file contains only the schema's row, because all other rows were saved
        path.unlink()
    rows = [name.removeprefix("quarantined row ") for name in objects(found) if name.startswith("quarantined row ")]
    query = "&".join(f"forget={row.replace(' ', '%20')}" for row in rows)
    done = check(live, "POST", f"?{query}")
    assert f"quarantined row containers/{bad}: dropped" in done["repaired"]
    live.restart()
    assert check(live) == {"findings": [], "ok": True}
    assert not (live.data_root / "containers" / bad).exists()
    assert live.inspect("good")["State"]["Pid"] == pid


def test_daemon_restores_a_quarantined_row_that_has_become_readable(live: Engine) -> None:
    """An upgrade after a downgrade leads to such a row."""
    bad = live.ok("create", "--name", "bad", *SLEEP)
    live.stop()
    record = row(live, "containers", bad)
    insert(live, ("containers", bad, json.dumps({**record, "args": 7}).encode()))
    live.start()
    assert live.ok("ps", "-aq") == ""
    live.stop()
    with contextlib.closing(sqlite3.connect(database(live))) as connection, connection:
        connection.execute("UPDATE quarantine SET value = ? WHERE key = ?", (json.dumps(record).encode(), bad))
    live.start()
    assert live.ok("ps", "-a", "--format", "{{.Names}}") == "bad"
    assert live.ok("start", "bad") == "bad"
    assert check(live) == {"findings": [], "ok": True}


def test_container_keeps_running_while_its_row_is_unreadable(live: Engine) -> None:
    """This happens after a downgrade with a running container and a later upgrade."""
    port, serve = free_port(), "mkdir /www; echo page > /www/index.html; exec httpd -f -h /www"
    container = live.ok("run", "-d", "--name", "web", "-p", f"{port}:80", BUSYBOX, "sh", "-c", serve)
    pid, url = live.inspect("web")["State"]["Pid"], f"http://127.0.0.1:{port}"
    live.kill()
    record = row(live, "containers", container)
    insert(live, ("containers", container, json.dumps({**record, "args": 7}).encode()))
    live.start()
    assert live.ok("ps", "-aq") == "" and alive(pid)
    assert "keeps running, but cannot be managed" in live.log()
    assert live.docker("run", "--rm", "-p", f"{port}:80", BUSYBOX, "true").code == 125, "its port is its own"
    assert live.ok("run", "--rm", BUSYBOX, "hostname", "-i") != live_address(record)
    assert urllib.request.urlopen(url, timeout=10).read() == b"page\n"
    live.stop()
    with contextlib.closing(sqlite3.connect(database(live))) as connection, connection:
        connection.execute("UPDATE quarantine SET value = ? WHERE key = ?", (json.dumps(record).encode(), container))
    live.start()
    assert live.inspect("web")["State"]["Pid"] == pid
    assert urllib.request.urlopen(url, timeout=10).read() == b"page\n"
    assert live.ok("exec", "web", "echo", "well") == "well"
    live.ok("rm", "-f", "web")
    assert check(live) == {"findings": [], "ok": True}


def live_address(record: dict[str, Any]) -> str:
    (endpoint,) = record["sandbox"]["endpoints"]
    return str(endpoint["endpoint"]["addresses"][0]["address"].partition("/")[0])


def zero_a_page(live: Engine) -> None:
    """Zero a page in the middle of the lost container's row."""
    data, size = database(live).read_bytes(), 4096
    at = next(at for at in range(0, len(data), size) if data[at + 4 : at + size] == b"x" * (size - 4))
    database(live).write_bytes(data[:at] + bytes(size) + data[at + size :])


def test_database_with_a_zeroed_page_loses_only_rows_of_that_page(live: Engine) -> None:
    """A running container with an intact row keeps running; objects without a row are kept."""
    live.ok("run", "-d", "--name", "good", *SLEEP)
    lost = live.ok("create", "--name", "lost", "-e", "BIG=" + "x" * 20_000, *SLEEP)
    live.ok("volume", "create", "data")
    pid = live.inspect("good")["State"]["Pid"]
    live.stop()
    zero_a_page(live)
    live.start()
    assert live.inspect("good")["State"]["Pid"] == pid
    assert live.ok("ps", "-a", "--format", "{{.Names}}") == "good"
    assert live.ok("run", "--rm", BUSYBOX, "echo", "served") == "served"
    assert (live.data_root / "containers" / lost).is_dir()
    (file,) = aside(live)
    assert f"file {file.name}" in objects(check(live))
    file.unlink()
    live.restart()
    assert check(live) == {"findings": [], "ok": True}
    assert not (live.data_root / "containers" / lost).exists()
    assert live.inspect("good")["State"]["Pid"] == pid


_OTHER = """
import os, sys, trio
from orlop_kernel.store import Put, Store
async def main():
    async with Store.open(sys.argv[1]) as store:
        await store.commit([Put("volumes", str(number), b"x" * 3000) for number in range(40)])
        os._exit(0)
trio.run(main)
"""


def truncate(live: Engine) -> None:
    os.truncate(database(live), 5000)


def empty(live: Engine) -> None:
    os.truncate(database(live), 0)


def directory(live: Engine) -> None:
    database(live).unlink()
    database(live).mkdir()


def foreign_log(live: Engine) -> None:
    other = live.home / "other"
    subprocess.run([sys.executable, "-c", _OTHER, str(other / "orlop.db")], check=True)
    shutil.copy(other / "orlop.db-wal", f"{database(live)}-wal")


def test_daemon_starts_with_a_destroyed_database_and_later_reads_the_restored_file(live: Engine) -> None:
    """The daemon starts with any damage. After the original file is restored, all objects exist again."""
    live.ok("run", "--name", "cc", "-v", "data:/data", BUSYBOX, "sh", "-c", "echo kept > /file; echo kept > /data/file")
    live.stop()
    backup = live.home / "backup.db"
    shutil.copy(database(live), backup)
    for damage in (truncate, empty, directory, foreign_log):
        damage(live)
        live.start()
        assert live.ok("version", "--format", "{{.Server.Version}}"), damage
        assert aside(live), damage
        live.stop()
        if damage is foreign_log:
            assert live.home.joinpath("orlopd.log").read_text().count("was written for another database") == 1
        for path in (*aside(live), database(live)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copy(backup, database(live))
    live.start()
    assert check(live, query="?deep=1") == {"findings": [], "ok": True}
    assert live.ok("start", "-a", "cc") == ""
    assert live.ok("run", "--rm", "--volumes-from", "cc", BUSYBOX, "cat", "/data/file") == "kept"


def test_damaged_records_of_a_running_container_are_restored_from_its_monitor(live: Engine) -> None:
    """The monitor supplies the data that the damaged files no longer contain."""
    live.ok("run", "-d", "--name", "cc", *SLEEP)
    pid = live.inspect("cc")["State"]["Pid"]
    (run,) = (live.exec_root / "run").iterdir()
    live.kill()
    for name in ("monitor.json", "init.json", "exit.json"):
        (run / name).write_bytes(b"\xff{")
    (live.exec_root / "run" / "no-directory").write_text("x")
    offline = live.run([*live.command, "--check"])
    assert offline.code == 1
    assert "container cc" in objects(json.loads(offline.out))
    live.start()
    assert live.inspect("cc")["State"]["Pid"] == pid
    (run / "exit.json").unlink()
    assert check(live) == {"findings": [], "ok": True}
    live.kill()
    live.start()
    assert live.inspect("cc")["State"]["Pid"] == pid
    live.ok("rm", "-f", "cc")
    assert not alive(pid)
    assert check(live) == {"findings": [], "ok": True}


def test_damaged_images_are_quarantined_and_can_be_loaded_again(live: Engine) -> None:
    live.ok("create", "--name", "cc", BUSYBOX, "echo", "well")
    image = live.ok("images", "-q", "--no-trunc")
    live.stop()
    blobs = live.data_root / "content" / "blobs" / "sha256"
    (blobs / image.removeprefix("sha256:")).write_bytes(b"wrong")
    (blobs / "no-blob").mkdir()
    index = live.data_root / "overlay2" / ".orlop"
    (index / "active" / ("a" * 64)).write_text("no link")
    (index / "committed" / ("sha256:" + "b" * 64)).symlink_to("../../../../etc:passwd")
    (live.data_root / "overlay2" / "l" / "no-link").write_text("x")
    live.start()
    assert live.ok("images", "-q") == ""
    assert live.ok("start", "-a", "cc") == "well", "a container needs its layers, not its image"
    found = objects(check(live))
    assert f"quarantined row images/{image}" in found
    assert "file content/blobs/sha256/no-blob" in found
    assert sum(name.startswith("index entry ") for name in found) == 2
    live.docker("load", stdin=archive(), check=0)
    assert live.ok("run", "--rm", BUSYBOX, "echo", "again") == "again"
    (blobs / "no-blob").rmdir()
    shutil.rmtree(index / "damaged")
    live.restart()
    assert check(live, query="?deep=1") == {"findings": [], "ok": True}

    layer = max(blobs.iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(layer.read_bytes())
    data[1000] ^= 0xFF
    layer.write_bytes(data)
    assert check(live)["ok"]
    assert [finding["text"] for finding in check(live, query="?deep=1")["findings"]] == [
        f"blob sha256:{layer.name[:12]} does not match its digest: "
        "the image cannot be saved or pushed; pull or load the image again"
    ]
    check(live, "POST", "?deep=1")
    assert not layer.exists()
    live.docker("load", stdin=archive(), check=0)
    assert check(live, query="?deep=1") == {"findings": [], "ok": True}
