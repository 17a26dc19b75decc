"""Values that several driver kinds share."""

from __future__ import annotations

import msgspec

__all__ = ["SPI_VERSION", "Command", "Drift", "Mount", "Outcome"]

SPI_VERSION = 1
"""The version of the driver contracts. A driver's factory declares the one it was written for; see `hooks`."""


class Mount(msgspec.Struct, frozen=True):
    """One mount, as data: a driver says what to mount, a monitor mounts it (containerd's snapshotter contract).

    `type` is a file system type or "bind". `target` is relative to the mount point the kernel chose: "" is that point
    itself. `options` are mount(8) words: known flags ("ro", "nosuid", "rbind", "rprivate", ...) become flags, the rest is
    joined by commas into the file system's data.
    """

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


class Command(msgspec.Struct, frozen=True):
    """A program to run, as data: the kernel runs it with exactly this environment, no inherited fd and a deadline."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/"
    stdin: bytes = b""
    timeout: float = 120.0


class Outcome(msgspec.Struct, frozen=True):
    """How a `Command` ended. `status` is the exit code, or minus the signal; the outputs are their last 4 KiB at least."""

    status: int
    stdout: bytes = b""
    stderr: bytes = b""
    timed_out: bool = False


class Drift(msgspec.Struct, frozen=True):
    """One thing on the machine that is not as the kernel's books have it, as `audit` of a driver reports it. `kind`:
    "stray" (belongs to nothing), "missing" or "damaged". `text` says what that means, `repair` what the driver's `mend`
    would do about it, "" when nothing safe can be done. `id` is the endpoint, network or snapshot it is about, "" when
    unknown; `note` is the driver's own note for `mend`."""

    kind: str
    object: str
    text: str
    repair: str = ""
    id: str = ""
    note: str = ""
