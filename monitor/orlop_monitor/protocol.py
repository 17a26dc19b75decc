"""The protocol between the daemon and a monitor. It must stay compatible between versions, because an upgraded daemon adopts
monitors that an older daemon started: fields are only added, with a default, and never changed or removed.

On a connection (a SOCK_STREAM unix socket in a 0700 directory), both sides send frames. A frame is the length of a message
(uint32, little endian) and the message in msgpack: a `Request` from the daemon, a `Reply` or an `Event` from the monitor.
The first connection is a socketpair passed at the fork; later connections are made to `<run_dir>/sock`. A connection has one
of two uses:

*control*: any number of requests, each answered by the `Reply` with the same `serial`; after `Subscribe` also events.
*stream*: the first request is `Attach`, or `Exec` with `attach`; after its successful `Reply` the connection is a raw duplex
stream. The monitor sends Docker's multiplexed frames, or raw bytes with a terminal, and shuts down writing at the end of the
output. The daemon sends standard input, and shuts down writing at its end.

Files in `run_dir` (0700, below exec-root), each written atomically by rename: `monitor.json` (`MonitorRecord`, once the
monitor listens), `init.json` (`InitRecord`, once the container runs), `exit.json` (`ExitRecord`, before the exit is
announced). A restarted daemon reads these files.
"""

from __future__ import annotations

import struct

import msgspec

from orlop_sdk.common import Command, Mount
from orlop_sdk.idmaps import IdMap
from orlop_sdk.log import LogInfo

