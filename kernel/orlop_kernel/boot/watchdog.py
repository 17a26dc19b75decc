"""Reports tasks that block the event loop, as asyncio's `slow_callback_duration` does.

A step is the time in which a task runs without giving control back to the event loop, so that no client is answered. The
length of a step is its wall time minus the time in which the thread waited for a processor (the second field of
/proc/thread-self/schedstat), so that a busy machine causes no reports. The length therefore contains only computing,
blocking system calls and waiting for the GIL. If a step waits for the disk when it is sampled, the report says so, because
the speed of the disk depends on the machine. For a step that waited for another thread, only the processor time of this
process is counted, because the other thread may have waited for a processor.

The watchdog is installed while `debug` is on, or if the environment sets ORLOP_LOOP_WATCHDOG to a threshold in milliseconds.
Otherwise this module is not imported.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType

import trio

__all__ = ["BLOCKED", "DISK", "THRESHOLD", "VARIABLE", "Blocked", "LoopWatchdog", "follow", "log_blocked", "threshold"]

THRESHOLD = 0.1
"""Seconds. A client notices when its `ping` takes this long."""

BLOCKED = "event loop blocked"
DISK = "waiting for the disk"
VARIABLE = "ORLOP_LOOP_WATCHDOG"
_FRAMES = 12  # innermost frames in a report; twelve reach from a blocking call up to the handler
_log = logging.getLogger("orlop.loop")


@dataclass(frozen=True, slots=True)
class Blocked:
    """A step that took too long. `frames` are the innermost frames when the step passed the threshold, "" if they were not
    sampled in time. `disk` is true if the thread was in uninterruptible sleep then: it probably waited for the disk."""

    task: str
    seconds: float
    frames: str = ""
    disk: bool = False

    def __str__(self) -> str:
        text = f"{BLOCKED} for {self.seconds * 1000:.0f} ms by task {self.task}"
        return f"{text}{f', {DISK}' if self.disk else ''}{f': {self.frames}' if self.frames else ''}"


Report = Callable[[Blocked], None]


def _open_schedstat() -> int | None:
    """Open schedstat of the calling thread; None where the kernel has no scheduler statistics (CONFIG_SCHED_INFO)."""
    try:
        return os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


class LoopWatchdog(trio.abc.Instrument):
    """The trio instrument. Create it in the thread of the event loop that it watches."""

    def __init__(self, report: Report, threshold: float = THRESHOLD) -> None:
        self._report = report
        self._threshold = threshold
        self._fd = _open_schedstat()
        self._thread, self._tid = threading.get_ident(), threading.get_native_id()
        self._began = 0.0  # 0 means that no step is running
        self._waited = 0
        self._computed = 0.0
        self._seen = ("", "")  # the frames, and what the thread waits for
        self._closed = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="loop-watchdog", daemon=True)
        self._sampler.start()

    def close(self) -> None:
        self._closed.set()
        self._sampler.join()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._waited = self._run_queue_wait()
        self._seen = ("", "")
        self._computed = time.process_time()
        self._began = time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if not self._began:  # the step began before the instrument was added
            return
        passed = time.perf_counter() - self._began
        self._began = 0.0
        if passed > self._threshold:
            passed -= (self._run_queue_wait() - self._waited) / 1e9
            frames, waits_for = self._seen
            if waits_for == "lock":
                passed = min(passed, time.process_time() - self._computed)
            if passed > self._threshold:
                self._report(Blocked(task.name, passed, frames, waits_for == "disk"))

    def _run_queue_wait(self) -> int:
        """Nanoseconds that the thread has waited for a processor so far."""
        return int(os.pread(self._fd, 64, 0).split()[1]) if self._fd is not None else 0

    def _sample(self) -> None:
        """Record the loop's stack when a step passes the threshold, because its frames do not exist after the step."""
        looked_at = 0.0
        while not self._closed.wait(self._threshold / 2):
            began = self._began
            if began and began != looked_at and time.perf_counter() - began > self._threshold:
                looked_at = began
                waits_for = _waits_for(self._tid)
                frame = sys._current_frames().get(self._thread)
                seen = (_short(frame) if frame else "", waits_for)
                if self._began == began:
                    self._seen = seen


def _waits_for(tid: int) -> str:
    """What the thread `tid` waits for: "disk" (uninterruptible sleep), "lock" (futex(2), also for the GIL) or "" ."""
    try:
        with open(f"/proc/self/task/{tid}/stat") as file:
            if file.read().rpartition(") ")[2][:1] == "D":
                return "disk"
        with open(f"/proc/self/task/{tid}/wchan") as file:
            return "lock" if file.read().startswith("futex") else ""
    except OSError:
        return ""


def _short(frame: FrameType) -> str:
    """The step's frames in one line, innermost first, without trio's frames."""
    found = []
    for one, line in itertools.islice(traceback.walk_stack(frame), _FRAMES):
        if one.f_globals.get("__name__") == "trio._core._run":
            break
        found.append(f"{one.f_code.co_name} ({'/'.join(one.f_code.co_filename.split('/')[-2:])}:{line})")
    return " < ".join(found)


def log_blocked(found: Blocked) -> None:
    _log.warning("%s", found)


def threshold(environ: Mapping[str, str]) -> float:
    """The threshold in seconds that the environment variable sets; 0 when it is not set."""
    text = environ.get(VARIABLE, "")
    return int(text) / 1000 if text.isascii() and text.isdecimal() else 0.0


def follow(current: LoopWatchdog | None, debug: bool, environ: Mapping[str, str]) -> LoopWatchdog | None:
    """Add the instrument to the running loop or remove it, as configuration and environment demand. `current` is the
    installed instrument; the result is the instrument that is installed after the call. None means no instrument."""
    wanted = threshold(environ) or (THRESHOLD if debug else 0.0)
    if wanted and current is None:
        current = LoopWatchdog(log_blocked, wanted)
        trio.lowlevel.add_instrument(current)
    elif not wanted and current is not None:
        trio.lowlevel.remove_instrument(current)
        current.close()
        current = None
    return current
