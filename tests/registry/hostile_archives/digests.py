"""Digests and sizes that are wrong."""

from __future__ import annotations

from .cases import case
from .errors import ANY, BAD_MANIFEST, NO_FILE
from .making import CONFIG, FILES, LAYER, MANIFEST, OTHER, blob, digest, docker, document, dumps, member, oci, part

# --- digests ---

case("another layer under the digest", oci(blobs=[blob(OTHER, digest(FILES)[7:]), *[blob(document([FILES]))]]), NO_FILE)


def _swapped(what: str) -> bytes:
    """A layout with a blob whose content does not match its digest."""
    raw = document([FILES])
    manifest = dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST, "config": part(raw, CONFIG), "layers": [part(FILES, LAYER)]}
    )
    found = {"layer": FILES, "config": raw, "manifest": manifest}
    wrong = {"layer": OTHER, "config": raw.replace(b"sh", b"xx"), "manifest": manifest + b" "}
    blobs = [blob(wrong[key] if key == what else data, digest(data)[7:]) for key, data in found.items()]
    return oci(blobs=blobs)


case("layer with a wrong digest", _swapped("layer"), "filesystem layer verification failed for digest sha256:.*")
case("config with a wrong digest", _swapped("config"), ".*does not match its digest")
case("manifest with a wrong digest", _swapped("manifest"), ".*does not match its digest")
_hex = digest(FILES)[7:]
for text in (
    "",
    "sha256:",
    "sha256:" + "0" * 63,
    "sha256:" + _hex.upper(),
    "md5:" + "0" * 32,
    "sha512:" + "0" * 128,
    "sha256:../../../../etc/passwd",
    "../../etc/passwd",
    "sha256:" + "0" * 64,
    "sha256:" + _hex + "\0",
    "sha256:" + "é" * 32,
):
    shown = ascii(text[:20])
    case(f"manifest digest {shown}", oci(entry={"digest": text}), rf"{NO_FILE}|{ANY}")
    case(f"config digest {shown}", oci(about={"digest": text}), rf"{NO_FILE}|{BAD_MANIFEST}")
    case(f"layer digest {shown}", oci(layer={"digest": text}), rf"{NO_FILE}|{BAD_MANIFEST}")

# --- sizes ---

for size in (0, 1, 10**6, -1, 1 << 62, 1 << 70, 1.5, "12", None):
    case(f"layer size {size}", oci(layer={"size": size}), rf"{ANY}|{BAD_MANIFEST}")
    case(f"config size {size}", oci(about={"size": size}), rf"{ANY}|{BAD_MANIFEST}")
    case(f"manifest size {size}", oci(entry={"size": size}), ANY)
for size in (b"99999999999", b"-1", b"x", b"\x80" + b"\xff" * 11, b"\xff" * 12, 1 << 40, b"\x80" + bytes(10) + b"\x05"):
    text = repr(size)
    lies = member("lie", b"12345", size=size)
    case(f"tar size {text}", docker(before=lies), None if size == b"\x80" + bytes(10) + b"\x05" else ANY)
