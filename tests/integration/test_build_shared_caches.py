"""Caches that dockerd and Orlop share: the steps that one engine finds in a cache that the other engine has exported."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from tests.integration.building.clients import Client, Clients
from tests.integration.building.protocol import ProtocolClient, filing, graph, of
from tests.integration.test_build_attestations import OTHER, clients
from tests.registry import Registry, busybox, image, layer, push, running
from tests.registry.build import Content

from orlop_build_dockerfile.pb import control_pb2
from orlop_build_dockerfile.pb import ops_pb2 as pb

__all__ = ["clients"]  # a fixture

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

# Each run of this step gives another result
LAST = "RUN cat /proc/sys/kernel/random/uuid > /made\n"
# Instructions whose steps each finds in a cache of the other, and some that are not found
FOUND = {
    "run": """RUN echo '<a> & "b" é' > /x
SHELL ["/bin/sh", "-ec"]
ENV A=b
ARG C=d
RUN echo $A$C > /x
USER 0:0
WORKDIR /w/x
WORKDIR y
RUN pwd > /pwd
RUN --mount=target=/src cat /src/file > /x
RUN --mount=source=dir,target=/src ls /src > /y
RUN --mount=type=cache,target=/c touch /c/x
RUN --mount=type=cache,target=/c,id=other,sharing=locked touch /c/x
RUN --mount=type=tmpfs,target=/t touch /t/x
RUN --mount=from=stage,target=/s,rw touch /s/x
RUN --mount=type=secret,id=none true
RUN --mount=type=secret,id=none,target=/secret,uid=3,mode=0444 --mount=type=ssh true
RUN --mount=type=secret,id=other --mount=target=/src cat /src/file > /z
""",
    "copy": f"""COPY file /copied
COPY dir /directory
COPY file dir link /several/
COPY file dir/below/more link /three/
COPY dir/below/more file /
COPY . /all/
COPY --chmod=750 file /mode
COPY --chown=7:8 dir /owner
RUN echo me:x:7:8::/: >> /etc/passwd
COPY --chown=me file /named
COPY <<END /heredoc
text
END
COPY --from={OTHER} /given /
COPY --from=stage /out /from-stage
ADD file dir/ /added/
""",
    "wildcard": """COPY f* /some/
