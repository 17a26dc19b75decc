"""Values that several kinds of driver share."""

from __future__ import annotations

import msgspec

__all__ = ["Command", "Drift", "Mount", "Outcome"]


class Mount(msgspec.Struct, frozen=True):
    """One mount, as data. A driver only describes the mount; the container's monitor mounts it (as in containerd's
    snapshotter contract).

    `type` is a file system type or "bind". `target` is relative to the mount point that the daemon chose; "" is the mount
    point itself. `options` are mount(8) options: known options ("ro", "nosuid", "rbind", "rprivate", ...) become mount
    flags, all other options are joined by commas and passed to the file system as data. If `options` contain "loop",
    `source` and the files of `device=` options are first attached to loop devices.

    `mountpoint`, if set, is used instead of `target`: the absolute path of a directory of the driver. Use `mountpoint` for a
    mount that only later mounts need (a layer of an overlay). These mounts, too, are made in a private mount namespace.
    """

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()
    mountpoint: str = ""


class Command(msgspec.Struct, frozen=True):
    """A program to run, as data. The daemon runs the program with exactly this environment, and without inherited
    descriptors. It kills the program after `timeout` seconds."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/"
    stdin: bytes = b""
    timeout: float = 120.0


class Outcome(msgspec.Struct, frozen=True):
    """How a `Command` ended. `status` is the exit code, or the negated signal number. `stdout` and `stderr` contain at least
    the last 4 KiB of each stream."""

    status: int
    stdout: bytes = b""
    stderr: bytes = b""
    timed_out: bool = False


class Drift(msgspec.Struct, frozen=True):
    """One difference between the machine and the daemon's records, reported by a driver's `audit`.

    `kind` is "stray" (an object without a record), "missing" or "damaged". `object`, `text` and `repair` are shown to users:
    `object` names the object, `text` describes the difference, and `repair` says what the driver's method `repair` will do
    ("" if no repair is safe). `id` is the id of the endpoint, network or snapshot; "" if the driver does not know the id.
    `note` is private to the driver: the daemon passes it unchanged to `repair`."""

    kind: str
    object: str
    text: str
    repair: str = ""
    id: str = ""
    note: str = ""
