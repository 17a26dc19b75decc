"""For tests of crash safety: records the order of syncs and renames, and finds descriptors that are left open."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

__all__ = ["no_descriptors_left", "recorded"]


@contextmanager
def recorded() -> Iterator[list[tuple[str, str]]]:
    """Record calls of `os.fsync` and `os.rename` in this process: ("sync", path) and ("rename", new path), in order. The
    calls are carried out."""
    steps: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def sync(fd: int) -> None:
        steps.append(("sync", os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def move(source: Any, target: Any, **at: Any) -> None:
        rename(source, target, **at)
        steps.append(("rename", os.fspath(target)))

    with mock.patch.object(os, "fsync", sync), mock.patch.object(os, "rename", move):
        yield steps


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Fail if the `with` block leaves descriptors of files open. Descriptors that were open before are not counted.
    Background threads have one second to close their descriptors."""
    before = _open_files()
    yield
    end = time.monotonic() + 1
    while (left := sorted(_open_files().items() - before.items())) and time.monotonic() < end:
        time.sleep(0.01)
    assert not left, f"descriptors are left open: {left}"


def _open_files() -> dict[int, str]:
    """Descriptors of files and directories. Sockets and pipes are left out, because they may belong to the event loop."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # this descriptor was open only to list the directory
        if target.startswith("/") and not target.startswith(("/dev/", "/proc/")):
            found[int(name)] = target
    return found