COPY nosuch* /none/
COPY l* /links/
COPY d* /directories/
COPY dir/* /entries/
COPY d?r/[a-c]* file dir/*/m* /several/
COPY * /all/
ADD --chown=7:8 dir/b* /added/
COPY --from=stage /ou* /from-stage/
""",
}
NOT_FOUND = {"link": "COPY --link file /copied\n"}


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with running() as made:
        yield made


@pytest.fixture(scope="module")
def base(registry: Registry) -> str:
    """An image at a registry. Only an image from a registry has the same digest in both engines."""
    push(registry.host, "tb-base", "1", image([layer(busybox()), layer({"base": b"1"})]))
    return f"{registry.host}/tb-base:1"


def prepare(clients: Clients, base: str, text: str) -> None:
    clients.write("Dockerfile", f"FROM {base} AS stage\nRUN echo stage > /out\nFROM {base}\n{text}{LAST}")
    clients.write(".dockerignore", "ignored\nout\ncache\n")
    clients.write("file", "a file\n")
    clients.write("ignored", "x")
    for name in ("a", "b.c", "below/more"):
        clients.write(f"dir/{name}", name)
    for each in clients:
        if not (each.directory / "link").is_symlink():
            (each.directory / "link").symlink_to("file")
        (each.directory / "dir" / "a").chmod(0o751)


def built(client: Client, *options: str) -> str:
    """The file that the last step has made."""
    shutil.rmtree(client.directory / "out", ignore_errors=True)
    result = client.build(*options, "-o", "type=local,dest=out", ".")
    assert result.code == 0, result.err
    return (client.directory / "out" / "made").read_text()


@pytest.mark.parametrize("name", [*FOUND, *NOT_FOUND])
def test_orlop_finds_steps_in_a_build_cache_that_dockerd_has_exported(clients: Clients, base: str, name: str) -> None:
    prepare(clients, base, {**FOUND, **NOT_FOUND}[name])
    cache = clients.dockerd.directory / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    theirs = built(clients.dockerd, "--cache-to", f"type=local,dest={cache},mode=max")
    clients.orlop.ok("builder", "prune", "-af")
    ours = built(clients.orlop, "--cache-from", f"type=local,src={cache}")
    assert (ours == theirs) == (name in FOUND)
    if name in ("copy", "wildcard"):  # also with mode=min, which leaves out the other stage; and not after a change
        shutil.rmtree(cache)
        theirs = built(clients.dockerd, "--cache-to", f"type=local,dest={cache},mode=min")
        clients.orlop.ok("builder", "prune", "-af")
        assert built(clients.orlop, "--cache-from", f"type=local,src={cache}") == theirs
        clients.orlop.ok("builder", "prune", "-af")
        (clients.orlop.directory / "dir" / "b.c").write_text("changed\n")
        assert built(clients.orlop, "--cache-from", f"type=local,src={cache}") != theirs


@pytest.mark.parametrize(("name", "mode"), [("run", "max"), ("copy", "min"), ("wildcard", "min")])
def test_dockerd_finds_steps_in_a_build_cache_that_orlop_has_exported(
    clients: Clients, base: str, name: str, mode: str
) -> None:
    prepare(clients, base, FOUND[name])
    cache = clients.orlop.directory / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    ours = built(clients.orlop, "--no-cache", "--cache-to", f"type=local,dest={cache},mode={mode}")
    clients.dockerd.ok("builder", "prune", "-af")
    assert built(clients.dockerd, "--cache-from", f"type=local,src={cache}") == ours


@pytest.mark.parametrize("attributes", ["mode=max", "mode=min,image-manifest=true,oci-mediatypes=true", "inline"])
@pytest.mark.parametrize("maker", ["dockerd", "orlop"])
def test_orlop_and_dockerd_use_build_caches_that_the_other_has_pushed(
    clients: Clients, base: str, registry: Registry, maker: str, attributes: str
) -> None:
    made, reader = clients if maker == "dockerd" else clients[::-1]
    prepare(clients, base, FOUND["wildcard"])
    name = f"{registry.host}/tb-shared:{maker}-{attributes.partition(',')[0].replace('=', '-')}"
    if attributes == "inline":
        made.ok("build", "--no-cache", "--push", "-t", name, "--provenance=false", "--cache-to", "type=inline", ".")
        files = built(made)
    else:
        files = built(made, "--no-cache", "--cache-to", f"type=registry,ref={name},{attributes}")
    reader.ok("builder", "prune", "-af")
    assert built(reader, "--cache-from", f"type=registry,ref={name}") == files


# --- graphs of frontends ----------------------------------------------------------------------------------------------

COPIES: list[dict[str, Any]] = [
    {"src": "/file", "exclude_patterns": ["*.x"]},
    {"src": "/dir", "exclude_patterns": ["b*"]},
    {"src": "/", "exclude_patterns": ["**/more", "file", "unused", "links"]},
    {"src": "/d*", "allowWildcard": True, "exclude_patterns": ["*/more", "!below/more"]},
    {"src": "/dir", "include_patterns": ["below/m*"]},
    {"src": "/", "include_patterns": ["dir/below/more", "f*"]},
    {"src": "/", "include_patterns": ["**/a", "dir/b*"], "exclude_patterns": ["dir/below"]},
    {"src": "/links/d*", "allowWildcard": True, "exclude_patterns": ["a"]},
    {"src": "/links/dir/*", "allowWildcard": True},
    {"src": "/links", "include_patterns": ["*", "!file"], "followSymlink": False},
    {"src": "/li*/f*", "allowWildcard": True, "followSymlink": False},
    {"src": "/links/file"},
    {"src": "/links/file", "followSymlink": False},
]
"""Copies like those of `COPY --exclude` and `COPY --parents`, which this dockerd's frontend lacks, and of other
frontends."""


def pushed(registry: Registry, unused: bytes) -> str:
    """An image with files. `unused` is the content of a file that no step reads."""
    files: dict[str, Content] = {"file": b"a file\n", "unused": unused, "dir": None, "dir/below": None, "links": None}
    files |= {f"dir/{name}": name.encode() for name in ("a", "b.c", "below/more")}
    files |= {"links/dir": "/dir", "links/file": "../file", "links/nothing": "nowhere"}
    return f"{registry.host}/tb-files@{push(registry.host, 'tb-files', '', image([layer(files)]))}"


def copies(base: str, files: str) -> pb.Definition:
    """For each copy, a step on top of the copy writes another file at each run. The result has all these files."""
    platform = pb.Platform(OS="linux", Architecture="amd64")
    root, source = (
        pb.Op(source=pb.SourceOp(identifier=f"docker-image://{name}"), platform=platform) for name in (base, files)
    )
    ops, made, actions = [root, source], [], []
    for number, fields in enumerate(COPIES):
        given = {"dest": "/copied/", "mode": -1, "timestamp": -1, "followSymlink": True, "dirCopyContents": True, **fields}
        copy = filing(copied(0, 1, **given), inputs=[root, source])
        meta = pb.Meta(args=["/bin/sh", "-c", "cat /proc/sys/kernel/random/uuid > /made"], cwd="/")
        run = pb.ExecOp(meta=meta, mounts=[pb.Mount(dest="/")])
        step = pb.Op(inputs=[of(copy)], exec=run, platform=platform)
        ops += [copy, step]
        made.append(step)
        before = len(COPIES) + number if number else 0
        last = number == len(COPIES) - 1
        actions.append(copied(before, number + 1, src="/made", dest=f"/made-{number:02}", mode=-1, timestamp=-1, last=last))
    return graph(*ops, filing(*actions, inputs=[root, *made]))


def copied(target: int, source: int, *, last: bool = True, **fields: Any) -> pb.FileAction:
    copy = pb.FileActionCopy(createDestPath=True, **fields)
    return pb.FileAction(input=target, secondaryInput=source, output=0 if last else -1, copy=copy)


def built_graph(client: Client, definition: pb.Definition, **cache: Any) -> list[str]:
    """Build a graph, and read the files of its result."""

    request = {"Exporter": "moby", "ExporterAttrs": {"name": "tb-graph"}, "Cache": control_pb2.CacheOptions(**cache)}

    async def main() -> None:
        socket = client.env["DOCKER_HOST"].removeprefix("unix://")
        async with ProtocolClient.opened(socket) as connection, connection.session() as session:
            await connection.solve(definition, session, **request)

    client.ok("builder", "prune", "-af")
    trio.run(main)
    return client.ok("run", "--rm", "--network=none", "tb-graph", "/bin/sh", "-c", "cat /made-*").out.splitlines()


def test_cached_copies_with_patterns_are_found_by_the_content_of_the_copied_files(
    clients: Clients, base: str, registry: Registry
) -> None:
    name, _, _ = base.rpartition(":")
    base = f"{name}@{push(registry.host, 'tb-base', '1', image([layer(busybox()), layer({'base': b'1'})]))}"
    cache = control_pb2.CacheOptionsEntry(Type="registry", Attrs={"ref": f"{registry.host}/tb-graphs:1", "mode": "max"})
    theirs = built_graph(clients.dockerd, copies(base, pushed(registry, b"1")), Exports=[cache])
    ours = built_graph(clients.orlop, copies(base, pushed(registry, b"2")), Imports=[cache])
    found = [copy for copy, one, other in zip(COPIES, ours, theirs, strict=True) if one == other]
    assert found == COPIES
