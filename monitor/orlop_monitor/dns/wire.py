"""The parts of DNS messages (RFC 1035) that a forwarder with local names needs. No I/O; the input is not trusted."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "AAAA",
    "ANY",
    "NOERROR",
    "PTR",
    "REFUSED",
    "SERVFAIL",
    "A",
    "Question",
    "address_record",
    "name_record",
    "question",
    "rcode",
    "reply",
    "reverse_name",
]

A, PTR, AAAA, OPT, ANY = 1, 12, 28, 41, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
TTL = 600
_HEADER = struct.Struct("!6H")
_UDP = 512
_UDP_MOST = 4096


class Question(NamedTuple):
    """A DNS question. `name` is in lower case, without the final dot. `end` is the offset at which the question section
    ends. `size` is the largest datagram that the client accepts, in bytes."""

    ident: int
    flags: int
    name: str
    type: int
    end: int
    size: int


def question(data: bytes) -> Question | None:
    """Parse a query for one name of class IN. Returns None for all other data."""
    if len(data) < 12:
        return None
    ident, flags, questions, answers, authorities, more = _HEADER.unpack_from(data)
    if flags & 0xF800 or questions != 1 or answers or authorities:
        return None
    labels: list[str] = []
    at = 12
    while at < len(data) and data[at]:
        length = data[at]
        if length > 63 or at + 1 + length > len(data) or at - 12 > 255:
            return None
        labels.append(data[at + 1 : at + 1 + length].decode("ascii", "replace").lower())
        at += 1 + length
    at += 1
    if at + 4 > len(data):
        return None
    kind, klass = struct.unpack_from("!2H", data, at)
    if klass not in (1, 255):
        return None
    return Question(ident, flags, ".".join(labels), kind, at + 4, _size(data, at + 4, more))


def _size(data: bytes, at: int, records: int) -> int:
    """The datagram size of EDNS0: the class of the OPT record, which is the first additional record of a query."""
    if records and len(data) >= at + 11 and data[at] == 0 and struct.unpack_from("!H", data, at + 1)[0] == OPT:
        size: int = struct.unpack_from("!H", data, at + 3)[0]
        return max(_UDP, min(size, _UDP_MOST))
    return _UDP


def refusal(data: bytes) -> bytes:
    """The error answer to a query that `question` does not accept. If the data is not a query, the result is b""."""
    if len(data) < 12 or data[2] & 0x80:
        return b""
    code = NOTIMP if data[2] & 0x78 else FORMERR
    return data[:2] + bytes((0x80 | data[2] & 0x79, 0x80 | code)) + bytes(8)


def rcode(data: bytes) -> int:
    code: int = data[3] & 15 if len(data) >= 12 else SERVFAIL
    return code


def address_record(address: str) -> bytes:
    """An A or AAAA record for the name in the question."""
    packed = ipaddress.ip_address(address).packed
    kind = A if len(packed) == 4 else AAAA
    return struct.pack("!HHHIH", 0xC00C, kind, 1, TTL, len(packed)) + packed


def name_record(name: str) -> bytes:
    """A PTR record for the name in the question."""
    encoded = b"".join(bytes((len(label),)) + label for label in name.encode().split(b".")) + b"\0"
    return struct.pack("!HHHIH", 0xC00C, PTR, 1, TTL, len(encoded)) + encoded


def reply(query: bytes, asked: Question, records: Sequence[bytes] = (), code: int = NOERROR, size: int = 65535) -> bytes:
    """An answer of at most `size` bytes. If records do not fit, the TC flag is set. On failure the flags AA and RA are not
    set (RFC 1035, 4.1.1), as in Docker."""
    kept: list[bytes] = []
    left = size - asked.end
    for record in records:
        if len(record) > left:
            break
        kept.append(record)
        left -= len(record)
    truncated = 0x0200 if len(kept) < len(records) else 0
    known = 0x0480 if code == NOERROR else 0  # the flags AA and RA
    flags = 0x8000 | known | (asked.flags & 0x0100) | truncated | code
    return _HEADER.pack(asked.ident, flags, 1, len(kept), 0, 0) + query[12 : asked.end] + b"".join(kept)


def reverse_name(name: str) -> str:
    """The address for a name below in-addr.arpa or ip6.arpa; "" for other names."""
    try:
        if name.endswith(".in-addr.arpa"):
            parts = name.removesuffix(".in-addr.arpa").split(".")
            return str(ipaddress.IPv4Address(".".join(reversed(parts))))
        if name.endswith(".ip6.arpa"):
            digits = "".join(reversed(name.removesuffix(".ip6.arpa").split(".")))
            if len(digits) == 32:
                return str(ipaddress.IPv6Address(int(digits, 16)))
    except ValueError:
        pass
    return ""
