"""Members that are no files, or too many or too large."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from .cases import case
from .errors import ANY, BAD_CONFIG, NO_FILE, NO_TABLE, WRONG_LAYER
from .making import END, FILES, MANIFEST, MANY, docker, document, dumps, head, member, oci, part, pax

# --- what the members are ---

_links = {
    "symlink to itself": (b"2", "{}"),
    "symlink to a file of the host": (b"2", "/etc/passwd"),
    "symlink that climbs": (b"2", "../../../../../../etc/passwd"),
    "hard link to nothing": (b"1", "nothing"),
    "hard link to itself": (b"1", "{}"),
    "directory": (b"5", ""),
    "FIFO": (b"6", ""),
    "device": (b"3", ""),
    "block device": (b"4", ""),
    "member of unknown type": (b"Z", ""),
}
for what, (kind_, target) in _links.items():
    for name in ("0/layer.tar", "config.json", "manifest.json"):
        replaced = member(name, kind=kind_, link=target.format(name), major=1, minor=3)
        case(f"{name} is a {what}", docker(after=replaced), NO_TABLE if name == "manifest.json" else NO_FILE)
case(
    "layer behind a symlink",
    docker(
        entry={"Layers": ["x/y"]}, before=member("x", kind=b"2", link="0") + member("0/y", kind=b"1", link="0/layer.tar")
    ),
    None,
)
case(
    "symlink chain of 15",
    docker(
        entry={"Layers": ["l0"]},
        before=b"".join(member(f"l{n}", kind=b"2", link=f"l{n + 1}" if n < 14 else "0/layer.tar") for n in range(15)),
    ),
    None,
)
case(
    "symlink chain of 100",
    docker(entry={"Layers": ["l0"]}, before=b"".join(member(f"l{n}", kind=b"2", link=f"l{n + 1}") for n in range(100))),
    NO_FILE,
)
case(
    "symlinks in a circle",
    docker(entry={"Layers": ["a"]}, before=member("a", kind=b"2", link="b") + member("b", kind=b"2", link="a/c")),
    NO_FILE,
)
_sparse = pax(
    (b"GNU.sparse.major", b"1"),
    (b"GNU.sparse.minor", b"0"),
    (b"GNU.sparse.name", b"0/layer.tar"),
    (b"GNU.sparse.realsize", b"1024"),
)
case("layer is a sparse file", docker(after=_sparse + member("s", b"1\n0\n0\n".ljust(512, b"\0"))), NO_FILE)
case("sparse map that lies", docker(after=_sparse + member("s", b"9999999\n".ljust(512, b"\0"))), ANY)
case("sparse map without an end", docker(after=_sparse + member("s", b"1" * 512)), ANY)
for name in ("../config.json", "/config.json", "./config.json", "x/../config.json", "//config.json"):
    case(f"configuration called {name}", docker(entry={"Config": name}), None)
for name in (
    "../../etc/passwd",
    "/etc/passwd",
    "",
    ".",
    "/",
    "x" * 100_000,
    "config.json\0x",
    "\ud800",
    "blobs/sha256/../../config",
):
    case(
        f"configuration called {name[:30]!a}",
        docker(table=dumps([{"Config": name, "RepoTags": None, "Layers": []}])),
        rf"{NO_FILE}|{ANY}",
    )
case("the table as its configuration", docker(entry={"Config": "manifest.json"}), BAD_CONFIG)
case("a layer as configuration", docker(entry={"Config": "0/layer.tar"}), BAD_CONFIG)
case("table given twice", docker(before=member("manifest.json", b"nonsense")), None)
case("layer given twice", docker(before=member("0/layer.tar", b"nonsense")), None)
case("large layer given twice", docker(before=member("0/layer.tar", bytes(200_000))), None)
case("configuration replaced", docker(after=member("config.json", b"{}")), BAD_CONFIG)
case("layer replaced", docker(after=member("0/layer.tar", bytes(200_000))), WRONG_LAYER)
case("member with an absolute and climbing name", docker(before=member("/../../tmp/orlop-hostile", b"x")), None)
case("member with a name that is not UTF-8", docker(before=member(b"\xff\xfe\x80", b"x")), None)
case("member without a name", docker(before=member("", b"x")), None)

# --- too many, too deep, too large ---


def entries(count: int, same: bool = False) -> Callable[[], Iterator[bytes]]:
    def body() -> Iterator[bytes]:
        block = b"".join(head("x" if same else f"d{n}", kind=b"5") for n in range(2048))
        yield from itertools.repeat(block, count // 2048)
        yield docker()

    return body


TOO_MANY = "cannot read the archive: it has more than 131072 members"
case("a million members", entries(1_000_000), TOO_MANY)
case("a million members of one name", entries(1_000_000, same=True), TOO_MANY)
case("a hundred thousand members", entries(100_000), None)
_deep = b"[" * 100_000 + b"]" * 100_000
case("deep table", docker(table=_deep), ANY)
case("deep configuration", docker(config=b'{"rootfs":' + _deep + b"}"), BAD_CONFIG)
case("deep labels", docker(config=document([FILES])[:-1] + b', "x": ' + _deep + b"}"), BAD_CONFIG)
case("deep index", member("index.json", b'{"manifests":' + _deep + b"}") + END, ANY)
case("table of 5 MB", docker(table=b" " * (5 << 20) + b"[]"), ".* is larger than 4194304 bytes")
case("configuration of 5 MB", docker(config=document([FILES], pad="x" * (5 << 20))), ".* is larger than 4194304 bytes")
case("configuration of 3 MB", docker(config=document([FILES], pad="x" * (3 << 20))), None)
case("5,000 images", docker(table=dumps([MANY] * 5000)), ".*contains 5000 images, at most 4096 are allowed")
case("5,000 names", docker(entry={"RepoTags": [f"app:{n}" for n in range(5000)]}), ".*contains 5000 names.*")
case("one image 300 times", docker(table=dumps([MANY] * 300)), None, ("",))
case(
    "2,000 layers",
    docker(config=document([FILES] * 2000), entry={"Layers": ["0/layer.tar"] * 2000}),
    ".*layers are too many",
)
case(
    "200 layers",
    docker(config=document([FILES] * 200), entry={"Layers": ["0/layer.tar"] * 200}),
    "cannot load image: max depth exceeded: 200 layers",
)
case(
    "20,000 steps",
    docker(config=document([FILES], history=[{"created_by": "x"}] * 20_000)),
    ".*steps of history are too many",
)
case(
    "5,000 manifests",
    oci(index={"schemaVersion": 2, "manifests": [part(FILES, MANIFEST)] * 5000}),
    ".*contains 5000 images.*",
)
case(
    "300 reads of a large configuration",
    docker(config=document([FILES], pad="x" * 400_000), table=dumps([MANY] * 300)),
    ".*manifests and configurations have over.*",
)
