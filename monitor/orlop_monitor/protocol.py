"""What the daemon and a monitor say to each other. Public between two versions of the daemon: an upgraded daemon adopts
monitors that an older one started, so fields are added, never changed or removed, and every one added has a default.

A connection (SOCK_STREAM, unix, in a 0700 directory) carries frames: uint32 little endian length, then msgpack of
`Request` from the daemon, `Reply` or `Event` from the monitor. The first connection is the socketpair end handed over at
the fork; later ones come to `<run_dir>/sock`. Two uses:

*control*: any number of requests, each answered by the `Reply` of the same `serial`; after `Subscribe`, events too.
*stream*: the first request is `Attach` or `Exec` with `attach`; after its successful `Reply` the connection is a raw
duplex stream. Downwards: Docker's multiplexed frames, or raw bytes with a terminal; it ends by a write shutdown once the
output is at its end. Upwards: standard input; a write shutdown is its end.

Files in `run_dir` (0700, under exec-root), each written whole by rename:
`monitor.json` (`MonitorRecord`, once it listens), `init.json` (`InitRecord`, once the container runs),
`exit.json` (`ExitRecord`, before anyone is told). A daemon that was away reads them.
"""

from __future__ import annotations

import struct

import msgspec

from orlop_sdk.common import Command, Mount
from orlop_sdk.log import LogInfo

__all__ = [
    "PROTOCOL_VERSION",
    "Attach",
    "Event",
    "Exec",
    "ExecExited",
    "ExitRecord",
    "Exited",
    "Failed",
    "Forward",
    "InitRecord",
    "Launch",
    "Log",
    "MonitorRecord",
    "Oom",
    "Reply",
    "Request",
    "Resize",
    "Resolve",
    "Serve",
    "Signal",
    "Start",
    "Started",
    "State",
    "Status",
    "Subscribe",
    "Tree",
]

PROTOCOL_VERSION = 2  # since 2: `Serve.moved`
FRAME_LIMIT = 16 << 20
HEADER = struct.Struct("<I")


class Log(msgspec.Struct, frozen=True):
    """The log of the container: the driver's module is preloaded by the zygote, or imported in the monitor."""

    driver: str
    info: LogInfo
    options: dict[str, str] = {}


# --- requests -------------------------------------------------------------------------------------------------------


class Tree(msgspec.Struct, frozen=True):
    """A part of a volume or an image, or the shared memory of several containers: made beside the root, for the spec to bind
    `<stage>/<name>` from, a path that no container can change. What is mounted there is `mounts`; or, with `pid`, a copy of
    what that process, another monitor, has at `path`. `subpath` is looked up inside that, by descriptor."""

    name: str
    mounts: tuple[Mount, ...] = ()
    subpath: str = ""
    pid: int = 0
    path: str = ""


class Launch(msgspec.Struct, frozen=True, tag=True):
    """First request, once: build the sandbox. `mounts` are made at `root` in order, in the monitor's own mount namespace.
    `network`: "new", or "" for the host's, or a path under /proc to join. `detach`: mount points to detach first.
    Answer: `Status`, with the fd of the network namespace attached (SCM_RIGHTS) unless it is the host's."""

    id: str
    run_dir: str
    root: str
    mounts: tuple[Mount, ...]
    network: str = "new"
    detach: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    """Host paths whose mounts must stay in the monitor's namespace (sources of bind mounts)."""
    terminal: bool = False
    stdin: bool = False
    log: Log | None = None
    stage: str = ""
    """A directory, below one that propagates nothing, to make `trees` in; "" where there are none."""
    trees: tuple[Tree, ...] = ()


class Start(msgspec.Struct, frozen=True, tag=True):
    """Second request, once: run the container. `delete` is run after its end. `console_size` is (rows, columns).
    `cgroup` is the spec's linux.cgroupsPath: an init that ended at once can no longer be asked where it was.
    Answer: `Started` or `Failed`; after `Failed` the monitor has cleaned up and ends."""

    run: Command
    delete: Command
    pid_file: str
    log_file: str
    console_socket: str = ""
    console_size: tuple[int, int] = (0, 0)
    cgroup: str = ""


class Forward(msgspec.Struct, frozen=True):
    """One listening socket to serve: connections (or datagrams) go to `address`:`port` from the host's namespace."""

    protocol: str
    address: str
    port: int


class Serve(msgspec.Struct, frozen=True, tag=True):
    """Serve these listeners from now on (replaces none; adds). Their sockets come along by SCM_RIGHTS, in order.
    `moved`, before that: listeners that lead to the first address of a pair lead to the second now, or end where it is "".
    Answer: `Status`."""

    forwards: tuple[Forward, ...]
    moved: tuple[tuple[str, str], ...] = ()


