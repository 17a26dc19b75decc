"""Commands about images of several platforms: `images --tree`, and `--platform` of inspect, push and rmi."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from orlop_cli.testing import RecordedDaemon, answer, chunked

pytestmark = pytest.mark.usefixtures("clean")

S390X = {"os": "linux", "architecture": "s390x"}
ARM = {"os": "linux", "architecture": "arm", "variant": "v7"}


def speaks(daemon: RecordedDaemon, version: str) -> None:
    for method in ("HEAD", "GET"):
        daemon.on(method, "/_ping", answer().replace(b"1.45", version.encode()))


def query(daemon: RecordedDaemon, at: int = -1) -> dict[str, list[str]]:
    return parse_qs(urlsplit(daemon.requests[at].target).query)


def manifest(letter: str, platform: dict[str, str], content: int, unpacked: int, *containers: str) -> dict[str, Any]:
    data = {"Platform": platform, "Containers": list(containers), "Size": {"Unpacked": unpacked}}
    size = {"Content": content, "Total": content + unpacked}
    return {"ID": "sha256:" + letter * 64, "Kind": "image", "Available": bool(content), "Size": size, "ImageData": data}


def test_images_tree_lists_platforms(daemon: RecordedDaemon, orlop: Any) -> None:
    attestation = {
        "ID": "sha256:" + "f" * 64,
        "Kind": "attestation",
        "Available": True,
        "Size": {"Content": 500, "Total": 500},
    }
    mine = manifest("b", {"os": "linux", "architecture": "amd64"}, 2_000_000, 4_000_000, "c" * 64)
    several = {
        "Id": "sha256:" + "a" * 64,
        "Size": 4_000_000,
        "Containers": 0,
        "RepoTags": ["registry.example.com/team/app:1", "app:latest"],
        "Manifests": [attestation, mine, manifest("d", ARM, 0, 0)],
    }
    plain = {"Id": "sha256:" + "e" * 64, "Size": 10, "Containers": 2, "RepoTags": [], "Manifests": None}
    speaks(daemon, "1.51")
    daemon.on("GET", "/images/json", answer([several, plain]))
    assert orlop("images", "--tree", "app").out.splitlines() == [
        "IMAGE                             ID             DISK USAGE   CONTENT SIZE   EXTRA",
        "registry.example.com/team/app:1",
        "app:latest                        aaaaaaaaaaaa          6MB            2MB   U",
        "├─ linux/amd64                    bbbbbbbbbbbb          6MB            2MB   U",
        "└─ linux/arm/v7                   dddddddddddd           0B             0B",
        "",
        "<untagged>                        eeeeeeeeeeee          10B             0B   U",
    ]
    asked = query(daemon)
    assert asked["manifests"] == ["1"] and json.loads(asked["filters"][0]) == {"reference": {"app": True}}
    daemon.on("GET", "/images/json", answer([]))
    assert orlop("images", "--tree").out == "IMAGE   ID   DISK USAGE   CONTENT SIZE   EXTRA\n"


@pytest.mark.parametrize("flags", [["--digests"], ["--format", "json"], ["--no-trunc"], ["-q"]])
def test_images_command_refuses_tree_together_with_other_output_flags(orlop: Any, flags: list[str]) -> None:
    done = orlop("images", "--tree", *flags)
    assert done.code == 1 and "cannot be used with --tree" in done.err


def test_platform_is_sent_by_inspect_push_and_rmi(daemon: RecordedDaemon, orlop: Any) -> None:
    speaks(daemon, "1.51")
    daemon.on("GET", "/images/a/json", answer({"Id": "sha256:1"}))
    assert orlop("image", "inspect", "--platform", "linux/s390x", "-f", "{{.Id}}", "a").out == "sha256:1\n"
    assert json.loads(query(daemon)["platform"][0]) == S390X
    daemon.on("DELETE", "/images/a", answer([{"Untagged": "a:latest"}]))
    assert orlop("rmi", "--platform", "linux/s390x", "--platform", "linux/arm/v7", "a").out == "Untagged: a:latest\n"
    assert list(map(json.loads, query(daemon)["platforms"])) == [S390X, ARM]
    daemon.on("POST", "/images/a/push", chunked([b'{"status":"v1: digest: sha256:1 size: 2"}\r\n']))
    assert orlop("push", "--platform", "linux/s390x", "a:v1").out == "v1: digest: sha256:1 size: 2\n"
    assert json.loads(query(daemon)["platform"][0]) == S390X
    orlop("push", "a:v1")
    assert "platform" not in query(daemon)


@pytest.mark.parametrize(
    ("argv", "what", "version"),
    [
        (["images", "--tree"], "tree", "1.47"),
        (["push", "--platform", "linux/arm64", "a"], "platform", "1.46"),
        (["rmi", "--platform", "linux/arm64", "a"], "platform", "1.50"),
        (["image", "inspect", "--platform", "linux/arm64", "a"], "platform", "1.49"),
    ],
)
def test_flags_that_need_a_newer_daemon_are_refused(
    daemon: RecordedDaemon, orlop: Any, argv: list[str], what: str, version: str
) -> None:
    speaks(daemon, "1.45")
    done = orlop(*argv)
    assert done.code == 1
    assert f'"{what}" requires API version {version}, but the daemon\'s API version is 1.45' in done.err


def test_push_of_only_one_platform_prints_a_note(daemon: RecordedDaemon, orlop: Any) -> None:
    told = {
        "manifestPushedInsteadOfIndex": True,
        "originalIndex": {"digest": "sha256:all"},
        "selectedManifest": {"digest": "sha256:one"},
    }
    lines = [{"status": "v1: digest: sha256:one size: 2"}, {"aux": {"Tag": "v1"}}, {"aux": told}]
    daemon.on("POST", "/images/a/push", chunked([json.dumps(line).encode() + b"\r\n" for line in lines]))
    done = orlop("push", "a:v1")
    assert (done.code, done.out) == (0, "v1: digest: sha256:one size: 2\n")
    assert "only one platform was pushed:\nsha256:one instead of sha256:all\n" in done.err
    assert orlop("push", "-q", "a:v1").err == ""


@pytest.mark.parametrize(("server", "asked"), [("1.45", "/v1.43/"), ("1.51", "/v1.48/")])
def test_ps_shows_platforms(daemon: RecordedDaemon, orlop: Any, server: str, asked: str) -> None:
    speaks(daemon, server)
    item = {"Id": "c" * 64, "Names": ["/a"], "ImageManifestDescriptor": {"platform": ARM}}
    daemon.on("GET", "/containers/json", answer([item]))
    assert orlop("ps", "--format", "{{.Platform}}").out == "linux/arm/v7\n"
    assert daemon.requests[-1].target.startswith(asked)
    orlop("ps", "-q")
    assert daemon.requests[-1].target.startswith("/v1.43/")
