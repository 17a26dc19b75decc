"""Images on a real dockerd and on orlopd: equal `docker` commands list, create and remove equal images."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.engine import Engine, UnixConnection, until
from tests.registry import busybox, docker_archive, image, index, layer, push_index, running

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to compare with")]

BASE = layer(busybox())
CONTAINERS_OWN = {"Hostname", "Image", "AttachStdin", "AttachStdout", "AttachStderr"}
CONFIG = {"Cmd": ["sh"], "Env": ["PATH=/bin", "A=1"], "WorkingDir": "/srv", "ExposedPorts": {"80/tcp": {}}}


def archive() -> bytes:
    """Images m:1, m:2 and m:3, based on base:latest."""
    many = {f"m:{n}": image([BASE, layer({"n": str(n).encode() * 1000})], config=CONFIG) for n in (1, 2, 3)}
    return docker_archive({"base:latest": image([BASE]), **many})


class Side:
    def __init__(self, socket: str) -> None:
        self.socket = socket

    def run(self, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = ["docker", "-H", f"unix://{self.socket}", *argv]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)

    def ok(self, *argv: str) -> None:
        done = self.run(*argv)
        assert done.returncode == 0, (argv, done.stderr)

    def docker(self, *argv: str, stdin: bytes = b"") -> str:
        """The output with normalised IDs and sorted lines: dockerd lists images in random order."""
        done = self.run(*argv, stdin=stdin)
        said = re.sub(r"\b[0-9a-f]{64}\b", "HEX", (done.stdout + done.stderr).decode())
        return "\n".join(sorted(said.splitlines()))

    def api(self, method: str, path: str) -> tuple[int, object]:
        connection = UnixConnection(self.socket)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    home = tmp_path_factory.mktemp("dockerd")
    engine = Engine()
    flags = ("--bridge", "none", "--iptables=false", "--ip6tables=false")
    roots = ("--data-root", f"{home}/d", "--exec-root", f"{engine.home}/x", "--pidfile", f"{home}/pid")
    socket = f"{engine.home}/dockerd.sock"
    with open(home / "log", "wb") as log:
        dockerd = subprocess.Popen(["dockerd", *roots, *flags, "-H", f"unix://{socket}"], stdout=log, stderr=log)
    try:
        engine.start()
        both = Side(socket), Side(str(engine.socket))
        until(lambda: "Server" in both[0].docker("version", "-f", "Server {{.Server.Version}}"), "dockerd", 60)
        yield both
        for side in both:
            side.docker("system", "prune", "-af")
    finally:
        dockerd.terminate()
        dockerd.wait(30)
        shutil.rmtree(Path(f"{engine.home}/x"), ignore_errors=True)
        left = engine.close()
    assert left == []


def same(sides: tuple[Side, Side], *commands: str) -> list[str]:
    """The output, which must be equal on both sides."""
    shown = []
    for command in commands:
        theirs, ours = (side.docker(*command.split(" "), stdin=archive() if command == "load" else b"") for side in sides)
        assert ours == theirs, command
        shown.append(ours)
    return shown


LIST = "images -a --format {{.Repository}}:{{.Tag}}"


def test_image_lists_are_the_same_as_in_dockerd(sides: tuple[Side, Side]) -> None:
    same(sides, "load", "tag base base:two", "tag base other:x", "tag m:1 base:m")
    same(sides, f"{LIST} base", f"{LIST} base:two", f"{LIST} -f reference=o* -f reference=m", f"{LIST} nosuch")
    same(sides, f"{LIST} -f reference=base:* -f dangling=false", f"{LIST} -f reference=base:* -f dangling=true")
    for side in sides:  # all created within one second
        side.ok("create", "--name", "maker", "base")
        for tag in ("1", "2", "3"):
            side.ok("commit", "maker", f"made:{tag}")
    same(sides, f"{LIST} -f since=made:2", f"{LIST} -f before=made:2", f"{LIST} -f since=m:1 -f before=made:3")
    same(sides, f"{LIST} -f since=nosuch", "rm maker", "rmi made:1 made:2 made:3")
    for filters in (
        '{"until":["1h","2h"]}',
        '{"until":["2030-01-01","2020-01-01"]}',
        '{"since":["base","m:1"]}',
    ):
        theirs, ours = (side.api("GET", f"/v1.45/images/json?filters={filters}") for side in sides)
        named = [sorted(str(item) for item in found) if isinstance(found, list) else found for _, found in (theirs, ours)]
        assert (ours[0], len(str(named[1]))) == (theirs[0], len(str(named[0]))), filters
    same(sides, "rmi base:two other:x base:m")


@pytest.mark.parametrize("version", ["1.30", "1.43", "1.44"])
def test_image_sizes_in_old_api_versions_are_the_same_as_in_dockerd(sides: tuple[Side, Side], version: str) -> None:
    same(sides, "load")

    def sizes(side: Side) -> list[list[tuple[str, object]]]:
        _, found = side.api("GET", f"/v{version}/system/df")
        assert isinstance(found, dict)
        return sorted([(key, item[key]) for key in sorted(item) if "Digests" not in key] for item in found["Images"])

    theirs, ours = map(sizes, sides)
    assert ours == theirs
    assert ("VirtualSize" in dict(ours[0])) == (version < "1.44")


def test_image_name_with_several_platforms_is_shown_as_by_dockerd(sides: tuple[Side, Side]) -> None:
    """At this API version, a name means the platform that was pulled last, on both sides."""
    mine = image([BASE], platform={"os": "linux", "architecture": "amd64"})
    other = image([layer({"other": b"1"})], platform={"os": "linux", "architecture": "s390x"})
    with running() as registry:
        push_index(registry.host, "multi", "v1", index([other, mine]), (other, mine))
        name = f"{registry.host}/multi:v1"
        listed = "images -a --no-trunc --digests --format {{.Repository}}:{{.Tag}}@{{.Digest}}={{.ID}} -f since=m:3"
        shown = "inspect --format {{.Id}},{{.Architecture}},{{.RepoTags}},{{.RepoDigests}}"
        same(sides, "load", f"pull -q {name}", f"{shown} {name}", f"pull -q --platform linux/s390x {name}", listed)
        same(sides, f"{shown} {name}", f"{shown} {mine.id}", f"{shown} {other.id}", f"history -q --no-trunc {name}")
        same(sides, f"create --name one {name} x", f"create --name two --platform linux/s390x {name} x")
        same(
            sides, "ps -a --format {{.Names}}={{.Image}}", f"ps -a -f ancestor={name} --format {{{{.Names}}}}", "rm one two"
        )
        same(sides, f"pull -q {name}", f"{shown} {name}", f"create --name three {name} x", "rm three")
        for side in sides:
            side.docker("rmi", name)
            side.docker("rmi", other.id)


def test_prune_commands_remove_the_same_images_as_in_dockerd(sides: tuple[Side, Side]) -> None:
    same(sides, "load", "tag m:1 m:1b", "tag m:1 other:1", "tag m:2 used:too", "tag m:2 used:three")
    for side in sides:
        side.ok("create", "--name", "user", "m:2")
        side.ok("create", "--name", "maker", "base")
        side.ok("commit", "maker", "parent:x")
        side.ok("rm", "maker")
        side.ok("create", "--name", "maker", "parent:x")
        side.ok("commit", "maker", "child:x")
        side.ok("commit", "-c", "LABEL k=v", "maker")
        side.ok("rm", "maker")
    same(sides, "system df --format {{.Size}}:{{.Reclaimable}}", "rmi parent:x", "image prune -f --filter label=k=w", LIST)
    (dangling,) = same(sides, "image prune -f")
    assert "deleted: sha256:HEX" in dangling
    same(sides, LIST, "image prune -af --filter until=2020-01-01", "image prune -af --filter label=k")
    (everything,) = same(sides, "image prune -af")
    assert "untagged: used:three" in everything
    assert "untagged: used:too" not in everything
    assert same(sides, LIST) == ["used:too"], "a container uses it"
    same(sides, "rm user", "system df --format {{.Size}}:{{.Reclaimable}}")
    (last,) = same(sides, "image prune -af")
    assert re.search(r"Total reclaimed space: 2\.\d+MB", last), "what df said"


def test_image_events_are_the_same_as_in_dockerd(sides: tuple[Side, Side]) -> None:
    """Compares the events of loads, tags, pushes, pulls, saves, imports, removals and prunes."""
    app, seen = image([BASE], config=CONFIG), []
    with running() as registry:
        one, two, imported = (f"{registry.host}/{name}" for name in ("events:1", "events:2", "imported:1"))
        for side in sides:
            side.docker("image", "prune", "-af")
            began = time.time()
            side.docker("load", stdin=docker_archive({"m:1": app}))
            side.docker("import", "-", imported, stdin=bytes(1024))
            for words in (
                *(f"tag m:1 {one}", f"tag m:1 {two}", f"push -a {registry.host}/events", f"push {one}", f"push {imported}"),
                *(f"rmi {one} {two} {imported}", f"pull -a {registry.host}/events", f"pull {one}", f"pull {imported}"),
                *(f"save -o {side.socket}.tar m:1 {one}", f"rmi {imported}", f"rmi -f {app.id}"),
                *(f"pull {one}", f"tag {one} m:2", "image prune -af"),
            ):
                side.ok(*words.split())
            ended = f"{time.time():.9f}"
            shown = "{{.Action}} {{.Actor.ID}} {{json .Actor.Attributes}}"
            done = side.run("events", "--since", f"{began:.9f}", "--until", ended, "-f", "type=image", "--format", shown)
            seen.append(re.sub(r"\b[0-9a-f]{64}\b", "HEX", done.stdout.decode()).splitlines())
    assert seen[1] == seen[0]
    assert {line.split()[0] for line in seen[0]} == {*"load tag push pull untag save import delete prune".split()}


@pytest.mark.parametrize(
    "changes",
    [
        ["ENV PATH=/x:$PATH B=${A:-2} C='$A'", "LABEL x=$A"],
        ["WORKDIR sub$A", "USER u$A", "VOLUME /v$A", "EXPOSE $A/udp", 'CMD ["$A"]'],
        ["ENTRYPOINT echo $A", "ENV X=1 \\\n# comment\n Y=2"],
        ["ENV X=${A"],
        ["RUN x"],
        [""],
    ],
)
def test_commit_with_changes_makes_the_same_image_as_in_dockerd(sides: tuple[Side, Side], changes: list[str]) -> None:
    same(sides, "load")
    flags = [word for change in changes for word in ("-c", change)]
    said = []
    for side in sides:
        side.ok("create", "--name", "maker", "m:1")
        made = side.docker("commit", *flags, "maker", "made:x")
        config = json.loads(side.docker("inspect", "-f", "{{json .Config}}", "made:x") or "null") if "HEX" in made else {}
        said.append(
            (re.sub(r"modifier \(.*?\)", "", made), {key: config[key] or None for key in config.keys() - CONTAINERS_OWN})
        )
        side.ok("rm", "maker")
        side.docker("rmi", "made:x")
    assert said[1] == said[0]


@pytest.mark.parametrize("source", ["http://%5B", "http://a%20b/", "%00", "http:x", "http://x:y/z"])
def test_imports_of_invalid_urls_fail_as_in_dockerd(sides: tuple[Side, Side], source: str) -> None:
    (theirs, _), (ours, _) = (side.api("POST", f"/v1.45/images/create?fromSrc={source}") for side in sides)
    assert ours == theirs == 400