class Resolve(msgspec.Struct, frozen=True, tag=True):
    """Answer names at 127.0.0.11 in the container's network namespace from now on, by this file (see `dns.names`); again: no
    change. Answer: `Status` once names resolve, or `Failed`."""

    path: str


class Attach(msgspec.Struct, frozen=True, tag=True):
    """Join the container's standard streams. `stdin_once`: the end of our input closes the container's. `framed`: the
    output comes in Docker's frames; None: it does when there is no terminal. Answer: `Status`, then the raw stream."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    stdin_once: bool = False
    framed: bool | None = None


class Exec(msgspec.Struct, frozen=True, tag=True):
    """Run a further process. With `attach` this connection becomes its stream, otherwise its output is dropped.
    Answer: `Started` or `Failed`; later an `ExecExited` event to subscribers."""

    exec_id: str
    run: Command
    pid_file: str
    log_file: str
    terminal: bool = False
    stdin: bool = False
    console_socket: str = ""
    console_size: tuple[int, int] = (0, 0)
    attach: Attach | None = None


class Resize(msgspec.Struct, frozen=True, tag=True):
    """Set the size of the terminal of the container (`exec_id` "") or of an exec. Answer: `Status` or `Failed`."""

    rows: int
    columns: int
    exec_id: str = ""


class Signal(msgspec.Struct, frozen=True, tag=True):
    """Send a signal to the container's init (`exec_id` "") or to an exec's process (by pidfd: never to a stranger).
    Answer: `Status` or `Failed`."""

    signum: int
    exec_id: str = ""


class Subscribe(msgspec.Struct, frozen=True, tag=True):
    """Send events on this connection from now on. Answer: `Status`; an `Exited` that has already happened follows."""


class State(msgspec.Struct, frozen=True, tag=True):
    """Ask how it stands. Answer: `Status`."""


class Request(msgspec.Struct, frozen=True):
    serial: int
    body: Launch | Start | Serve | Resolve | Attach | Exec | Resize | Signal | Subscribe | State


# --- answers --------------------------------------------------------------------------------------------------------


class Status(msgspec.Struct, frozen=True, tag=True):
    """`phase`: "launched", "running", "ended". `netns_fd` is the number of the network namespace's fd *in the monitor*:
    /proc/<monitor_pid>/fd/<netns_fd> opens it; -1 for the host's. `execs` maps running execs to pids; `unheard` are the exit
    codes of those that ended while nobody was subscribed."""

    phase: str
    monitor_pid: int
    pid: int = 0
    netns_fd: int = -1
    execs: dict[str, int] = {}
    unreported_exits: dict[str, int] = {}
    version: int = PROTOCOL_VERSION


class Started(msgspec.Struct, frozen=True, tag=True):
    """The process runs. `start_time` as of `linux.process_start_time`; `time_ns` is Unix time."""

    pid: int
    start_time: int
    time_ns: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It did not. With a command: its `status` (exit code, or minus the signal), the end of its stderr, and the runtime's
    log file. Without: `message` says what failed. `errno` when a system call did."""

    message: str
    status: int = 0
    stderr: bytes = b""
    log: bytes = b""
    errno: int = 0
    timed_out: bool = False


class Exited(msgspec.Struct, frozen=True, tag=True):
    """The container ended: its output is at its end, its log is closed and `exit.json` is written. The monitor then
    deletes the task and ends; its root and network namespace go with it."""

    code: int
    time_ns: int
    oom: bool = False


class ExecExited(msgspec.Struct, frozen=True, tag=True):
    """An exec ended and its output is at its end. `code` is 128+n for signal n."""

    exec_id: str
    code: int
    time_ns: int


class Oom(msgspec.Struct, frozen=True, tag=True):
    """The kernel killed a process of the container for memory."""

    time_ns: int


class Reply(msgspec.Struct, frozen=True, tag=True):
    serial: int
    body: Status | Started | Failed


class Event(msgspec.Struct, frozen=True, tag=True):
    body: Exited | ExecExited | Oom


# --- files ----------------------------------------------------------------------------------------------------------


class MonitorRecord(msgspec.Struct, frozen=True):
    pid: int
    start_time: int
    container_id: str
    version: int = PROTOCOL_VERSION


class InitRecord(msgspec.Struct, frozen=True):
    """`cgroups`: absolute directories of the container's cgroups: what must be empty when it is dead."""

    pid: int
    start_time: int
    time_ns: int
    cgroups: tuple[str, ...] = ()


class ExitRecord(msgspec.Struct, frozen=True):
    """`code` is 128+n for signal n. `error` is set when the monitor did not see the end itself."""

    code: int
    time_ns: int
    oom: bool = False
    error: str = ""
