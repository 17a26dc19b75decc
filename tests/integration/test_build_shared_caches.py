"""Caches that dockerd and Orlop share: the steps that one engine finds in a cache that the other engine has exported."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from tests.integration.building.clients import Client, Clients
from tests.integration.test_build_attestations import OTHER, clients
from tests.registry import busybox, image, layer, push, running

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
}
NOT_FOUND = {"pattern": "COPY f* /copied/\n", "secret": "RUN --mount=type=secret,id=none true\n"}


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """An image at a registry. Only an image from a registry has the same digest in both engines."""
    with running() as registry:
        push(registry.host, "tb-base", "1", image([layer(busybox()), layer({"base": b"1"})]))
        yield f"{registry.host}/tb-base:1"


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
def test_steps_are_found_in_a_cache_of_dockerd(clients: Clients, base: str, name: str) -> None:
    prepare(clients, base, {**FOUND, **NOT_FOUND}[name])
    cache = clients.dockerd.directory / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    theirs = built(clients.dockerd, "--cache-to", f"type=local,dest={cache},mode=max")
    clients.orlop.ok("builder", "prune", "-af")
    ours = built(clients.orlop, "--cache-from", f"type=local,src={cache}")
    assert (ours == theirs) == (name in FOUND)
    if name == "copy":  # also with the least cache, which lacks the other stage, and only until a change
        shutil.rmtree(cache)
        theirs = built(clients.dockerd, "--cache-to", f"type=local,dest={cache},mode=min")
        clients.orlop.ok("builder", "prune", "-af")
        assert built(clients.orlop, "--cache-from", f"type=local,src={cache}") == theirs
        clients.orlop.ok("builder", "prune", "-af")
        (clients.orlop.directory / "dir" / "b.c").write_text("changed\n")
        assert built(clients.orlop, "--cache-from", f"type=local,src={cache}") != theirs


@pytest.mark.parametrize(("name", "mode"), [("run", "max"), ("copy", "min")])
def test_dockerd_finds_steps_in_a_cache_of_orlop(clients: Clients, base: str, name: str, mode: str) -> None:
    prepare(clients, base, FOUND[name])
    cache = clients.orlop.directory / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    ours = built(clients.orlop, "--no-cache", "--cache-to", f"type=local,dest={cache},mode={mode}")
    clients.dockerd.ok("builder", "prune", "-af")
    assert built(clients.dockerd, "--cache-from", f"type=local,src={cache}") == ours
