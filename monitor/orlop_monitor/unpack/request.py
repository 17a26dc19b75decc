"""The protocol between the daemon and an unpack worker.

On one connection (SOCK_STREAM, a socketpair passed at the fork), both sides send frames. A frame is the length of a message
(uint32, little endian) and the message in msgpack. The daemon sends one request, with descriptors attached (SCM_RIGHTS) in
the order of the request's docstring. The worker answers with `Found` if the request names a path in a container, any number
of `Progress`, then one `Done` or `Failed`, then EOF. Daemon and worker always have the same version, because a worker does
not outlive its request or the daemon.
"""

from __future__ import annotations

import socket
import struct

import msgspec

from orlop_sdk.common import Mount
from orlop_sdk.linux import receive_fds

__all__ = [
    "Answer",
    "Bind",
    "Change",
    "CopyFiles",
    "CopyUp",
    "Done",
    "ExtractInto",
    "Failed",
    "Found",
    "Limits",
    "MakeDirectory",
    "MakeInitLayer",
    "Pack",
    "Progress",
    "Request",
    "StatPath",
    "Stream",
    "Unpack",
    "View",
    "decode_answer",
    "encode",
    "receive_request",
]

HEADER = struct.Struct("<I")
FRAME_LIMIT = 1 << 20


class Limits(msgspec.Struct, frozen=True):
    """Limits of one archive: uncompressed bytes, number of entries, components of a path, bytes of a path."""

    size: int = 64 << 30
    entries: int = 2_000_000
    depth: int = 256
    path: int = 4096


class Unpack(msgspec.Struct, frozen=True, tag=True):
    """Unpack the tar stream of the first descriptor into the directory of the second descriptor. If `devices` is false,
    device nodes are refused. If `ownership` is false, all files belong to the user who runs the worker (for a worker without
    root privileges). `owner` is the (uid, gid) of all files; None means the owners in the archive. If `layer` is true, names
    that begin with ".wh." are whiteouts, and the answer has the diffID. If `layer` is false, such names are ordinary names,
    and the stream is not hashed. If `keep_kind` is true, the worker refuses to replace a directory by a file, or a file by a
    directory."""

    overlay_whiteouts: bool
    limits: Limits = Limits()
    devices: bool = True
    ownership: bool = True
    owner: tuple[int, int] | None = None
    layer: bool = True
    keep_kind: bool = False


class Decompress(msgspec.Struct, frozen=True, tag=True):
    """Write the decompressed stream of the first descriptor to the file of the second descriptor, at most `size` bytes. Long
    runs of zeros become holes."""

    size: int


class Stream(msgspec.Struct, frozen=True, tag=True):
    """Normalize the tar stream of the first descriptor (see the module `normalize`), and run `argv` with the result as
    standard input, in the directory of the second descriptor. `keep` is the name of a file in this directory to which a copy
    of the result is written, "" for none."""

    argv: tuple[str, ...]
    keep: str = ""
    limits: Limits = Limits()


class CopyFiles(msgspec.Struct, frozen=True, tag=True):
    """Copy files for another process (`orlop_sdk.filecopies`). The only descriptor is the connection to that process."""


class CopyUp(msgspec.Struct, frozen=True, tag=True):
    """Copy the content, owner and mode of the directory `path` into the directory to which the request's descriptor refers,
    if that directory is empty. `path` is in the root that `mounts` make. The worker makes the mounts at `mountpoint`, an
    empty directory, in its own mount namespace."""

    mounts: tuple[Mount, ...]
    mountpoint: str
    path: str


class MakeDirectory(msgspec.Struct, frozen=True, tag=True):
    """Make the directory `path` (mode 0755, owner root) and missing parents in the root that `mounts` make. `mountpoint`:
    see `CopyUp`."""

    mounts: tuple[Mount, ...]
    mountpoint: str
    path: str


class MakeInitLayer(msgspec.Struct, frozen=True, tag=True):
    """Make the paths of the module `init_layer` in the root that `mounts` make. `mountpoint`: see `CopyUp`."""

    mounts: tuple[Mount, ...]
    mountpoint: str


class Bind(msgspec.Struct, frozen=True):
    """A mount in a container: a volume or bind at `source`, or the tree made by `mounts` (an image). `subpath` is resolved
    inside the source. (Containers may change the content of the source meanwhile.)"""

    source: str
    destination: str
    readonly: bool = False
    subpath: str = ""
    mounts: tuple[Mount, ...] = ()


