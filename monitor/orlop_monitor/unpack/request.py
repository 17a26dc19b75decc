"""What the daemon and an unpack worker say to each other.

One connection (SOCK_STREAM, the socketpair end handed over at the fork) carries frames: uint32 little endian length, then
msgpack. Daemon: one request, its descriptors attached by SCM_RIGHTS in the order the docstrings give. Worker: `Found` where
the request is about a path in a container, any number of `Progress`, then one `Done` or `Failed`, then end of file. Both
ends are always of one version: a worker does not outlive the request, nor the daemon that made it.
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
    "CopyUp",
    "Done",
    "Failed",
    "Found",
    "Limits",
    "Look",
    "MakeDirectory",
    "MakeInitLayer",
    "Pack",
    "Place",
    "Progress",
    "Request",
    "Unpack",
    "View",
    "decode_answer",
    "encode",
    "receive_request",
]

HEADER = struct.Struct("<I")
FRAME_LIMIT = 1 << 20


class Limits(msgspec.Struct, frozen=True):
    """What one layer may cost: uncompressed bytes, entries, parts of a path, bytes of a path."""

    size: int = 64 << 30
    entries: int = 2_000_000
    depth: int = 256
    path: int = 4096


class Unpack(msgspec.Struct, frozen=True, tag=True):
    """Unpack the tar stream of the first descriptor into the directory of the second. `devices`: false refuses device
    nodes. `ownership`: false leaves everything to the user who runs the worker (a worker without root). `owner`: whose
    everything becomes, whatever the archive says. `layer`: names that begin with ".wh." are whiteouts; false: they are
    names. `keep_kind`: no directory is replaced by a file, nor the other way round."""

    overlay_whiteouts: bool
    limits: Limits = Limits()
    devices: bool = True
    ownership: bool = True
    owner: tuple[int, int] | None = None
    layer: bool = True
    keep_kind: bool = False


class CopyUp(msgspec.Struct, frozen=True, tag=True):
    """Copy the content, owner and mode of directory `path` of the root that `mounts` make into the directory of the only
    descriptor, if that is empty. `mountpoint` is an empty directory of the kernel's to mount at, in a namespace of our
    own."""

    mounts: tuple[Mount, ...]
    mountpoint: str
    path: str


class MakeDirectory(msgspec.Struct, frozen=True, tag=True):
    """Make directory `path` (0755, root's) in the root that `mounts` make, with those above it, where there is none.
    `mountpoint` as in `CopyUp`."""

    mounts: tuple[Mount, ...]
    mountpoint: str
    path: str


class MakeInitLayer(msgspec.Struct, frozen=True, tag=True):
    """Make what `init_layer` lists in the root that `mounts` make. `mountpoint` as in `CopyUp`."""

    mounts: tuple[Mount, ...]
    mountpoint: str


class Bind(msgspec.Struct, frozen=True):
    """What is mounted at a place in a container: a volume, or what the user bound there, or what `mounts` make (an image).
    `subpath` is looked up inside of it, which containers may change."""

    source: str
    destination: str
    readonly: bool = False
    subpath: str = ""
    mounts: tuple[Mount, ...] = ()


class View(msgspec.Struct, frozen=True):
    """A container's files. `root` is where its root is mounted in the mount namespace of its monitor, which comes as the
    first descriptor (`joined`); without one, where to mount `mounts`. `binds` are put in their places. `writable`: mount
    points that are missing are made. `readonly`: the root is."""

    root: str
    mounts: tuple[Mount, ...] = ()
    binds: tuple[Bind, ...] = ()
    joined: bool = False
    writable: bool = False
    readonly: bool = False


class Look(msgspec.Struct, frozen=True, tag=True):
    """What is at `path`?"""

    view: View
    path: str


class Pack(msgspec.Struct, frozen=True, tag=True):
    """Write a tar stream to the last descriptor: of `path` under its own last name; of everything when `path` is ""; of the
    changes that the descriptor before it lists (a layer) when `layer`. `sparse`: leave holes out, in a way that most
    readers of tar know."""

    view: View
    path: str = ""
    layer: bool = False
    sparse: bool = True


class Place(msgspec.Struct, frozen=True, tag=True):
    """Unpack the tar stream of the last descriptor into the directory `path`. `keep_kind` as in `Unpack`. `user`: whose
    everything becomes, as the container's own files know him; "" for whoever the archive says."""

    view: View
    path: str
    keep_kind: bool = False
    user: str = ""
    limits: Limits = Limits()


class Found(msgspec.Struct, frozen=True, tag=True):
    """What is at the path asked for. `mode` is Go's `os.FileMode`, `link` where a symlink leads to within the container."""

    name: str
    size: int
    mode: int
    mtime_ns: int
    link: str = ""


class Change(msgspec.Struct, frozen=True, array_like=True):
    """A line of the list of changes that a layer is made of."""

    path: str
    gone: bool


class Progress(msgspec.Struct, frozen=True, tag=True):
    """Compressed bytes read so far."""

    consumed: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """It is unpacked, though not synced to disk. `size` is that of the uncompressed stream. `copied` answers `CopyUp`."""

    diff_id: str = ""
    size: int = 0
    entries: int = 0
    copied: bool = False


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It is not. `archive`: the archive, or what was asked, is at fault, and it would fail anywhere; otherwise `errno` of
    what failed here. `missing`: there is no such path in the container."""

    message: str
    archive: bool = False
    errno: int = 0
    missing: bool = False


Request = Unpack | CopyUp | MakeDirectory | MakeInitLayer | Look | Pack | Place
Answer = Progress | Found | Done | Failed

_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
_encoder = msgspec.msgpack.Encoder()


def encode(message: Request | Answer) -> bytes:
    """One frame."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def decode_answer(body: bytes) -> Answer:
    return _answers.decode(body)


def receive_request(connection: socket.socket) -> tuple[Request, list[int]]:
    """Read the request and its descriptors. `EOFError` when the daemon went away first."""
    data, fds = receive_fds(connection, HEADER.size, 4)
    while len(data) < HEADER.size:
        data += _some(connection, HEADER.size - len(data))
    (length,) = HEADER.unpack(data)
    if length > FRAME_LIMIT:
        raise ValueError(f"a request of {length} bytes")
    body = b""
    while len(body) < length:
        body += _some(connection, length - len(body))
    return _requests.decode(body), fds


def _some(connection: socket.socket, size: int) -> bytes:
    data = connection.recv(size)
    if not data:
        raise EOFError("the daemon went away")
    return data
