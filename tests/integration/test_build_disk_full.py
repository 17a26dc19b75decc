"""A disk that fills up during a build. The error names the cause, no acknowledged change is lost, and the build leaves
nothing."""

from __future__ import annotations

import hashlib
import os
import socket
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.integration.engine import Engine, Result, patience, until
from tests.integration.test_build_clients import nothing_left
from tests.integration.test_build_faults import full

__all__ = ["full"]

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

Full = tuple[Engine, Callable[[], None]]
BIG = "FROM busybox\nRUN head -c 12000000 /dev/urandom > /big\n"
"""The disk is filled so that a second copy of this layer does not fit, compressed or not."""
NO_SPACE = "no space left on device"


def build(engine: Engine, dockerfile: str, *argv: str, context: Path | None = None) -> Result:
    arguments = ("-f", "-", str(context)) if context else ("-",)
    return engine.docker("buildx", "build", "--progress=plain", *argv, *arguments, stdin=dockerfile, seconds=120)


def test_failed_export_to_a_full_disk_reports_that_no_space_is_left(full: Full) -> None:
    """An export that must store files on the disk fails; an export that only reads succeeds. The cache and the images
    stay."""
    engine, fill = full
    assert build(engine, BIG, "-t", "before:1").code == 0
    digest = engine.ok("run", "--rm", "--network=none", "before:1", "sha256sum", "/big")
    fill()
    out = engine.home / "out"
    exports = {
        "local": f"type=local,dest={out}",
        "tar": f"type=tar,dest={out}.tar",
        "oci": f"type=oci,dest={out}-oci.tar",
        "docker": f"type=docker,dest={out}-docker.tar",
        "image": "type=image,name=after:1",
    }
    failed = set()
    for kind, export in exports.items():
        result = build(engine, BIG, "-o", export)
        if result.code:
            failed.add(kind)
            assert NO_SPACE in result.err.lower(), (kind, result.err[-800:])
            assert "Traceback" not in result.err
    assert failed == {"oci", "docker"}
    with tarfile.open(f"{out}.tar") as archive:
        found = archive.extractfile("big")
        assert found is not None and found.read() == (out / "big").read_bytes()
    assert hashlib.sha256((out / "big").read_bytes()).hexdigest() == digest.split()[0]
    result = build(engine, BIG, "--cache-to", f"type=local,dest={out}-cache,mode=max")
    assert result.code != 0 and NO_SPACE in result.err.lower(), result.err[-800:]
    assert engine.ok("run", "--rm", "--network=none", "after:1", "sha256sum", "/big") == digest
    engine.until_sound()
    (engine.data_root.parent / "filler").unlink()
    assert engine.ok("run", "--rm", "--network=none", "before:1", "sha256sum", "/big") == digest
    again = build(engine, BIG, "-o", exports["oci"])
    assert again.code == 0 and "CACHED" in again.err, again.err[-800:]
    engine.ok("rmi", "before:1", "after:1")
    engine.ok("builder", "prune", "-af")
    nothing_left(engine)


def test_context_is_uploaded_again_after_the_disk_was_full(full: Full, tmp_path: Path) -> None:
    """After space is freed, the client uploads the context again, and all files arrive."""
    engine, fill = full
    context = tmp_path / "context"
    context.mkdir()
    (context / "small").write_text("small\n")
    (context / "big").write_bytes(os.urandom(12 << 20))
    text = "FROM busybox\nCOPY . /c\n"
    assert build(engine, "FROM busybox\nRUN true\n").code == 0
    fill()
    result = build(engine, text, context=context)
    assert result.code != 0 and NO_SPACE in result.err.lower(), result.err[-800:]
    engine.until_sound()
    (engine.data_root.parent / "filler").unlink()
    result = build(engine, text, "-t", "sent:1", context=context)
    assert result.code == 0, result.err[-800:]
    shown = engine.docker("run", "--rm", "--network=none", "sent:1", "cat", "/c/small", "/c/big").stdout
    assert shown == b"small\n" + (context / "big").read_bytes()
    engine.ok("rmi", "sent:1")
    engine.ok("builder", "prune", "-af")
    nothing_left(engine)


def test_builder_on_a_full_disk_says_so_and_keeps_its_cache(full: Full) -> None:
    """The first builder cannot open its cache, the second one cannot change its cache."""
    engine, _ = full
    text = "FROM busybox\nRUN echo kept > /file\n"
    hog = engine.data_root.parent / "hog"

    def fill() -> None:
        with hog.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        assert os.statvfs(hog.parent).f_bavail == 0

    fill()
    for _ in range(2):
        result = build(engine, text)
        assert result.code != 0 and "cannot open the build cache: " in result.err, result.err[-800:]
        assert NO_SPACE in result.err.lower()
    hog.unlink()
    assert build(engine, text).code == 0
    engine.restart()  # the builder ends with the daemon
    fill()
    for _ in range(2):
        result = build(engine, text.replace("kept", "new"))
        assert result.code != 0 and NO_SPACE in result.err, result.err[-800:]
    hog.unlink()
    again = build(engine, text)
    assert again.code == 0 and "CACHED" in again.err, again.err[-800:]
    assert not [*engine.data_root.rglob("*.damaged-*")]
    engine.ok("builder", "prune", "-af")
    nothing_left(engine)


def test_client_that_stays_connected_does_not_delay_the_next_builder(full: Full) -> None:
    """The client is connected to a builder that could not be opened."""
    engine, _ = full
    hog = engine.data_root.parent / "hog"
    with hog.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    with socket.socket(socket.AF_UNIX) as idle:
        idle.settimeout(patience(30))
        idle.connect(engine.socket)
        idle.sendall(b"POST /grpc HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        assert b" 101 " in idle.recv(100)
        until(lambda: "builds are refused" in engine.log(), "the builder could not be opened")
        hog.unlink()
        until(lambda: build(engine, "FROM busybox\nRUN true\n").code == 0, "the next builder works")
        while idle.recv(1000):  # the connection was closed
            pass
    engine.ok("builder", "prune", "-af")
    nothing_left(engine)
