"""Messages in the data of a stream: a flag, four bytes of length, the message."""

from __future__ import annotations

import struct

from orlop_build_dockerfile.grpc._status import Code, RpcError

__all__ = ["PREFIX", "MessageReader", "encode"]

PREFIX = 5
_HEAD = struct.Struct(">BI")


def encode(message: bytes) -> bytes:
    return _HEAD.pack(0, len(message)) + message


class MessageReader:
    """Collects messages from pieces of any size. `pending` is the number of received bytes of the incomplete message,
    `needed` its whole size (5 until the size is known)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._partial = bytearray()
        self.needed = PREFIX

    @property
    def pending(self) -> int:
        return len(self._partial)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are now complete. Raises RpcError for compressed messages and for messages that exceed the
        limit."""
        if self._partial:
            self._partial += data
            if len(self._partial) < self.needed:
                return []
            data = bytes(self._partial)
            self._partial.clear()
        messages = []
        position, end = 0, len(data)
        self.needed = PREFIX
        while end - position >= PREFIX:
            flag, size = _HEAD.unpack_from(data, position)
            if flag:
                raise RpcError(Code.UNIMPLEMENTED, "compressed messages are not supported")
            if size > self._limit:
                raise RpcError(
                    Code.RESOURCE_EXHAUSTED, f"a message of {size} bytes is larger than the limit of {self._limit}"
                )
            start = position + PREFIX
            if end - start < size:
                self.needed = PREFIX + size
                break
            position = start + size
            messages.append(data[start:position])
        if position < end:
            self._partial += data[position:] if position else data
        return messages
