"""Builds with features that Debian's dockerd lacks, so that their results cannot be compared with those of dockerd."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio
import zstandard
from tests.integration.building.clients import Client
from tests.integration.building.gateway import Frontend
from tests.integration.building.protocol import ProtocolClient, executing
from tests.integration.building.server import serve
from tests.integration.engine import Engine, UnixConnection, until
from tests.integration.test_build_classic import post, tar, text_of
from tests.integration.test_build_outputs import client
from tests.integration.test_options_process import CDI

from orlop_build_dockerfile.grpc import RpcError
from orlop_build_dockerfile.pb import gateway_pb2, ops_pb2

__all__ = ["client"]  # a fixture

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(tmp_path_factory.mktemp("git")) as found:
        yield found


def tree(top: Path) -> dict[str, str]:
    """The files and the empty directories below a directory, with their contents."""
    found = {}
    for path in sorted(top.rglob("*")):
        if path.is_file() or not any(path.iterdir()):
            found[str(path.relative_to(top))] = path.read_text() if path.is_file() else "(empty)"
    return found


def built(client: Client, dockerfile: str, *options: str) -> dict[str, str]:
    """The files in the directory /out of the result."""
    (client.directory / "Dockerfile").write_text(dockerfile + "FROM scratch\nCOPY --from=made /out /\n")
    result = client.build("-o", "type=local,dest=result", *options, ".")
    assert result.code == 0, result.err
    return tree(client.directory / "result")


def test_copy_keeps_parent_directories_and_leaves_out_excluded_files(client: Client) -> None:
    for name in ("a/b/c.txt", "a/b/d.md", "a/e.txt", "x/y/z/f.txt", "x/y/g.md"):
        path = client.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    found = built(
        client,
        """FROM scratch AS made
