"""Hostile graphs (LLB) sent to a live daemon: each ends with an error in bounded time and memory, other clients build
meanwhile, and nothing is left."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from itertools import count

import pytest
import trio
from google.protobuf.message import Message
from tests.crash.builds import builder
from tests.integration.building.protocol import BASE, ProtocolClient, executing, filing, graph, of
from tests.integration.engine import Engine, patience
from tests.integration.test_build_clients import nothing_left
from tests.integration.test_build_faults import Watched

from orlop_build_dockerfile.grpc import Code, RpcError
from orlop_build_dockerfile.pb import ops_pb2 as pb

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

ESCAPED = "/tmp/orlop-escaped"
MEMORY = 400 << 10
"""KiB that the builder may use: a request has at most 16 MiB, in up to eight million parts."""
SECONDS = 15


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine({"shutdown-timeout": 3})
    made.start()
    made.load()
    made.docker("pull", "127.0.0.1:1/none")  # the modules of a first request to a registry stay in the daemon's memory
    yield made
    assert made.close() == []


# --- the graphs -------------------------------------------------------------------------------------------------------


def action(kind: str, body: Message, **fields: int) -> pb.FileAction:
    return pb.FileAction(**{"input": -1, "secondaryInput": -1, "output": 0, kind: body, **fields})  # type: ignore[arg-type]


def mkfile(path: str = "/f", **fields: object) -> pb.FileActionMkFile:
    return pb.FileActionMkFile(**{"path": path, "mode": 0o644, "data": b"x", "timestamp": -1, **fields})  # type: ignore[arg-type]


def made(kind: str, body: Message) -> pb.Definition:
    return graph(filing(action(kind, body)))


def copied(**fields: object) -> pb.Definition:
    """A copy from busybox to an empty file system."""
    body = pb.FileActionCopy(**{"src": "/", "dest": "/x", **fields})  # type: ignore[arg-type]
    return graph(BASE, filing(action("copy", body, secondaryInput=0), inputs=[BASE]))


def owned(**by: object) -> pb.Definition:
    return made("mkfile", mkfile(owner=pb.ChownOpt(user=pb.UserOpt(**by))))  # type: ignore[arg-type]


def mounting(dest: str, kind: int = pb.BIND, **fields: object) -> pb.Definition:
    mount = {"input": -1, "dest": dest, "output": -1, "mountType": kind, **fields}
    return executing("true", mounts=[pb.Mount(**mount)])  # type: ignore[arg-type]


def deep(levels: int) -> pb.Definition:
    """A chain of file systems, each made from the previous one."""
    ops = [filing(action("mkfile", mkfile()))]
    for number in range(levels - 1):
        ops.append(filing(action("mkfile", mkfile(f"/{number}"), input=0), inputs=ops[-1:]))
    return graph(*ops)


def wide(sources: int) -> pb.Definition:
    ops = [pb.Op(source=pb.SourceOp(identifier=f"none://{number}")) for number in range(sources)]
    last = pb.Op(inputs=[of(op) for op in ops], file=pb.FileOp(actions=[action("mkfile", mkfile())]))
    return graph(*ops, last)


def same_input(times: int) -> pb.Definition:
    missing = pb.Op(source=pb.SourceOp(identifier="none://x"))
    return graph(missing, filing(action("mkfile", mkfile(), input=times - 1), inputs=[missing] * times))


def missing() -> pb.Definition:
    """An input that is missing. A cycle is impossible, because it needs a collision of SHA-256."""
    file = pb.FileOp(actions=[action("mkfile", mkfile(), input=0)])
    return graph(pb.Op(inputs=[pb.Input(digest="sha256:" + "0" * 64)], file=file))


def merging(inputs: int) -> pb.Definition:
    file = filing(action("mkfile", mkfile()))
    merged = pb.MergeOp(inputs=[pb.MergeInput(input=number) for number in range(inputs)])
    return graph(file, pb.Op(inputs=[of(file)] * inputs, merge=merged))


def actions(number: int) -> pb.Definition:
    steps = [action("mkfile", mkfile(f"/{step}"), input=step - 1, output=-1) for step in range(number)]
    steps[-1].output = 0
    return graph(filing(*steps))


def searching(word: str) -> pb.Definition:
    """A copy that compares 10,000 patterns with each of the long paths of a deep directory. This would occupy a
    thread for hours."""
    tree = filing(action("mkdir", pb.FileActionMkDir(path="/d" * 200, makeParents=True, mode=0o755)))
    patterns = [f"{word}{number}*/x" for number in range(9_999)]
    body = pb.FileActionCopy(src="/", dest="/x", include_patterns=patterns)
    return graph(tree, filing(action("copy", body, secondaryInput=0), inputs=[tree]))


def source(identifier: str, **attrs: str) -> pb.Definition:
    return graph(pb.Op(source=pb.SourceOp(identifier=identifier, attrs={k.replace("_", "."): v for k, v in attrs.items()})))


def raw(*ops: bytes) -> pb.Definition:
    return pb.Definition(**{"def": ops})


REFUSED: dict[str, Callable[[], pb.Definition]] = {
    # The graph
    "nothing at the end": lambda: raw(BASE.SerializeToString()),
    "no operation": lambda: graph(pb.Op()),
    "not a message": lambda: raw(b"\xff" * 100),
    "a wrong wire type": lambda: graph(b"\x12\x02\x0a\x00\x10\x01" + b"\x0d\x01\x02\x03\x04"),
    "messages in messages": lambda: raw(b"\x0a\x7f" * 10_000),
    "an unknown operation": lambda: graph(b"\xf2\x3f\x03abc"),
    "an input that is missing": missing,
    "an output that is missing": lambda: graph(BASE, output=-1),
    "eight million empty operations": lambda: raw(*[b""] * 8_000_000),
    "vertices": lambda: wide(30_000),
    "a vertex with many inputs": lambda: same_input(99_000),
    "more edges than allowed": lambda: same_input(150_000),
    "many inputs of a merge": lambda: merging(50_000),
    "more bytes than a message may have": lambda: made("mkfile", mkfile(data=bytes(64 << 20))),
    # File actions
    "an input that is negative": lambda: graph(filing(action("mkfile", mkfile(), input=-5))),
    "an output that is negative": lambda: graph(filing(action("mkfile", mkfile(), output=-2)), output=-2),
    "a path above the root": lambda: made("mkfile", mkfile(f"../../..{ESCAPED}")),
    "NUL in a path": lambda: made("mkfile", mkfile("/a\0b")),
    "NUL in a source": lambda: copied(src="/bin\0/sh"),
    "NUL in a link": lambda: made("symlink", pb.FileActionSymlink(oldpath="/a\0", newpath="/b")),
    "a long name": lambda: made("mkfile", mkfile("/" + "n" * 5000)),
    "a deep directory": lambda: made("mkdir", pb.FileActionMkDir(path="/d" * 3000, makeParents=True)),
    "a file in place of the root": lambda: made("mkfile", mkfile("/")),
    "the root removed": lambda: made("rm", pb.FileActionRm(path="/../.")),
    "an endless wildcard": lambda: copied(src="/" + "*a" * 1000 + "b", allowWildcard=True),
    "a bad wildcard": lambda: copied(src="/[", allowWildcard=True),
    "a bad pattern": lambda: copied(include_patterns=["**/*a" * 300, "["]),
    "300,000 patterns": lambda: copied(include_patterns=[f"a{number}" for number in range(300_000)]),
    "a mode of megabytes": lambda: copied(modeStr="u+rw," * 300_000),
    # Commands
    "no command": lambda: executing(meta={"args": []}),
    "no root": lambda: executing("true", root=False),
    "two roots": lambda: mounting("/", output=1),
    "NUL in an argument": lambda: executing("a\0b"),
    "NUL in the environment": lambda: executing("true", meta={"env": ["A=\0"]}),
    "a million arguments": lambda: executing(*["x"] * 1_000_000),
    "a large environment": lambda: executing("true", meta={"env": [f"A{n}=x" for n in range(500_000)]}),
    "a large variable": lambda: executing("true", meta={"env": ["A=" + "x" * 3_000_000]}),
    "no name of a variable": lambda: executing("true", meta={"env": ["=x"]}),
    "a relative directory": lambda: executing("true", meta={"cwd": "etc"}),
    "a negative user": lambda: executing("true", meta={"user": "-1:-1"}),
    "a user beyond 32 bits": lambda: executing("true", meta={"user": "99999999999999999999"}),
    "a long host name": lambda: executing("true", meta={"hostname": "h" * 10_000}),
    "lines in a host": lambda: executing("true", meta={"extraHosts": [pb.HostIP(Host="a", IP="1.2.3.4\n5.6.7.8 b")]}),
    "a limit that is not": lambda: executing("true", meta={"ulimit": [pb.Ulimit(Name="../x", Soft=1, Hard=2)]}),
    "limits upside down": lambda: executing("true", meta={"ulimit": [pb.Ulimit(Name="nofile", Soft=-5, Hard=-9)]}),
    "an unknown network": lambda: executing("true", network=99),
    "an unknown security mode": lambda: executing("true", security=99),
    "the host's network": lambda: executing("true", network=pb.HOST),
    "privileges": lambda: executing("true", security=pb.INSECURE),
    "a device": lambda: executing("true", cdiDevices=[pb.CDIDevice(name="vendor.com/gpu=all")]),
    # Mounts
    "no mount point": lambda: mounting(""),
    "the root once more": lambda: mounting("//"),
    "proc": lambda: mounting("/proc"),
    "dev": lambda: mounting("/dev"),
    "a selector that leads above": lambda: mounting("/x", input=0, readonly=True, selector="../../../../etc"),
    "an unknown kind of mount": lambda: mounting("/x", 99),
    "an unknown sharing mode": lambda: mounting("/x", pb.CACHE, cacheOpt=pb.CacheOpt(sharing=99)),
    "a negative size": lambda: mounting("/x", pb.TMPFS, TmpfsOpt=pb.TmpfsOpt(size=-1)),
    "a negative size of shm": lambda: mounting("/dev/shm", pb.TMPFS, TmpfsOpt=pb.TmpfsOpt(size=-1)),
    "a secret that nobody has": lambda: mounting("/x", pb.SECRET, secretOpt=pb.SecretOpt(ID="s")),
    # Sources
    "an unknown source": lambda: source("none://x"),
    "no source": lambda: source("x"),
    "no image": lambda: source("docker-image://"),
    "NUL in an image": lambda: source("docker-image://a\0b"),
    "an image's name of a megabyte": lambda: source("docker-image://" + "a" * 1_000_000),
    "a platform that leads above": lambda: graph(
        pb.Op(source=BASE.source, platform=pb.Platform(OS="../x", Architecture="\0"))
    ),
    "an option of git": lambda: source("git://--upload-pack=/bin/sh/x"),
    "a program of git": lambda: source("git://x", git_fullurl=f"ext::sh -c touch% {ESCAPED}"),
    "a repository of the host": lambda: source("git://x", git_fullurl="file:///etc"),
    "a bad address": lambda: source("http://[::1"),
    "a file name that leads above": lambda: source("http://127.0.0.1:1/", http_filename=f"../..{ESCAPED}"),
    "a bad pattern of a context": lambda: source("local://x", local_includepattern="[1"),
    # Other operations
    "a difference of nothing": lambda: graph(
        BASE, pb.Op(inputs=[of(BASE)], diff=pb.DiffOp(lower=pb.LowerDiffInput(input=-5)))
    ),
    "a merge of nothing": lambda: graph(pb.Op(merge=pb.MergeOp())),
    "an unknown builder": lambda: graph(
        BASE, pb.Op(inputs=[of(BASE)], build=pb.BuildOp(builder=7, inputs={"x": pb.BuildInput(input=0)}))
    ),
}

CONTAINED: dict[str, Callable[[], pb.Definition]] = {
    "an owner of -1": lambda: owned(byID=0xFFFFFFFF),
    "an owner by an absurd name": lambda: owned(byName=pb.NamedUserOpt(name="a\0:b\n", input=7)),
    "a mode of -1": lambda: made("mkfile", mkfile(mode=-1)),
    "the end of time": lambda: made("mkfile", mkfile(timestamp=(1 << 63) - 1)),
    "before time": lambda: made("mkfile", mkfile(timestamp=-(1 << 63))),
    "a link to the host": lambda: made("symlink", pb.FileActionSymlink(oldpath="/etc/passwd", newpath="/x")),
    "a file through a link to the host": lambda: graph(
        filing(
            action("symlink", pb.FileActionSymlink(oldpath=ESCAPED, newpath="/l"), output=-1),
            action("mkfile", mkfile("/l/../../../x"), input=0, output=-1),
            action("mkdir", pb.FileActionMkDir(path="/l/x", makeParents=True, mode=0o777), input=1),
        )
    ),
    "everything removed": lambda: made("rm", pb.FileActionRm(path="/*", allowWildcard=True)),
    "a directory above the root": lambda: executing("true", meta={"cwd": "/../../.."}),
    "a mount above the root": lambda: mounting(f"/../../..{ESCAPED}"),
    "a relative mount": lambda: mounting("x"),
    "a mount on a program of proc": lambda: mounting("/proc/self/exe", pb.TMPFS),
    "mounts on each other": lambda: executing(
        "true",
        mounts=[pb.Mount(input=0, dest=dest, output=-1) for dest in ("/x/y", "/x", "/x", "/x/../bin", "/etc/hosts/x")],
    ),
    "a thousand mounts": lambda: executing(
        "true", mounts=[pb.Mount(input=-1, dest=f"/m{n}", output=-1, mountType=pb.TMPFS) for n in range(1000)]
    ),
    "the name of a cache": lambda: mounting("/x", pb.CACHE, cacheOpt=pb.CacheOpt(ID=f"../../..{ESCAPED}\0")),
}
"""These graphs may be refused or run, but must not reach the host."""

ENDLESS: dict[str, Callable[[], pb.Definition]] = {
    "layers on layers": lambda: deep(4000),
    "a hundred thousand actions": lambda: actions(100_000),
    "patterns and long paths": lambda: searching("a"),
    "patterns and long paths again": lambda: searching("b"),
    "a step that does not end": lambda: executing("sleep", "61337"),
}
"""These graphs may run until the client disconnects."""


# --- the tests --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def others_building(engine: Engine) -> AsyncIterator[None]:
    """Another client builds all the time. Its builds are not cached, and each must be fast."""
    builds = 0

    async def build(client: ProtocolClient, session: str) -> None:
        nonlocal builds
        for number in count():
            with trio.fail_after(patience(SECONDS)):
                await client.solve(made("mkfile", mkfile(f"/{os.getpid()}-{number}")), session)
            builds += 1
            await trio.sleep(0.05)

    async with ProtocolClient.opened(engine) as client, client.session() as session, trio.open_nursery() as nursery:
        nursery.start_soon(build, client, session)
        yield
        assert builds, "others have built"
        nursery.cancel_scope.cancel()


def attack(engine: Engine, work: Callable[[ProtocolClient, str], Awaitable[None]]) -> None:
    """Run `work` with a client, and measure. Afterwards the same builder must run, and must have logged no internal
    error."""

    async def main() -> None:
        async with ProtocolClient.opened(engine) as client, client.session() as session:
            await client.solve(made("mkfile", mkfile()), session)
            pid = builder(engine)
            async with others_building(engine):
                await work(client, session)
            assert builder(engine) == pid, "the builder has died"

    watching = Watched(engine)
    # Not in pytest's own thread, where a blocked event loop fails the test: this client serializes graphs of 64 MB
    with watching, ThreadPoolExecutor(1) as thread:
        thread.submit(trio.run, main).result()
    watching.check(MEMORY)
    nothing_left(engine)
    assert not os.path.exists(ESCAPED)
    log = (engine.exec_root / "builder.log").read_text()
    assert "Traceback" not in log, log[-5000:]


@pytest.mark.parametrize("table", [REFUSED, CONTAINED], ids=["refused", "contained"])
def test_hostile_build_graph_is_refused_or_built_in_bounded_time(
    engine: Engine, table: dict[str, Callable[[], pb.Definition]]
) -> None:
    found: dict[str, str] = {}

    async def work(client: ProtocolClient, session: str) -> None:
        for name, make in table.items():
            definition = await trio.to_thread.run_sync(make)
            with trio.move_on_after(patience(SECONDS)) as scope:
                try:
                    await client.solve(definition, session)
                except RpcError as error:
                    if error.code == Code.INTERNAL or not error.message.strip() or len(error.message) > 100_000:
                        found[name] = f"{error.code} {error.message[:300]!r}"
                else:
                    if table is REFUSED:
                        found[name] = "was built"
            if scope.cancelled_caught:
                found[name] = "takes too long"

    attack(engine, work)
    assert found == {}


def test_builds_of_endless_graphs_end_when_the_client_disconnects(engine: Engine) -> None:
    async def work(client: ProtocolClient, session: str) -> None:
        for name, make in ENDLESS.items():
            definition = await trio.to_thread.run_sync(make)
            async with ProtocolClient.opened(engine) as own, own.session() as leaving:
                # A fast machine gets as far as the storage driver's limit on layers
                with trio.move_on_after(1.5), suppress(RpcError):
                    await own.solve(definition, leaving)
            with trio.fail_after(patience(SECONDS)):  # the threads for hashes, which are few, are free
                for number in range(4):
                    await client.solve(copied(include_patterns=[f"{name}-{number}"]), session)

    attack(engine, work)
