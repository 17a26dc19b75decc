"""Layers with odd content."""

from __future__ import annotations

from .cases import case
from .errors import WRONG_LAYER
from .making import END, FILES, docker, member, pax

# --- layers ---


def layer(name: str, content: bytes, error: str | None, *below: bytes) -> None:
    """An image with this layer on top of the layers below. `error` is a part of the message."""
    pattern = rf"(invalid diffID for layer {len(below)}: .*)?cannot unpack layer: .*{error}.*"
    case(f"layer: {name}", docker([*below, content + END]), None if error is None else pattern)


layer("absolute name", member("/etc/orlop-hostile", b"x"), None)
layer("climbing name", member("../../../etc/orlop-hostile", b"x"), "leads outside of the root")
layer("through a symlink", member("a", kind=b"2", link="/etc") + member("a/orlop-hostile", b"x"), "dangling symlink")
layer("hard link outside", member("a", kind=b"1", link="/etc/passwd"), "which does not exist")
layer("hard link to itself", member("a", kind=b"1", link="a"), "cannot be made")
layer("symlink to nothing", member("a", kind=b"2", link=""), "cannot be made")
layer("device nodes", member("null", kind=b"3", major=1, minor=3) + member("disk", kind=b"4", major=8), None)
layer("set-id file", member("su", b"x", mode=0o6755), None)
layer("unknown type", member("x", kind=b"Z"), "not supported")
layer("negative owner", member("x", uid=-1), "is out of range")
layer("owner without meaning", member("x", uid=(1 << 32) - 1), "is out of range")
layer("time before the epoch", member("x", mtime=-5), None)
layer("time far away", member("x", mtime=1 << 60), None)
layer("whiteout of nothing", member(".wh.nothing"), None)
layer("whiteout without a name", member(".wh."), "not a valid whiteout")
layer("whiteout of the directory", member("a/.wh.."), "not a valid whiteout")
layer("whiteout of the parent", member("a/.wh..."), "not a valid whiteout")
layer("opaque root", member(".wh..wh..opq"), None)
layer("opaque in nothing", member("a/b/.wh..wh..opq"), None)
layer("AUFS metadata", member(".wh..wh.plnk", kind=b"5") + member(".wh..wh.aufs"), None)
layer("whiteout in a file", member("a", b"x") + member("a/.wh.b"), "Not a directory")
layer("whiteout that is a directory", member(".wh.etc", kind=b"5"), None, FILES)
layer("whiteout that is a symlink", member(".wh.etc", kind=b"2", link="/"), None, FILES)
layer("file and its whiteout", member("a", b"x") + member(".wh.a"), None)
layer("directory over a file", member("a", b"x") + member("a", kind=b"5") + member("a/b", b"y"), None)
layer("file over a directory", member("a", kind=b"5") + member("a/b", b"y") + member("a", b"x"), None)
layer(
    "300 directories deep",
    member("/".join("d" * 300)[:100], kind=b"5") + pax((b"path", b"/".join([b"d"] * 300))) + member("x"),
    "directories deep",
)
layer("a name of 5,000 bytes", pax((b"path", b"x" * 5000)) + member("x"), "longer than")
layer("a name of 300 bytes", pax((b"path", b"x" * 300)) + member("x"), "File name too long")
layer("pax record of 2 MB", pax((b"comment", b"x" * (2 << 20))) + member("x"), "beyond the limit")
layer("100,000 pax records", pax(*[(b"k%d" % n, b"v") for n in range(60_000)]) + member("x"), None)
layer("pax header with a wrong length", member("pax", b"999999 path=x\n", b"x") + member("x"), "pax header is malformed")
layer("pax header of noise", member("pax", b"\xff\0\xff", b"x") + member("x"), "pax header is malformed")
layer("pax size that lies", pax((b"size", b"99999999")) + member("x", b"12"), "unexpected EOF")
layer("pax size that is negative", pax((b"size", b"-5")) + member("x", b"12"), "negative size")
layer("pax path with NUL", pax((b"path", b"a\0b")) + member("x"), "contains a NUL")
layer("long name of 2 MB", member("L", b"x" * (2 << 20), b"L") + member("x"), "beyond the limit")
layer(
    "sparse file of 4 EB",
    pax(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"s"),
        (b"GNU.sparse.realsize", b"4611686018427387904"),
    )
    + member("s", b"0\n".ljust(512, b"\0")),
    "larger than",
)
layer("privileged attribute", pax((b"SCHILY.xattr.trusted.overlay.redirect", b"/etc")) + member("d", kind=b"5"), None)
layer("attribute of 100 kB", pax((b"SCHILY.xattr.user.x", b"x" * 100_000)) + member("x"), "Argument list too long")
case("layer: no tar", docker([b"no tar at all" * 100]), WRONG_LAYER)
case("layer: nothing", docker([b""]), None)
case("layer: cut off", docker([FILES[:700]]), WRONG_LAYER)
case("layer: noise after the end", docker([FILES + b"\xff" * 1000]), None)
