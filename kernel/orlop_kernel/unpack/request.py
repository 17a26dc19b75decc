"""What the daemon and an unpack worker say to each other.

One connection (SOCK_STREAM, the socketpair end handed over at the fork) carries frames: uint32 little endian length, then
msgpack. Daemon: one `Unpack` or `CopyUp`, its descriptors attached by SCM_RIGHTS in the order the docstrings give. Worker:
any number of `Progress`, then one `Done` or `Failed`, then end of file. Both ends are always of one version: a worker does
not outlive the request, nor the daemon that made it.
"""

from __future__ import annotations

import socket
import struct

import msgspec

from orlop_kernel.spi.common import Mount

__all__ = ["CopyUp", "Done", "Failed", "Limits", "Progress", "Unpack", "decode_answer", "encode", "receive_request"]

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
    nodes. `ownership`: false leaves everything to the user who runs the worker (a worker without root)."""

    overlay_whiteouts: bool
    limits: Limits = Limits()
    devices: bool = True
    ownership: bool = True


class CopyUp(msgspec.Struct, frozen=True, tag=True):
    """Copy the content, owner and mode of directory `path` of the root that `mounts` make into the directory of the only
    descriptor, if that is empty. `mountpoint` is an empty directory of the kernel's to mount at, in a namespace of our
    own."""

    mounts: tuple[Mount, ...]
    mountpoint: str
    path: str


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
    """It is not. `archive`: the archive is at fault, and it would fail anywhere; otherwise `errno` of what failed here."""

    message: str
    archive: bool = False
    errno: int = 0


_requests: msgspec.msgpack.Decoder[Unpack | CopyUp] = msgspec.msgpack.Decoder(Unpack | CopyUp)
_answers: msgspec.msgpack.Decoder[Progress | Done | Failed] = msgspec.msgpack.Decoder(Progress | Done | Failed)
_encoder = msgspec.msgpack.Encoder()


def encode(message: Unpack | CopyUp | Progress | Done | Failed) -> bytes:
    """One frame."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def decode_answer(body: bytes) -> Progress | Done | Failed:
    return _answers.decode(body)


def receive_request(connection: socket.socket) -> tuple[Unpack | CopyUp, list[int]]:
    """Read the request and its descriptors. `EOFError` when the daemon went away first."""
    data, fds, _, _ = socket.recv_fds(connection, HEADER.size, 4)
    while len(data) < HEADER.size:
        data += _some(connection, HEADER.size - len(data))
    (length,) = HEADER.unpack(data)
    if length > FRAME_LIMIT:
        raise ValueError(f"a request of {length} bytes")
    body = b""
    while len(body) < length:
        body += _some(connection, length - len(body))
    return _requests.decode(body), list(fds)


def _some(connection: socket.socket, size: int) -> bytes:
    data = connection.recv(size)
    if not data:
        raise EOFError("the daemon went away")
    return data
