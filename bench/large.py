"""Peaks of memory while a layer of 2 GB is loaded, saved, pushed, pulled and committed: the growth of an idle daemon, and
the memory of the workers that it starts."""

from __future__ import annotations

import atexit
import hashlib
import io
import json
import os
import random
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import IO

from . import images
from .engines import Engine

__all__ = ["growth", "worker"]

_NAME = "bench/two-gigabytes:latest"
_FILE = 512 << 20  # bytes of each of four files
_COMMANDS = ("orlop-unpack", "mkfs.erofs")


class _Hashed(io.RawIOBase):
    """Writes data to a file, and hashes the data."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.hash.update(data)
        return self.file.write(data)


class _Repeated(io.RawIOBase):
    """A file that repeats one block."""

    def __init__(self, block: bytes) -> None:
        self._block = block

    def read(self, size: int = -1) -> bytes:
        return self._block[:size]


def _write_layer(file: IO[bytes]) -> str:
    """Write the tar, which compresses to about 55 %. Returns its digest."""
    hashed = _Hashed(file)
    with tarfile.open(fileobj=hashed, mode="w|", bufsize=1 << 20) as archive:
        for number in range(4):
            entry = tarfile.TarInfo(f"data/{number}")
            entry.size = _FILE
            block = random.Random(number).randbytes(512 << 10).hex().encode()
            archive.addfile(entry, _Repeated(block))
    return "sha256:" + hashed.hash.hexdigest()


@cache
def _archive() -> str:
    """The path of an archive for `docker load`, in a directory on disk."""
    directory = tempfile.TemporaryDirectory(prefix="orlop-bench-", dir="/var/tmp")
    atexit.register(directory.cleanup)
    layer, path = f"{directory.name}/layer.tar", f"{directory.name}/image.tar"
    with open(layer, "wb") as file:
        digest = _write_layer(file)
    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Cmd": ["/none"]},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    }
    with tarfile.open(path, "w") as archive:
        archive.add(layer, "layer.tar")
        table = [{"Config": "config.json", "RepoTags": [_NAME], "Layers": ["layer.tar"]}]
        for name, value in (("config.json", config), ("manifest.json", table)):
            data = json.dumps(value).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    os.unlink(layer)
    return path


def status(pid: int, field: str) -> float:
    """A field of /proc/PID/status, in MB."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1024


def settled(pid: int) -> float:
    """The RSS of a daemon that has completed the work after its start. This is assumed when the RSS has not changed for a
    second."""
    before = 0.0
    while (now := status(pid, "VmRSS")) != before:
        before = now
        time.sleep(1)
    return now


@dataclass
class Peaks:
    """Values in MB. `growth` is the growth of the daemon, compared with its idle state. `workers` has the highest RSS of
    each program."""

    growth: float = 0.0
    workers: dict[str, float] = field(default_factory=dict)


@contextmanager
def _watched(pid: int, idle: float) -> Iterator[Peaks]:
    peaks, ended = Peaks(), threading.Event()

    def sample() -> None:
        while not ended.wait(0.005):
            for each in filter(str.isdigit, os.listdir("/proc")):
                try:
                    with open(f"/proc/{each}/comm") as file:
                        name = file.read().strip()
                    if name in _COMMANDS:
                        peaks.workers[name] = max(peaks.workers.get(name, 0), status(int(each), "VmHWM"))
                except (OSError, StopIteration):
                    continue

    with open(f"/proc/{pid}/clear_refs", "w") as file:
        file.write("5")  # resets the peak (proc_pid_clear_refs(5))
    watcher = threading.Thread(target=sample)
    watcher.start()
    try:
        yield peaks
    finally:
        ended.set()
        watcher.join()
        peaks.growth = status(pid, "VmHWM") - idle


def _load(engine: Engine) -> None:
    with open(_archive(), "rb") as archive:
        engine.docker("load", "-q", stdin=archive)


def _save(engine: Engine) -> None:
    with open(os.devnull, "wb") as nothing:
        engine.docker("save", _NAME, stdout=nothing)


def _pushed(engine: Engine) -> str:
    return f"{images.registry()}/two-gigabytes-{engine.name}"


def _push(engine: Engine) -> None:
    engine.docker("tag", _NAME, _pushed(engine))
    engine.docker("push", _pushed(engine))


def _pull(engine: Engine) -> None:
    engine.docker("pull", "-q", _pushed(engine))


def _commit(engine: Engine) -> None:
    engine.docker("commit", "two-gigabytes", "bench/committed")


@contextmanager
def _container(engine: Engine) -> Iterator[None]:
    script = "for i in 1 2 3 4; do yes | head -c 500000000 > /$i; done"
    engine.docker("run", "--name", "two-gigabytes", "bench/busybox", "sh", "-c", script)
    try:
        yield
    finally:
        engine.docker("rm", "-f", "two-gigabytes")
        engine.docker("rmi", "bench/committed")


@cache
def _measured(engine: Engine) -> Mapping[str, Peaks]:
    """Start a new daemon, and measure its peaks for each operation."""
    found: dict[str, Peaks] = {}
    engine.stop()
    engine.start()
    assert engine.process is not None
    pid = engine.process.pid
    engine.get("/info")
    idle = settled(pid)

    def watch(direction: str, work: Callable[[Engine], None]) -> None:
        with _watched(pid, idle) as peaks:
            work(engine)
        found[direction] = peaks
        shown = "".join(f", {name} {peak:.0f}" for name, peak in sorted(peaks.workers.items()))
        print(f"    {engine.name}, 2 GB, {direction}: daemon {idle:.0f} + {peaks.growth:.1f} MB{shown}", flush=True)

    watch("load", _load)
    watch("save", _save)
    watch("push", _push)
    engine.docker("rmi", _NAME, _pushed(engine))
    watch("pull", _pull)
    engine.docker("rmi", _pushed(engine))
    with _container(engine):
        watch("commit", _commit)
    return found


def growth(engine: Engine) -> float:
    """The largest growth of the daemon."""
    return max(peaks.growth for peaks in _measured(engine).values())


def worker(engine: Engine) -> float:
    """The highest RSS of a worker, or of a program that it runs."""
    return max(max(peaks.workers.values(), default=0) for peaks in _measured(engine).values())
