"""Read the records in the directory of a run, and end processes whose monitor has ended.

All functions except `init_ended` are synchronous, because the records are on a tmpfs. `kill_cgroups` blocks, so call it on a
worker thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import trio

from orlop_monitor import records
from orlop_monitor.protocol import ExitRecord, InitRecord, MonitorRecord, Status
from orlop_sdk import cgroups, linux, mountinfo

__all__ = [
    "STAGE",
    "complete",
    "exit_record",
    "init_ended",
    "init_record",
    "kill_cgroups",
    "monitor_lives",
    "monitor_record",
    "private_directory",
    "release_private_directory",
    "signal_init",
]


STAGE = ".stage"
"""The name of the stage directory is the name of the root's mount point plus this suffix (see `monitor.staging`)."""


def monitor_record(run_dir: str) -> MonitorRecord | None:
    """The monitor whose socket is, or was last, in this run directory. None if no monitor has listened there yet."""
    return records.read_monitor(run_dir)


def init_record(run_dir: str) -> InitRecord | None:
    """The first process of the container that was started in this run directory."""
    return records.read_init(run_dir)


def monitor_lives(run_dir: str) -> bool:
    record = monitor_record(run_dir)
    return record is not None and linux.is_process(record.pid, record.start_time)


def exit_record(run_dir: str) -> ExitRecord | None:
    """The record of the container's exit. None while the container runs, and None if both the monitor and the zygote have
    died."""
    return records.read_exit(run_dir)


def complete(run_dir: str, container_id: str, status: Status, cgroup: str) -> None:
    """If records of a running monitor are missing or unreadable, write them again, because the next daemon and the zygote
    need them."""
    with suppress(OSError):  # the monitor may be ending
        if records.read_monitor(run_dir) is None:
            start_time = linux.process_start_time(status.monitor_pid)
            records.write(run_dir, MonitorRecord(status.monitor_pid, start_time, container_id))
        if status.pid and records.read_init(run_dir) is None:
            found = dict.fromkeys((*cgroups.directories(status.pid, container_id), *cgroups.named(cgroup)))
            start_time = linux.process_start_time(status.pid)
            records.write(run_dir, InitRecord(status.pid, start_time, time.time_ns(), tuple(found)))


def signal_init(run_dir: str, signum: int) -> bool:
    """Send a signal to a container's first process without its monitor. Returns False when the process is dead or
    unknown."""
    with suppress(ProcessLookupError), _init_pidfd(run_dir) as pidfd:
        linux.pidfd_send_signal(pidfd, signum)
        return True
    return False


async def init_ended(run_dir: str) -> bool:
    """Wait for the end of a container's first process. Returns False when no record identifies the process."""
    with suppress(ProcessLookupError), _init_pidfd(run_dir) as pidfd:
        await trio.lowlevel.wait_readable(pidfd)
        return True
    return init_record(run_dir) is not None


@contextmanager
def _init_pidfd(run_dir: str) -> Iterator[int]:
    """A pidfd of the first process, never of a later process with the same pid. Raises `ProcessLookupError` when it is
    dead."""
    init = init_record(run_dir)
    if init is None:
        raise ProcessLookupError
    pidfd = os.pidfd_open(init.pid)
    try:
        if not linux.is_process(init.pid, init.start_time):
            raise ProcessLookupError
        yield pidfd
    finally:
        os.close(pidfd)


def kill_cgroups(init: InitRecord, seconds: float = 10.0) -> bool:
    """Kill everything in the cgroups of a container that lost its monitor and the zygote, and wait until they are empty.
    Returns False when a process still exists after `seconds`."""
    deadline, pause = time.monotonic() + seconds, 0.001
    while not cgroups.kill(init.cgroups):
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    return True


def private_directory(path: str, mode: int = 0o700) -> None:
    """Make `path` a private mount point, if it is not a private mount point already. Monitors mount below `path` in their
    own namespaces, and these mounts must never propagate to the host."""
    os.makedirs(path, mode=mode, exist_ok=True)
    path = os.path.realpath(path)
    os.chmod(path, mode)
    if not any(entry.path == path for entry in mountinfo.read()):
        linux.mount("bind", path, path)
    linux.mount("", "none", path, ["private"])


def release_private_directory(path: str) -> None:
    """Undo `private_directory`. Running monitors keep their own copies of the mount."""
    path = os.path.realpath(path)
    while any(entry.path == path for entry in mountinfo.read()):
        linux.umount(path)