class View(msgspec.Struct, frozen=True):
    """A container's files. If `joined` is true, the first descriptor is the mount namespace of the container's monitor, and
    `root` is the path of the container's root in this namespace. If `mapped` is true too, the second descriptor is the
    container's user namespace, and files have the ids of the user namespace. If `joined` is false, the worker makes `mounts`
    at `root`. `binds` are mounted in the container's root. `writable`: missing mount points are created. `readonly`: the
    container's root is read-only."""

    root: str
    mounts: tuple[Mount, ...] = ()
    binds: tuple[Bind, ...] = ()
    joined: bool = False
    writable: bool = False
    readonly: bool = False
    mapped: bool = False


class StatPath(msgspec.Struct, frozen=True, tag=True):
    """Stat `path`. Answer: `Found`."""

    view: View
    path: str


class Pack(msgspec.Struct, frozen=True, tag=True):
    """Write a tar stream to the last descriptor. The stream contains the file or directory `path`; its name in the stream is
    the last component of `path`. If `path` is "", the stream contains the whole root. If `layer` is true, the stream
    contains the changes that are listed in a file; the last but one descriptor refers to this file. `sparse`: leave out
    holes (pax format 1.0, which most tar programs read). `measure`: answer with the digest and length of the stream instead
    of writing it; the request then has no descriptor to write to. `latest` (seconds since 1970) replaces all later times of
    files."""

    view: View
    path: str = ""
    layer: bool = False
    sparse: bool = True
    measure: bool = False
    latest: int | None = None


class ExtractInto(msgspec.Struct, frozen=True, tag=True):
    """Unpack the tar stream of the last descriptor into the directory `path`. `keep_kind`: see `Unpack`. All files belong to
    `user`, who is looked up in the container's /etc/passwd; "" means the owners in the archive."""

    view: View
    path: str
    keep_kind: bool = False
    user: str = ""
    limits: Limits = Limits()


class Found(msgspec.Struct, frozen=True, tag=True):
    """Attributes of the requested path. `mode` has the format of Go's `os.FileMode`. For a symlink, `link` is the path in
    the container to which the symlink leads; this path contains no symlinks."""

    name: str
    size: int
    mode: int
    mtime_ns: int
    link: str = ""


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One line in the list of changes of a layer. `gone`: the path was deleted."""

    path: str
    gone: bool


class Progress(msgspec.Struct, frozen=True, tag=True):
    """Compressed bytes read so far."""

    consumed: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """The request succeeded. Files are not synced to disk. `diff_id` and `size` are those of the uncompressed stream.
    `copied` is the result of `CopyUp`. `content` (bytes of file content) and `inodes` are results of `Stream`."""

    diff_id: str = ""
    size: int = 0
    entries: int = 0
    copied: bool = False
    content: int = 0
    inodes: int = 0


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The request failed. `archive` is true if the archive or the request is invalid: the request would fail on any machine.
    Otherwise `errno` is the error of a system call. `missing`: the path does not exist in the container."""

    message: str
    archive: bool = False
    errno: int = 0
    missing: bool = False


Request = Unpack | Stream | Decompress | CopyFiles | CopyUp | MakeDirectory | MakeInitLayer | StatPath | Pack | ExtractInto
Answer = Progress | Found | Done | Failed

_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
_encoder = msgspec.msgpack.Encoder()


def encode(message: Request | Answer) -> bytes:
    """Encode a message as one frame."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def decode_answer(body: bytes) -> Answer:
    return _answers.decode(body)


def receive_request(connection: socket.socket) -> tuple[Request, list[int]]:
    """Read the request and its descriptors. Raises `EOFError` when the daemon has closed the connection."""
    data, fds = receive_fds(connection, HEADER.size, 4)
    while len(data) < HEADER.size:
        data += _some(connection, HEADER.size - len(data))
    (length,) = HEADER.unpack(data)
    if length > FRAME_LIMIT:
        raise ValueError(f"a request of {length} bytes exceeds the limit of {FRAME_LIMIT}")
    body = b""
    while len(body) < length:
        body += _some(connection, length - len(body))
    return _requests.decode(body), fds


def _some(connection: socket.socket, size: int) -> bytes:
    data = connection.recv(size)
    if not data:
        raise EOFError("the daemon closed the connection")
    return data
