"""Archives that are cut off, compressed, or no archives."""

from __future__ import annotations

import bz2
import itertools
import lzma
import random
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import zstandard

from .cases import case
from .errors import ANY, BAD_CONFIG, EOF, NO_TABLE, NO_TAR, WRONG_LAYER
from .making import END, FILES, PACKERS, docker, head, oci

# --- cut off, or no archive at all ---

_whole, _layout = docker(), oci()
_table = _whole.index(b"manifest.json")
for at in (1, 100, 511, 513, 1000, 1025, 1537, 2000, 2561, _table + 100, _table + 513, _table + 600):
    case(f"cut off at {at}", _whole[:at], EOF)
for at, why in ((512, EOF), (1024, EOF), (_table, NO_TABLE)):
    case(f"cut off between blocks at {at}", _whole[:at], why)
case("no end mark", _whole[:-1024], None)
case("half an end mark", _whole[:-512], None)
case("padding after the end", _whole + bytes(10240), None)
case("noise after the end", _whole + b"\xff" * 5000, None)
for at in (700, 2000, len(_layout) - 2000):
    case(f"layout cut off at {at}", _layout[:at], EOF)
case("empty body", b"", NO_TABLE)
case("zeros", bytes(10240), NO_TABLE)
case("one byte", b"x", EOF)
case("text", b"<html>404 not found</html>\n" * 100, NO_TAR)
case("an executable", b"\x7fELF" + bytes(2000), NO_TAR)
case("noise", random.Random(1).randbytes(4096), NO_TAR)
case("wrong checksum", head("manifest.json", 2, checksum=b"000001\0 ") + b"[]" + bytes(510) + END, NO_TAR)
case("a zip file", b"PK\3\4" + bytes(2000), NO_TAR)

# --- compression ---

BAD_STREAM = r"cannot decompress the archive: .*"
_zeros = 128 << 20
_bomb = head("zeros", 40 << 20) + bytes(40 << 20) + END


def bomb(pack: str) -> Callable[[], Iterable[bytes]]:
    """A member of 128 MB of zeros, before a good image."""

    def body() -> Iterable[bytes]:
        plain = [head("zeros", _zeros), *itertools.repeat(bytes(1 << 20), _zeros >> 20), _whole]
        if pack == "gzip":
            packer: Any = zlib.compressobj(1, zlib.DEFLATED, 31)
        elif pack == "zstd":
            packer = zstandard.ZstdCompressor(1).compressobj()
        else:
            packer = bz2.BZ2Compressor(1) if pack == "bzip2" else lzma.LZMACompressor(preset=0)
        return [*[packer.compress(piece) for piece in plain], packer.flush()]

    return body


for kind, pack in PACKERS.items():
    packed = pack(_whole)
    middle = bytearray(packed)
    middle[len(middle) // 2] ^= 0xFF
    case(f"{kind}", packed, None)
    case(f"{kind} cut off", packed[:-20], BAD_STREAM)
    case(f"{kind} of the magic number only", packed[:6], BAD_STREAM)
    case(f"{kind} damaged", bytes(middle), rf"{BAD_STREAM}|{ANY}|{NO_TABLE}|{WRONG_LAYER}|{BAD_CONFIG}")
    case(f"{kind} of nothing", pack(b""), NO_TABLE)
    case(f"{kind} twice", pack(packed), ANY)
    case(f"{kind} of a cut off tar", pack(_whole[:1000]), EOF)
    case(f"{kind} bomb", bomb(kind), None)
    case(f"layer in {kind}", docker(stored=[pack(FILES)]), None)
    case(f"layer in {kind} cut off", docker(stored=[pack(FILES)[:-9]]), WRONG_LAYER)
    case(f"layer in {kind} of something else", docker(stored=[pack(FILES[:-512])]), WRONG_LAYER)
    case(f"layer in {kind} twice", docker(stored=[pack(pack(FILES))]), WRONG_LAYER)
    case(f"layer in {kind} is a bomb", docker([_bomb], stored=[pack(_bomb)]), None)
for kind, magic in {
    "lz4": b"\x04\x22\x4d\x18",
    "lzip": b"LZIP\1",
    "compress": b"\x1f\x9d\x90",
    "lzma": b"\x5d\0\0\x80\0",
}.items():
    case(f"unknown compression {kind}", magic + bytes(2000), ANY)
    case(f"layer in unknown compression {kind}", docker(stored=[magic + bytes(2000)]), WRONG_LAYER)
case("a skippable frame and nothing else", b"\x50\x2a\x4d\x18\x04\0\0\0abcd", rf"{BAD_STREAM}|{NO_TABLE}")