__all__ = [
    "LOG_OPENING",
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
    "LogLost",
    "MonitorRecord",
    "MountPoint",
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

PROTOCOL_VERSION = 2  # version 2 added `Serve.moved`
LOG_OPENING = 5.0
"""Seconds that a log driver has to open a log. The monitor answers no request meanwhile, so the daemon waits longer."""
FRAME_LIMIT = 16 << 20
HEADER = struct.Struct("<I")


class Log(msgspec.Struct, frozen=True):
    """The container's log driver. The zygote has imported its module; otherwise the monitor imports it. If the driver has no
    reader, the monitor also writes the log with the driver named `cache`, so that `docker logs` works. If `cache` is "",
    only the first driver is used. `own` are the names of the Python distributions with this project's drivers. Calls of the
    writers of other drivers have a deadline (see `foreign_writer`)."""

    driver: str
    info: LogInfo
    options: dict[str, str] = {}
    cache: str = ""
    cache_options: dict[str, str] = {}
    own: tuple[str, ...] = ()


# --- requests -------------------------------------------------------------------------------------------------------


class Tree(msgspec.Struct, frozen=True):
    """A part of a volume or an image, or shared memory of several containers. The tree is mounted at `<stage>/<name>`, a
    path that no container can change, and the OCI spec binds the tree from there. The mounts in `mounts` make the content of
    the tree. If `pid` is set, the content is a copy of the mounts that the process `pid` (another monitor) has at `path`.
    `subpath` is resolved inside the content, by descriptor. For a container with a user namespace, the content is id-mapped
    if its file system supports this."""

    name: str
    mounts: tuple[Mount, ...] = ()
    subpath: str = ""
    pid: int = 0
    path: str = ""


class MountPoint(msgspec.Struct, frozen=True):
    """A mount point in the container's root. `source` is the path that is mounted there. If `source` is a file, the mount
    point is a file too."""

    path: str
    source: str = ""


class Launch(msgspec.Struct, frozen=True, tag=True):
    """The first request, sent once: build the sandbox. `mounts` are made at `root` in order, in the monitor's mount
    namespace. `network` is "new" for a new namespace, "" for the host's network, or the path (below /proc) of a namespace to
    join. Before all other steps, the mounts at the paths in `detach` are unmounted (MNT_DETACH). Answer: `Status`, with the
    descriptor of the network namespace (SCM_RIGHTS), except for the host's network."""

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
    """The directory for `trees`, below a mount that does not propagate; "" when there are no trees."""
    trees: tuple[Tree, ...] = ()
    outputs: bool = False
    """The container's standard output and standard error are descriptors that are sent with this request, instead of pipes
    to the monitor. With `outputs`, nothing is logged, and an attachment gets no output. With `stdin`, a third descriptor is
    the container's standard input."""
    bound: bool = False
    """The container is killed when the first connection is closed. Its root is unmounted before `Exited` is announced."""
    stubs: tuple[MountPoint, ...] = ()
    """Mount points that must not remain in the root after the exit (see `stubs`)."""
    ids: IdMap | None = None
    """The id mapping of the user namespace that the monitor creates for the container; None for the host's user namespace.
    With `ids`, `stage` must be set."""
    user: str = ""
    """With `ids`: the path of another container's user namespace, which is joined instead of creating a new one. Other
    namespaces of that container are joined, too."""
    layers: str = ""
    """With `ids`: the storage driver's directory. It is id-mapped for `mounts` and `trees`."""


class Start(msgspec.Struct, frozen=True, tag=True):
    """The second request, sent once: run the container. The command `delete` is run after the container's exit.
    `console_size` is (rows, columns). `cgroup` is the spec's linux.cgroupsPath. It is needed if init exits before the
    monitor has read init's cgroups from /proc. Answer: `Started`, or `Failed` after the monitor has cleaned up; the monitor
    then exits."""

    run: Command
    delete: Command
    pid_file: str
    log_file: str
    console_socket: str = ""
    console_size: tuple[int, int] = (0, 0)
    cgroup: str = ""


class Forward(msgspec.Struct, frozen=True):
    """The target of one listening socket: connections or datagrams go to `address`:`port`, from the host's network
    namespace."""

    protocol: str
    address: str
    port: int


class Serve(msgspec.Struct, frozen=True, tag=True):
    """`moved` contains pairs of an old and a new address. Listeners whose target is the old address get the new address as
    target; if the new address is "", they are closed. After that, the monitor serves additional listeners, whose sockets are
    attached (SCM_RIGHTS) in order. Answer: `Status`."""

    forwards: tuple[Forward, ...]
    moved: tuple[tuple[str, str], ...] = ()


class Resolve(msgspec.Struct, frozen=True, tag=True):
    """Start the name server at 127.0.0.11 in the container's network namespace, with the tables in `file` (see `dns.names`).
    A second request changes nothing. Answer: `Status` once names resolve, or `Failed`."""

    path: str


class Attach(msgspec.Struct, frozen=True, tag=True):
    """Attach to the container's standard streams. `stdin_once`: the end of this client's input closes the container's
    standard input. `framed`: output is sent in Docker's frames; None means framed unless there is a terminal. Answer:
    `Status`, then the raw stream."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    stdin_once: bool = False
    framed: bool | None = None


class Exec(msgspec.Struct, frozen=True, tag=True):
    """Run an additional process. If `attach` is set, this connection becomes the process's stream; otherwise the process's
    output is dropped. Answer: `Started` or `Failed`; later, subscribers get an `ExecExited` event."""

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
    """Set the size of the terminal of the container (`exec_id` is "") or of an exec. Answer: `Status` or `Failed`."""

    rows: int
    columns: int
    exec_id: str = ""


class Signal(msgspec.Struct, frozen=True, tag=True):
    """Send a signal by pidfd to the container's init (`exec_id` is "") or to an exec's process. Answer: `Status` or
    `Failed`."""

    signum: int
    exec_id: str = ""


class Subscribe(msgspec.Struct, frozen=True, tag=True):
    """Send events on this connection from now on. Answer: `Status`, followed by `Exited` if the container has already
    exited."""


class State(msgspec.Struct, frozen=True, tag=True):
    """Ask for the state of the monitor. Answer: `Status`."""


class Request(msgspec.Struct, frozen=True):
    serial: int
    body: Launch | Start | Serve | Resolve | Attach | Exec | Resize | Signal | Subscribe | State


# --- answers --------------------------------------------------------------------------------------------------------


class Status(msgspec.Struct, frozen=True, tag=True):
    """`phase`: "launched", "running" or "ended". `netns_fd` is the monitor's descriptor of the network namespace, so the
    namespace can be opened as /proc/<monitor_pid>/fd/<netns_fd>; -1 for the host's network. `execs` maps running execs to
    pids. `unreported_exits` are the exit codes of execs that ended while there was no subscriber. `log_lost`: see
    `LogLost`."""

    phase: str
    monitor_pid: int
    pid: int = 0
    netns_fd: int = -1
    execs: dict[str, int] = {}
    unreported_exits: dict[str, int] = {}
    userns_fd: int = -1
    """As `netns_fd`, but for the user namespace."""
    version: int = PROTOCOL_VERSION
    log_lost: int = 0


class Started(msgspec.Struct, frozen=True, tag=True):
    """The process runs. `start_time` is the result of `linux.process_start_time`; `time_ns` is Unix time."""

    pid: int
    start_time: int
    time_ns: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The request failed. If a command failed: its `status` (exit code, or negated signal), the end of its stderr, and the
    content of the runtime's log file. Otherwise `message` says what failed, and `errno` is set if a system call failed."""

    message: str
    status: int = 0
    stderr: bytes = b""
    log: bytes = b""
    errno: int = 0
    timed_out: bool = False


class Exited(msgspec.Struct, frozen=True, tag=True):
    """The container exited. Its output has been read to the end, its log is closed and `exit.json` is written. The monitor
    then deletes the task and exits, which destroys the root mounts and the network namespace. `log_lost`: see `LogLost`."""

    code: int
    time_ns: int
    oom: bool = False
    log_lost: int = 0


class ExecExited(msgspec.Struct, frozen=True, tag=True):
    """An exec exited and its output has been read to the end. `code` is 128+n for signal n."""

    exec_id: str
    code: int
    time_ns: int


class Oom(msgspec.Struct, frozen=True, tag=True):
    """The container is out of memory: the kernel killed or stopped one of its processes."""

    time_ns: int


class LogLost(msgspec.Struct, frozen=True, tag=True):
    """The log driver did not log all output. `lost` is the number of log entries (lines, or pieces of lines) of this run
    that are lost so far, and `reason` says why. Sent for the first lost entry, and then after pauses that double up to a
    minute."""

    lost: int
    reason: str


class Reply(msgspec.Struct, frozen=True, tag=True):
    serial: int
    body: Status | Started | Failed


class Event(msgspec.Struct, frozen=True, tag=True):
    body: Exited | ExecExited | Oom | LogLost


# --- files ----------------------------------------------------------------------------------------------------------


class MonitorRecord(msgspec.Struct, frozen=True):
    pid: int
    start_time: int
    container_id: str
    version: int = PROTOCOL_VERSION


class InitRecord(msgspec.Struct, frozen=True):
    """`cgroups` are the absolute paths of the container's cgroups, which must be empty when the container is dead."""

    pid: int
    start_time: int
    time_ns: int
    cgroups: tuple[str, ...] = ()


class ExitRecord(msgspec.Struct, frozen=True):
    """`code` is 128+n for signal n. `error` is set when the monitor died and another process wrote the record. `log_lost`:
    see `LogLost`."""

    code: int
    time_ns: int
    oom: bool = False
    error: str = ""
    log_lost: int = 0
