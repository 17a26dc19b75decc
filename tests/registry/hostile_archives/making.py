"""Makes tars of raw headers, and image archives of such tars."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import zstandard

END = bytes(1024)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "zstd": lambda data: zstandard.ZstdCompressor(1).compress(data),
    "bzip2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
}
MANIFEST, INDEX = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
CONFIG, LAYER = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar"


def number(value: int | bytes, width: int) -> bytes:
    if isinstance(value, bytes):
        return value.ljust(width, b"\0")[:width]
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return bytes([0x80 if value >= 0 else 0xFF]) + (value & ((1 << 8 * (width - 1)) - 1)).to_bytes(width - 1, "big")


def head(name: bytes | str, size: int | bytes = 0, kind: bytes = b"0", link: bytes | str = b"", **more: Any) -> bytes:
    raw = name.encode() if isinstance(name, str) else name
    target = link.encode() if isinstance(link, str) else link
    block = bytearray(512)
    block[0:100] = raw[:100].ljust(100, b"\0")
    block[100:108] = number(more.get("mode", 0o644), 8)
    block[108:116] = number(more.get("uid", 0), 8)
    block[116:124] = number(more.get("gid", 0), 8)
    block[124:136] = number(size, 12)
    block[136:148] = number(more.get("mtime", 0), 12)
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157:257] = target[:100].ljust(100, b"\0")
    block[257:265] = b"ustar\00000"
    block[329:337], block[337:345] = number(more.get("major", 0), 8), number(more.get("minor", 0), 8)
    block[148:156] = more.get("checksum", b"%06o\0 " % sum(block))
    return bytes(block)


def member(name: bytes | str, data: bytes = b"", kind: bytes = b"0", link: bytes | str = b"", **more: Any) -> bytes:
    return head(name, more.pop("size", len(data)), kind, link, **more) + data + bytes(-len(data) % 512)


def pax(*records: tuple[bytes, bytes]) -> bytes:
    body = b""
    for key, value in records:
        length = len(key) + len(value) + 3
        while len(str(length)) + len(key) + len(value) + 3 != length:
            length = len(str(length)) + len(key) + len(value) + 3
        body += b"%d %b=%b\n" % (length, key, value)
    return member("pax", body, b"x")


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


FILES = member("etc/", kind=b"5", mode=0o755) + member("etc/said", b"well\n") + END


def document(layers: Iterable[bytes], **more: Any) -> bytes:
    return dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
            **more,
        }
    )


def docker(
    layers: Iterable[bytes] = (FILES,),
    *,
    config: bytes | None = None,
    stored: Iterable[bytes] | None = None,
    entry: Mapping[str, Any] | None = None,
    table: bytes | None = None,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """`stored` are the files that the archive contains as layers. `entry` replaces members of the entry in manifest.json."""
    layers = list(layers)
    about = document(layers) if config is None else config
    paths = [f"{n}/layer.tar" for n in range(len(layers))]
    item = {"Config": "config.json", "RepoTags": ["app:1"], "Layers": paths, **(entry or {})}
    contents = layers if stored is None else list(stored)
    parts = [member(path, content) for path, content in zip(paths, contents, strict=False)]
    listed = dumps([item]) if table is None else table
    return before + b"".join(parts) + member("config.json", about) + member("manifest.json", listed) + after + END


def blob(data: bytes, name: str = "") -> bytes:
    return member(f"blobs/sha256/{name or digest(data)[7:]}", data)


def part(data: bytes, kind: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest(data), "size": len(data), **more}


def oci(
    *,
    stored: bytes = FILES,
    config: bytes | None = None,
    layer: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
    entry: Mapping[str, Any] | None = None,
    index: Any = None,
    blobs: Iterable[bytes] | None = None,
    name: str = "docker.io/library/app:1",
) -> bytes:
    """A layout with one image. The keyword arguments are mappings, which replace members of the descriptor or document of
    the same name."""
    raw = document([stored]) if config is None else config
    document_ = dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {**part(raw, CONFIG), **(about or {})},
            "layers": [{**part(stored, LAYER), **(layer or {})}],
            **(manifest or {}),
        }
    )
    item = {**part(document_, MANIFEST, annotations={"io.containerd.image.name": name}), **(entry or {})}
    listed = {"schemaVersion": 2, "manifests": [item]} if index is None else index
    content = [blob(stored), blob(raw), blob(document_)] if blobs is None else list(blobs)
    layout = member("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    return layout + b"".join(content) + member("index.json", dumps(listed)) + END


OTHER = FILES.replace(b"well", b"hurt")
"""Another layer of the same size."""
MANY = {"Config": "config.json", "RepoTags": None, "Layers": ["0/layer.tar"]}
"""An entry of a table, to be repeated."""