COPY --parents a/b/c.txt x/y/g.md /out/parents/
COPY --parents a/./b/*.txt ./x/y/**/*.txt /out/pivot/
COPY --exclude=**/*.md --exclude=e.txt a /out/excluded/
COPY --exclude=**/*.txt . /out/all/
ADD --exclude=b a /out/added/
COPY --parents --exclude=**/*.md --exclude=a/e.txt a x /out/both/
""",
    )
    assert {name for name in found if not name.startswith("all/")} == {
        *("parents/a/b/c.txt", "parents/x/y/g.md", "pivot/b/c.txt", "pivot/x/y/z/f.txt"),
        *("excluded/b/c.txt", "added/e.txt", "both/a/b/c.txt", "both/x/y/z/f.txt"),
    }
    assert {"all/a/b/d.md", "all/x/y/g.md"} <= set(found)
    assert not [name for name in found if name.startswith("all/") and name.endswith(".txt")]


def test_unpack_option_of_add_decides_whether_an_archive_is_unpacked(client: Client, http: str) -> None:
    (client.directory / "local.tar").write_bytes(tar(inner="local"))
    found = built(
        client,
        f"""FROM busybox AS made
ADD --unpack=true {http}/a.tar /out/url/
ADD {http}/a.tar /out/kept/
ADD local.tar /out/local/
ADD --unpack=false local.tar /left/
RUN mkdir /out/left && tar -xOf /left/local.tar inner > /out/left/inner
""",
    )
    del found["kept/a.tar"]  # raises KeyError if the file does not exist
    assert found == {"url/x": "1", "url/d/y": "2", "local/inner": "local", "left/inner": "local"}


def test_add_of_a_git_repository_uses_the_given_branch_directory_and_checksum(client: Client, http: str) -> None:
    repository = f"{http}/git/repo.git"
    dockerfile = f"""FROM busybox AS made
ADD {repository}#other:sub /out/sub
ADD --keep-git-dir=true {repository}?branch=main /git
RUN mkdir /out/git && cp /git/.git/HEAD /git/file /out/git/
"""
    found = built(client, dockerfile)
    commit = found["git/HEAD"].strip()
    assert len(commit) == 40 and found == {
        "sub/x": "below\n",
        "sub/y": "in other\n",
        "git/HEAD": f"{commit}\n",
        "git/file": "in main\n",
    }
    checked = f"FROM scratch AS made\nADD --checksum={{}} {repository}?branch=main /out/\n"
    assert built(client, checked.format(commit))["file"] == "in main\n"
    (client.directory / "Dockerfile").write_text(checked.format("1" * 40))
    refused = client.build(".")
    assert refused.code == 1 and "checksum" in refused.err


def test_secrets_can_be_variables_of_a_step_and_copied_files_can_get_symbolic_modes(client: Client) -> None:
    (client.directory / "tool").write_text("#!/bin/sh\n")
    (client.directory / "tool").chmod(0o640)
    client.env["SECRET_ONE"] = "first"
    found = built(
        client,
        """FROM busybox AS made
COPY --chmod=u+x,go=r tool /tool
RUN stat -c %a /tool > /mode
RUN --mount=type=secret,id=one,env=ONE --mount=type=secret,id=two,env=TWO,target=/two \\
  mkdir /out && echo "$ONE $TWO $(cat /two)" > /out/secrets && mv /mode /out/ && ls /run/secrets 2>/dev/null || true
RUN echo "[$ONE$TWO]" > /out/after
""",
        *("--secret", "id=one,env=SECRET_ONE", "--secret", "id=two,src=file"),
    )
    assert found == {"mode": "744\n", "secrets": "first from the context\n from the context\n", "after": "[]\n"}


def test_step_gets_the_requested_devices(fresh: Callable[..., Engine], tmp_path: Path) -> None:
    engine = fresh({"cdi-spec-dirs": [str(tmp_path)]})
    (tmp_path / "vendor.json").write_text(json.dumps(CDI).replace("HERE", str(tmp_path)))
    script = 'test -z "$VENDOR" || echo > /dev/vendor0; echo "got $VENDOR" > /got'
    device, missing = "vendor.com/class=dev0", "vendor.com/class=none"

    async def build(entitlements: Sequence[str], **devices: bool) -> str:
        """Returns the text that the step has written, or the error. `devices` maps the name of each device to whether it is
        optional."""
        wanted = [ops_pb2.CDIDevice(name=f"vendor.com/class={name}", optional=value) for name, value in devices.items()]
        definition = executing("sh", "-c", script, cdiDevices=wanted)
        request = {"Exporter": "moby", "ExporterAttrs": {"name": "tb-device"}, "Entitlements": entitlements}
        async with ProtocolClient.opened(engine) as connection, connection.session() as session:
            try:
                await connection.solve(definition, session, **request)
            except RpcError as error:
                return str(error)
        run = partial(engine.ok, "run", "--rm", "--network=none", "tb-device", "cat", "/got")
        return await trio.to_thread.run_sync(run)

    async def main() -> None:
        for entitlements in (["device"], [f"device={device}"]):
            assert await build(entitlements, dev0=False, none=True) == "got yes"
        assert await build([], none=True) == "got"
        for entitlements, devices, said in (
            ([], {"dev0": False}, f"device {device} is not allowed"),
            ([f"device={missing}"], {"dev0": True}, f"device {device} is not allowed"),
            (["device"], {"none": False}, f"unresolvable CDI devices {missing}"),
            (["device.x"], {}, "granting entitlement device.x is not allowed"),
        ):
            assert said in await build(entitlements, **devices)

    trio.run(main)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_buildx_prints_checks_outline_and_targets_of_a_dockerfile(client: Client) -> None:
    """`--print` is the name of `--call` in this version of buildx."""
    (client.directory / "Dockerfile").write_text(
        "# the first stage\nFROM busybox AS first\nARG A=b\nRUN --mount=type=secret,id=s true\nFROM first AS last\nCMD x\n"
    )
    client.env["BUILDX_EXPERIMENTAL"] = "1"

    def printed(what: str) -> str:
        result = client.run("buildx", "build", "--progress=quiet", f"--print={what}", ".")
        assert result.code == 0, result.err
        return result.out

    outline = printed("outline")
    assert [line.split() for line in outline.splitlines() if line.startswith(("A ", "s "))] == [["A", "b"], ["s"]]
    targets = json.loads(printed("targets,format=json"))["targets"]
    assert [(each["name"], each.get("default", False)) for each in targets] == [("first", False), ("last", True)]
    assert "JSONArgsRecommended" in printed("lint")


def test_daemon_announces_the_classic_builder_if_daemon_json_disables_buildkit(fresh: Callable[..., Engine]) -> None:
    """Clients older than 23.0 use the announced builder, if DOCKER_BUILDKIT is not set."""
    engine = fresh({"features": {"buildkit": False}})
    connection = UnixConnection(engine.socket)
    try:
        connection.request("GET", "/_ping")
        assert connection.getresponse().getheader("Builder-Version") == "1"
    finally:
        connection.close()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_classic_builder_reads_a_compressed_context(shared: Engine, compression: str) -> None:
    context = tar(Dockerfile="FROM busybox\nCOPY file /\nRUN cat /file\n", file=f"{compression}\n")
    status, lines = post(shared.socket, COMPRESSIONS[compression](context), nocache="1")
    assert status == 200 and f"{compression}\n" in text_of(lines), lines


def test_image_without_files_is_exported(shared: Engine) -> None:
    """A frontend in the client returns a configuration, but no reference."""

    async def main() -> None:
        async with ProtocolClient.opened(shared) as connection, connection.session() as session:
            request = {"Exporter": "moby", "ExporterAttrs": {"name": "tb-empty"}}
            async with Frontend.opened(connection, session, **request) as frontend:
                config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"]}}).encode()
                result = gateway_pb2.Result(metadata={"containerimage.config": config})
                await frontend.ask("Return", gateway_pb2.ReturnRequest(result=result), gateway_pb2.ReturnResponse)
                await trio.to_thread.run_sync(
                    lambda: until(lambda: shared.docker("image", "inspect", "tb-empty").code == 0, "the image exists")
                )

    trio.run(main)
    try:
        assert shared.ok("image", "inspect", "-f", "{{.Config.Env}} {{len .RootFS.Layers}}", "tb-empty") == "[A=b] 0"
    finally:
        shared.ok("image", "rm", "tb-empty")


def test_layers_with_copied_context_files_are_reproducible(client: Client) -> None:
    """As in dockerd, SOURCE_DATE_EPOCH is not needed, provided that no directory gets the time of the build."""
    (client.directory / "dir").mkdir()
    (client.directory / "dir" / "a").write_text("a")
    (client.directory / "Dockerfile").write_text("FROM busybox\nCOPY file /copied\nCOPY dir /etc\n")
    layers = set()
    for _ in range(2):
        client.ok("build", "--no-cache", "-t", "tb-again", ".")
        layers.add(client.ok("image", "inspect", "-f", "{{.RootFS.Layers}}", "tb-again").out)
    assert len(layers) == 1
