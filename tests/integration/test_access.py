"""Listeners with roles and labels, the audit log and authorization plugins, used with `docker` and curl."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import secrets
import signal
import socket
import socketserver
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.integration.engine import BUSYBOX, Engine, Result, UnixConnection, until
from tests.registry import busybox, docker_archive, hostile, image, layer

pytestmark = pytest.mark.root

TEAM = "com.example.team"


class EngineFixture:
    """One daemon with a listener for each kind of client."""

    def __init__(self) -> None:
        self.engine = Engine()
        home = self.engine.home
        self.audit = home / "log" / "audit.log"

        def policy(name: str, role: str, **more: Any) -> dict[str, Any]:
            return {"host": f"unix://{home}/{name}.sock", "role": role, **more}

        self.config: dict[str, Any] = {
            "listeners": [
                policy("read", "read-only", mode="0600"),
                policy("env", "read-only", **{"show-env": True, "group": "nogroup"}),
                policy("ci", "no-exec"),
                policy("web", "full", labels=[f"{TEAM}=web"], **{"shared-images": True}),
                policy("db", "full", labels=[f"{TEAM}=db"]),
                policy("webread", "read-only", labels=[f"{TEAM}=web"]),
            ],
            "audit-log": {"path": str(self.audit), "max-size": "1m"},
        }
        self.engine.configure(self.config)
        self.engine.start()
        self.engine.load()
        self.engine.ok(
            "run", "-d", "--name", "web1", "-l", f"{TEAM}=web", "-e", "PASSWORD=secret", "busybox", "sh", "-c", SERVE
        )
        self.engine.ok("run", "-d", "--name", "db1", "-l", f"{TEAM}=db", "busybox", "sleep", "600")

    def docker(self, policy: str, *argv: str) -> Result:
        return self.engine.run(["docker", "-H", f"unix://{self.engine.home}/{policy}.sock", *argv])

    def ok(self, policy: str, *argv: str) -> str:
        result = self.docker(policy, *argv)
        assert result.code == 0, result.err
        return result.line

    def denied(self, policy: str, *argv: str) -> str:
        result = self.docker(policy, *argv)
        assert result.code != 0, result.out
        return result.err

    def curl(self, policy: str, *argv: str) -> str:
        *flags, path, write, form = argv
        socket = f"{self.engine.home}/{policy}.sock"
        return self.engine.run(["curl", "-s", "--unix-socket", socket, *flags, f"http://d/v1.45{path}", write, form]).out

    def api(self, policy: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = UnixConnection(f"{self.engine.home}/{policy}.sock")
        try:
            data = json.dumps(body).encode() if body is not None else None
            connection.request(method, f"/v1.45{path}", data, {"Content-Type": "application/json"} if data else {})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text.strip() and "json" in (
                answer.getheader("Content-Type") or ""
            ) else text
        finally:
            connection.close()

    def lines(self, **wanted: Any) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.audit.read_text().splitlines()]
        return [line for line in found if all(line.get(key) == value for key, value in wanted.items())]


SERVE = "echo hello; sleep 600"


@pytest.fixture(scope="module")
def engine_fixture() -> Iterator[EngineFixture]:
    made = EngineFixture()
    try:
        yield made
    finally:
        left = made.engine.close()
    assert left == []


# --- roles ------------------------------------------------------------------------------------------------------------


def test_what_a_reader_may(engine_fixture: EngineFixture) -> None:
    assert sorted(engine_fixture.ok("read", "ps", "--format", "{{.Names}}").split()) == ["db1", "web1"]
    assert engine_fixture.ok("read", "logs", "web1") == "hello"
    until(lambda: "web1" in engine_fixture.ok("read", "events", "--since", "1h", "--until", "0s"))  # in seconds
    assert "sleep" in engine_fixture.ok("read", "top", "web1")
    assert engine_fixture.ok("read", "version", "-f", "{{.Server.Version}}")
    assert engine_fixture.ok("read", "info", "-f", "{{.Containers}}") == "2"
    assert engine_fixture.ok("read", "images", "-q")


@pytest.mark.parametrize(
    "argv",
    [
        "run busybox true",
        "exec web1 true",
        "rm -f web1",
        "stop web1",
        "pull busybox",
        "rmi busybox",
        "tag busybox x",
        "volume create x",
        "network create x",
        "network connect bridge web1",
        "system prune -f",
        "top web1 e",
    ],
)
def test_what_a_reader_may_not(engine_fixture: EngineFixture, argv: str) -> None:
    text = engine_fixture.denied("read", *argv.split())
    assert f"is not allowed for role read-only of listener unix://{engine_fixture.engine.home}/read.sock" in text
    assert engine_fixture.engine.state("web1") == "running"


def test_a_reader_sees_no_values_of_the_environment(engine_fixture: EngineFixture) -> None:
    env = "{{json .Config.Env}}"
    assert "PASSWORD=(hidden)" in engine_fixture.ok("read", "inspect", "-f", env, "web1")
    assert "secret" not in engine_fixture.ok("read", "inspect", "web1")
    assert "PASSWORD=secret" in engine_fixture.ok("env", "inspect", "-f", env, "web1")


def test_sockets_are_whose_the_entry_says(engine_fixture: EngineFixture) -> None:
    read, env = (os.stat(engine_fixture.engine.home / f"{name}.sock") for name in ("read", "env"))
    assert (stat.S_IMODE(read.st_mode), read.st_gid) == (0o600, 0)
    assert (stat.S_IMODE(env.st_mode), env.st_gid) == (0o660, 65534)


def test_no_exec_runs_containers_and_nothing_in_them(engine_fixture: EngineFixture) -> None:
    assert engine_fixture.ok("ci", "run", "--rm", "-v", "ci-data:/d", "busybox", "echo", "made") == "made"
    for argv, what in (
        ("exec web1 true", "POST /containers/{id}/exec"),
        ("run --privileged busybox true", "Privileged"),
        ("run -v /:/host busybox true", "the bind mount /:/host"),
        ("run --mount type=bind,src=/,dst=/h busybox true", "the bind mount of /"),
        ("run --device /dev/null busybox true", "Devices"),
        ("run --pid host busybox true", "PidMode host"),
        ("run --pid container:web1 busybox true", "PidMode container:web1"),
        ("run --network host busybox true", "NetworkMode host"),
        ("run --cap-add SYS_ADMIN busybox true", "CapAdd"),
        ("run --security-opt seccomp=unconfined busybox true", "SecurityOpt seccomp=unconfined"),
        ("run --security-opt systempaths=unconfined busybox true", "MaskedPaths"),
        ("volume create -o type=none -o o=bind -o device=/ evil", "a volume with options of its driver"),
        ("network create -d macvlan evil", "a network of driver macvlan"),
    ):
        assert f"{what} is not allowed for role no-exec" in engine_fixture.denied("ci", *argv.split())
    engine_fixture.ok("ci", "volume", "rm", "ci-data")


def test_a_guarded_client_chooses_no_address_inside(engine_fixture: EngineFixture) -> None:
    """The daemon could reach more addresses than the client (SSRF). It sends nothing, and the audit log names the client."""
    with hostile.serving() as inside:
        port = inside.host.rpartition(":")[2]
        what = "which is neither public nor a registry that is configured, is not allowed for role"
        for policy in ("ci", "web"):
            for argv in (
                ("pull", f"{inside.host}/app"),
                ("pull", f"localhost:{port}/app"),
                ("run", "--rm", f"127.1.2.3:{port}/app"),
                ("search", f"{inside.host}/app"),
            ):
                assert what in engine_fixture.denied(policy, *argv)
            login = {"username": "u", "password": "p", "serveraddress": inside.host}
            assert what in str(engine_fixture.api(policy, "POST", "/auth", login))
        for host in (inside.host, f"localhost:{port}", f"[::1]:{port}", "169.254.169.254"):
            status, answer = engine_fixture.api("ci", "POST", f"/images/create?fromSrc=http://{host}/x")
            assert (status, what in answer["message"]) == (403, True)
        assert inside.requests == []
        line = until(lambda: engine_fixture.lines(path="/v1.45/auth", decision="denied"))[0]
        assert line["by"] == "role no-exec"
        status, answer = engine_fixture.api("ci", "POST", "/images/create?fromSrc=file:///etc/passwd")
        assert (status, answer["message"]) == (400, 'Get "file:///etc/passwd": unsupported protocol scheme "file"')
        assert "manifest unknown" in engine_fixture.engine.docker("pull", f"{inside.host}/app").err, (
            "others ask as they like"
        )


def test_pushing(engine_fixture: EngineFixture) -> None:
    """By role, labels and destination. The audit log has the image and the tag, and why a push was refused."""
    with hostile.serving() as inside:
        name = f"{inside.host}/app:v1"
        engine_fixture.engine.ok("tag", "busybox", name)
        assert "not allowed for role read-only" in engine_fixture.denied("read", "push", name)
        assert f"image {name} is outside the labels" in engine_fixture.denied("db", "push", name)
        for policy in ("ci", "web"):
            assert "which is neither public nor a registry that is configured" in engine_fixture.denied(policy, "push", name)
            status, answer = engine_fixture.api(policy, "GET", f"/distribution/{name}/json")
            assert (status, "which is neither public" in answer["message"]) == (403, True)
        assert inside.requests == []
        path = f"/v1.45/images/{inside.host}/app/push"
        end = until(lambda: engine_fixture.lines(path=path, event="end", decision="denied"))[0]
        id = engine_fixture.engine.inspect("web1")["Image"]
        assert (end["object"], end["by"]) == ({"type": "image", "id": id, "name": name}, "role no-exec")
        assert "push" not in engine_fixture.engine.events(type="image")
        engine_fixture.engine.ok("rmi", name)


def test_attaching(engine_fixture: EngineFixture) -> None:
    stdin = "standard input is not allowed for role no-exec"
    for policy, query, status, text in (
        ("read", "", 403, "not allowed for role read-only"),
        ("ci", "&stdin=1", 403, stdin),
        ("ci", "&stdin=true", 403, stdin),
        ("ci", "&stdin=0&logs=1", 200, "hello"),
    ):
        stream = "0" if status == 200 else "1"
        path = f"/containers/web1/attach?stream={stream}&stdout=1{query}"
        said = engine_fixture.curl(policy, "-X", "POST", path, "-w", "%{http_code}")
        assert said.endswith(str(status))
        assert text in said


def test_a_key_in_other_case_is_the_same_key(engine_fixture: EngineFixture) -> None:
    """Guard and handler read keys alike, whatever their case."""
    body = {"image": BUSYBOX, "hostconfig": {"PRIVILEGED": True}}
    status, answer = engine_fixture.api("ci", "POST", "/containers/create", body)
    assert (status, "Privileged is not allowed" in answer["message"]) == (403, True)


# --- labels -----------------------------------------------------------------------------------------------------------


def test_each_team_sees_its_own(engine_fixture: EngineFixture) -> None:
    assert engine_fixture.ok("web", "ps", "-a", "--format", "{{.Names}}") == "web1"
    assert engine_fixture.ok("db", "ps", "-a", "--format", "{{.Names}}") == "db1"
    assert engine_fixture.ok("webread", "ps", "--format", "{{.Names}}") == "web1"
    assert engine_fixture.ok("web", "ps", "-q", "-f", f"label={TEAM}=db") == ""
    ident = engine_fixture.engine.inspect("db1")["Id"]
    for name in ("db1", ident, ident[:8]):
        assert f"container {name} is outside the labels ({TEAM}=web) of listener" in engine_fixture.denied(
            "web", "inspect", name
        )
    for argv in ("exec db1 true", "rm -f db1", "logs db1", "stop db1", "rename db1 x", "wait db1"):
        assert "is outside the labels" in engine_fixture.denied("web", *argv.split())
    events = ("events", "--since", "1h", "--until", "0s", "--format", "{{.Actor.Attributes.name}}")
    seen = until(lambda: engine_fixture.ok("web", *events).split())  # the client sends whole seconds
    assert set(seen) == {"web1"}


def test_an_exec_of_another_team(engine_fixture: EngineFixture) -> None:
    _, made = engine_fixture.engine.api("POST", "/containers/db1/exec", {"Cmd": ["true"]})
    for method, path in (("GET", "json"), ("POST", "start"), ("POST", "resize?h=1&w=1")):
        assert engine_fixture.api("web", method, f"/exec/{made['Id']}/{path}", {} if method == "POST" else None)[0] == 403
    assert engine_fixture.ok("web", "exec", "web1", "echo", "in") == "in"
    assert "a privileged exec is not allowed" in engine_fixture.denied("web", "exec", "--privileged", "web1", "true")


def test_what_a_team_makes_is_its_own(engine_fixture: EngineFixture) -> None:
    assert engine_fixture.ok("web", "run", "--rm", "busybox", "echo", "made") == "made"
    ident = engine_fixture.ok("web", "create", "--name", "web2", "-v", "web-data:/d", "-v", "/anonymous", "busybox", "true")
    made = engine_fixture.engine.inspect(ident)
    assert made["Config"]["Labels"] == {TEAM: "web"}
    names = [mount["Name"] for mount in made["Mounts"]]
    assert sorted(engine_fixture.ok("web", "volume", "ls", "-q").split()) == sorted(names)
    assert engine_fixture.ok("db", "volume", "ls", "-q") == ""
    assert "outside" in engine_fixture.denied("web", "create", "-l", f"{TEAM}=db", "busybox")
    assert "outside" in engine_fixture.denied("db", "volume", "inspect", "web-data")
    assert "outside" in engine_fixture.denied("db", "volume", "create", "web-data")
    engine_fixture.ok("web", "network", "create", "web-net")
    assert engine_fixture.ok("web", "network", "ls", "--format", "{{.Name}}") == "web-net"
    assert engine_fixture.ok("web", "network", "inspect", "-f", "{{json .Labels}}", "web-net") == json.dumps(
        {TEAM: "web"}, separators=(",", ":")
    )
    engine_fixture.ok("web", "network", "connect", "web-net", "web1")
    engine_fixture.engine.ok("network", "connect", "web-net", "db1")
    members = engine_fixture.ok("web", "network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}", "web-net")
    assert members == "web1"
    engine_fixture.engine.ok("network", "disconnect", "web-net", "db1")
    engine_fixture.ok("web", "network", "disconnect", "web-net", "web1")
    engine_fixture.ok("web", "network", "rm", "web-net")
    engine_fixture.ok("web", "rm", "-v", "web2")
    engine_fixture.ok("web", "volume", "rm", "web-data")


def test_what_a_team_may_not_join(engine_fixture: EngineFixture) -> None:
    engine_fixture.engine.ok("volume", "create", "private")
    engine_fixture.engine.ok("network", "create", "private")
    for argv in (
        "--network container:db1",
        "--pid container:db1",
        "--ipc container:db1",
        "--volumes-from db1",
        "--link db1:x",
        "-v private:/d",
        "--mount type=volume,src=private,dst=/d",
        "--network private",
        "--network nowhere",
    ):
        assert "is outside the labels" in engine_fixture.denied("web", "create", *argv.split(), "busybox"), argv
    assert "Privileged is not allowed" in engine_fixture.denied("web", "create", "--privileged", "busybox")
    assert "the bind mount /:/h is not allowed" in engine_fixture.denied("web", "create", "-v", "/:/h", "busybox")
    assert "outside" in engine_fixture.denied("web", "network", "connect", "private", "web1")
    assert "outside" in engine_fixture.denied("web", "network", "connect", "bridge", "db1")
    for argv in ("system df", "tag busybox x", "rmi busybox"):
        assert "is outside the labels" in engine_fixture.denied("web", *argv.split())
    assert engine_fixture.ok("web", "create", "--pid", "container:web1", "--name", "beside", "busybox")
    assert (
        engine_fixture.engine.inspect("beside")["HostConfig"]["PidMode"]
        == f"container:{engine_fixture.engine.inspect('web1')['Id']}"
    )
    engine_fixture.ok("web", "rm", "beside")
    engine_fixture.engine.ok("network", "rm", "private")
    engine_fixture.engine.ok("volume", "rm", "private")


def test_an_image_does_not_decide_whose_container_it_is(engine_fixture: EngineFixture) -> None:
    with open(engine_fixture.engine.home / "bait.tar", "wb") as file:
        file.write(layer(busybox()).data)
    engine_fixture.engine.ok(
        "import", "-c", f"LABEL {TEAM}=web", "-c", "LABEL kept=yes", str(engine_fixture.engine.home / "bait.tar"), "bait"
    )
    engine_fixture.engine.ok("run", "-d", "--name", "bait", "-v", "/:/host:ro", "bait", "sleep", "600")
    assert engine_fixture.engine.inspect("bait")["Config"]["Labels"] == {"kept": "yes"}
    assert engine_fixture.ok("web", "ps", "--format", "{{.Names}}") == "web1"
    assert "is outside the labels" in engine_fixture.denied("web", "exec", "bait", "true")
    engine_fixture.engine.ok("rm", "-f", "bait")
    engine_fixture.engine.ok("rmi", "bait")


def test_the_hosts_files_do_not_come_by_a_checkpoint(engine_fixture: EngineFixture, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    for method, path in (("DELETE", "/victim"), ("GET", ""), ("POST", "")):
        body = {"CheckpointID": "victim", "CheckpointDir": str(tmp_path)} if method == "POST" else None
        assert engine_fixture.api("web", method, f"/containers/web1/checkpoints{path}?dir={tmp_path}", body)[0] == 403
    assert engine_fixture.api("web", "POST", f"/containers/web1/start?checkpoint=victim&checkpoint-dir={tmp_path}")[0] == 403
    assert (tmp_path / "victim").is_dir()


def test_the_hosts_things_do_not_come_by_way_of_others(engine_fixture: EngineFixture) -> None:
    engine_fixture.engine.ok("run", "-d", "--name", "manager", "-v", "/etc:/host:ro", "busybox", "sleep", "600")
    engine_fixture.engine.ok("run", "-d", "--name", "exporter", "--network", "host", "busybox", "sleep", "600")
    engine_fixture.engine.ok("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=7", "share")
    for argv, what in (
        ("--volumes-from manager", "VolumesFrom manager, which has the bind mount of /etc,"),
        ("--network container:exporter", "NetworkMode container:exporter, which has the host's,"),
    ):
        assert f"{what} is not allowed for role no-exec" in engine_fixture.denied("ci", "create", *argv.split(), "busybox")
    subnet = engine_fixture.engine.ok(
        "network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "bridge"
    )  # it has a route
    refused = engine_fixture.denied("ci", "network", "create", "--subnet", subnet, "x")
    assert f"the subnet {subnet}, which the host uses, is not allowed" in refused
    assert engine_fixture.ok("read", "volume", "inspect", "-f", "{{.Options.o}}", "share") == "(hidden)"
    assert 'ps_args "ef" is not allowed' in engine_fixture.denied("read", "top", "web1", "ef")
    engine_fixture.engine.ok("rm", "-f", "manager", "exporter")
    engine_fixture.engine.ok("volume", "rm", "share")


def test_the_hosts_directories_do_not_come_by_volumes(engine_fixture: EngineFixture) -> None:
    engine_fixture.engine.ok(
        "volume", "create", "--label", f"{TEAM}=web", *"-o type=none -o o=bind -o device=/etc etc".split()
    )
    engine_fixture.engine.ok("create", "--name", "has-etc", "-v", "etc:/e", "busybox")
    for argv in ("-v etc:/e", "--mount type=volume,src=etc,dst=/e", "--volumes-from has-etc"):
        refused = engine_fixture.denied("ci", "create", *argv.split(), "busybox")
        assert "the volume etc, which is a directory or device of the host, is not allowed for role no-exec" in refused
    assert engine_fixture.ok("web", "run", "--rm", "-v", "etc:/e:ro", "busybox", "ls", "/e/passwd") == "/e/passwd"
    (line,) = until(lambda: engine_fixture.lines(route="/containers/create", by="role no-exec", status=403)[-1:])
    assert line["decision"] == "denied"
    engine_fixture.engine.ok("rm", "has-etc")
    engine_fixture.engine.ok("volume", "rm", "etc")


def test_the_hosts_files_do_not_come_by_copying_out_of_who_has_them(engine_fixture: EngineFixture, tmp_path: Path) -> None:
    """Neither below the mount, nor by a link into it, nor by way of a volume, whether the container runs or not."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
    subprocess.run(["mount", "--make-shared", tmp_path], check=True)
    try:
        _no_copies_out(engine_fixture, tmp_path)
    finally:
        engine_fixture.engine.docker("rm", "-f", "bound", "volumed", "shared", "stopped", "own")
        engine_fixture.engine.docker("volume", "rm", "hostdir", "own")
        subprocess.run(["umount", tmp_path], check=True)


def _no_copies_out(engine_fixture: EngineFixture, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host")
    options = f"-o type=none -o o=bind -o device={tmp_path}"
    engine_fixture.engine.ok("volume", "create", *options.split(), "hostdir")
    link = "ln -s /m /link; sleep 600"
    for name, mount in (("bound", f"{tmp_path}:/m:ro"), ("volumed", "hostdir:/m"), ("shared", f"{tmp_path}:/m:rshared")):
        engine_fixture.engine.ok("run", "-d", "--name", name, "-v", mount, "busybox", "sh", "-c", link)
    engine_fixture.engine.ok("create", "--name", "stopped", "-v", f"{tmp_path}:/m", "busybox", "true")
    until(lambda: engine_fixture.engine.docker("exec", "bound", "ls", "/link/secret").code == 0)
    for name in ("bound", "volumed", "shared", "stopped"):
        for path in ("/m/secret", "/link/secret", "/m", "/", "/etc/hostname"):
            for method in ("GET", "HEAD"):
                status, said = engine_fixture.api("ci", method, f"/containers/{name}/archive?path={path}")
                assert status == 403, (name, path, said)
        assert "is not allowed for role no-exec" in engine_fixture.denied(
            "ci", "cp", f"{name}:/m/secret", str(tmp_path / "out")
        )
        for exported in (engine_fixture.docker("ci", "export", name), engine_fixture.engine.docker("export", name)):
            assert b"of the host" not in exported.stdout and exported.code == 0
        assert "/m/secret" not in engine_fixture.ok("ci", "diff", name)
    engine_fixture.engine.ok("cp", "bound:/m/secret", str(tmp_path / "out"))  # root's socket is unrestricted
    assert (tmp_path / "out").read_text() == "of the host"
    engine_fixture.ok("ci", "run", "--name", "own", "-v", "own:/d", "busybox", "sh", "-c", "echo mine > /d/file")
    engine_fixture.ok("ci", "cp", "own:/d/file", str(tmp_path / "mine"))
    assert (tmp_path / "mine").read_text() == "mine\n"


def test_an_anonymous_volume_of_a_host_directory_is_not_taken_over(engine_fixture: EngineFixture, tmp_path: Path) -> None:
    options = f"type=volume,dst=/m,volume-opt=type=none,volume-opt=o=bind,volume-opt=device={tmp_path}"
    engine_fixture.engine.ok("create", "--name", "holder", "-l", f"{TEAM}=web", "--mount", options, "busybox")
    for policy in ("web", "ci"):
        assert "which is a directory or device of the host, is not" in engine_fixture.denied(
            policy, "create", "--volumes-from", "holder", "busybox"
        )
    labelled = f"{options},volume-label={TEAM}=web"
    engine_fixture.engine.ok("create", "--name", "giver", "-l", f"{TEAM}=web", "--mount", labelled, "busybox")
    engine_fixture.ok("web", "run", "--rm", "--volumes-from", "giver:ro", "busybox", "ls", "/m")
    engine_fixture.engine.ok("rm", "-v", "holder", "giver")


def test_no_answer_tells_what_paths_the_host_has(engine_fixture: EngineFixture) -> None:
    said = set()
    for path in ("/etc/shadow", "/nonexistent", "/dev/null"):
        status, answer = engine_fixture.api(
            "ci",
            "POST",
            "/containers/create",
            {"Image": BUSYBOX, "HostConfig": {"BlkioDeviceReadBps": [{"Path": path, "Rate": 1}]}},
        )
        said.add((status, answer["message"]))
        mount = {"Type": "bind", "Source": path, "Target": "/t"}
        status, answer = engine_fixture.api(
            "ci", "POST", "/containers/create", {"Image": BUSYBOX, "HostConfig": {"Mounts": [mount]}}
        )
        said.add((status, answer["message"].replace(path, "PATH")))
    assert {status for status, _ in said} == {403}
    assert len(said) == 2


def test_top_shows_a_container_and_not_the_host(engine_fixture: EngineFixture) -> None:
    for policy in ("read", "ci", "web"):
        for words in ("-C sleep", "ef", "-eo lstart,pid,args"):
            assert f'ps_args "{words}" is not allowed' in engine_fixture.denied(policy, "top", "web1", *words.split())
        assert len(engine_fixture.docker(policy, "top", "web1", "aux").out.splitlines()) == 2  # titles and sleep


def test_names_of_images_that_others_run_are_not_moved(engine_fixture: EngineFixture, tmp_path: Path) -> None:
    (tmp_path / "rootfs.tar").write_bytes(layer(busybox()).data)
    (tmp_path / "evil.tar").write_bytes(docker_archive({BUSYBOX: image([layer({"evil": b""})])}))
    before = engine_fixture.engine.ok("images", "-q", "--no-trunc", "busybox")
    moved = f"moving the name {BUSYBOX} to another image is not allowed for role no-exec of listener"
    engine_fixture.ok("ci", "import", str(tmp_path / "rootfs.tar"), "ci:1")
    engine_fixture.ok("ci", "create", "--name", "changed", "ci:1", "true")
    for argv in ("tag ci:1 busybox", "commit changed busybox", f"import {tmp_path}/rootfs.tar busybox"):
        assert moved in engine_fixture.denied("ci", *argv.split()), argv
    assert moved in engine_fixture.docker("ci", "load", "-i", str(tmp_path / "evil.tar")).err
    for argv in ("rmi busybox", f"rmi -f {before}"):
        assert f"removing the name {BUSYBOX} is not allowed for role no-exec" in engine_fixture.denied("ci", *argv.split())
    engine_fixture.ok("ci", "image", "prune", "-af")
    assert engine_fixture.engine.ok("images", "-q", "--no-trunc", "busybox") == before
    for _ in range(2):  # its own names may be moved and removed
        engine_fixture.ok("ci", "commit", "changed", "ci:2")
    engine_fixture.ok("ci", "rm", "changed")
    engine_fixture.ok("ci", "rmi", "ci:2")
    engine_fixture.ok("ci", "image", "prune", "-f")  # the first ci:2, whose parent is ci:1
    engine_fixture.ok("ci", "image", "prune", "-af")
    assert engine_fixture.engine.ok("images", "--format", "{{.Repository}}:{{.Tag}}", "-a").split() == [BUSYBOX]
    denied = {"decision": "denied", "by": "role no-exec"}
    (line, *_) = until(lambda: engine_fixture.lines(route="/images/{name}/tag", **denied))
    assert (line["status"], moved in line["reason"]) == (403, True)
    (line, *_) = until(lambda: engine_fixture.lines(route="/images/load", event="end", **denied))
    assert moved in line["reason"]


def test_images_are_shared_only_where_it_says_so(engine_fixture: EngineFixture) -> None:
    assert engine_fixture.ok("web", "images", "-q")
    assert engine_fixture.ok("db", "images", "-q") == ""
    assert f"image {BUSYBOX.removesuffix(':latest')} is outside the labels" in engine_fixture.denied(
        "db", "run", "busybox", "true"
    )
    assert "an image from elsewhere is outside" in engine_fixture.denied("db", "pull", "nowhere.invalid/x")
    assert "outside" in engine_fixture.denied("web", "load", "-i", "/dev/null")


def test_prune_takes_ones_own(engine_fixture: EngineFixture) -> None:
    engine_fixture.engine.ok("create", "--name", "other", "busybox", "true")
    engine_fixture.ok("web", "create", "--name", "mine", "busybox", "true")
    engine_fixture.ok("web", "container", "prune", "-f")
    assert sorted(engine_fixture.engine.ok("ps", "-a", "--format", "{{.Names}}").split()) == ["db1", "other", "web1"]
    engine_fixture.ok("web", "system", "prune", "-f")
    engine_fixture.engine.ok("rm", "other")


def test_a_team_removes_its_links(engine_fixture: EngineFixture) -> None:
    engine_fixture.ok("web", "create", "--name", "linked", "--link", "web1:first", "busybox")
    ident = engine_fixture.engine.inspect("web1")["Id"]
    assert engine_fixture.engine.inspect("linked")["HostConfig"]["Links"] == ["/web1:/linked/first"]
    assert "container linked is outside the labels" in engine_fixture.denied("db", "rm", "--link", "linked/first")
    assert engine_fixture.ok("web", "rm", "--link", "linked/first") == "linked/first"
    assert (engine_fixture.engine.inspect("linked")["HostConfig"]["Links"], engine_fixture.engine.inspect("web1")["Id"]) == (
        None,
        ident,
    )
    engine_fixture.ok("web", "rm", "linked")


# --- the audit log ----------------------------------------------------------------------------------------------------


def test_who_did_what_is_written_down(engine_fixture: EngineFixture) -> None:
    engine_fixture.denied("read", "rm", "-f", "web1")
    listener = f"unix://{engine_fixture.engine.home}/read.sock"
    (line,) = until(lambda: engine_fixture.lines(route="/containers/{id}", listener=listener, decision="denied")[-1:])
    assert (line["event"], line["by"], line["status"], line["method"]) == ("call", "role read-only", 403, "DELETE")
    assert line["object"] == {"type": "container", "id": engine_fixture.engine.inspect("web1")["Id"], "name": "web1"}
    assert (line["peer"]["uid"], line["peer"]["gid"]) == (0, 0)
    assert line["peer"]["pid"] > 1
    assert line["path"].endswith("/containers/web1")
    status = engine_fixture.audit.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, 0)


def test_streams_have_a_beginning_and_an_end(engine_fixture: EngineFixture) -> None:
    engine_fixture.engine.ok("exec", "web1", "true")
    follower = subprocess.Popen(
        [
            "curl",
            "-sN",
            "--unix-socket",
            engine_fixture.engine.socket,
            "http://d/v1.45/containers/web1/logs?stdout=1&follow=1",
        ],
        stdout=subprocess.PIPE,
    )
    assert follower.stdout is not None
    assert follower.stdout.read(8)
    mine = until(lambda: [line for line in engine_fixture.lines(event="begin") if line["peer"]["pid"] == follower.pid])
    (begun,) = mine
    follower.kill()
    follower.communicate()
    (ended,) = until(lambda: engine_fixture.lines(event="end", id=begun["id"]))
    assert ended["outcome"] == "broken off"
    (hijack,) = until(lambda: engine_fixture.lines(event="end", route="/exec/{id}/start")[-1:])
    assert (hijack["status"], hijack["outcome"], hijack["object"]["name"]) == (101, "complete", "web1")
    assert hijack["seconds"] >= engine_fixture.lines(event="begin", id=hijack["id"])[0]["seconds"]


def test_unknown_routes_are_written_down_too(engine_fixture: EngineFixture) -> None:
    assert engine_fixture.api("read", "POST", "/no/such")[0] == 404
    assert until(lambda: engine_fixture.lines(path="/v1.45/no/such", status=404))[0].get("route", "") == ""


# --- authorization plugins --------------------------------------------------------------------------------------------


class Plugin:
    """A plugin on a unix socket in Docker's plugin directory. `decide` returns the verdict."""

    def __init__(self, decide: Callable[[str, dict[str, Any]], dict[str, Any]], implements: str = "authz") -> None:
        self.name = f"orlop-test-{secrets.token_hex(4)}"
        self.asked: list[tuple[str, dict[str, Any]]] = []
        plugin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                method, question = self.path[1:], json.loads(data or b"{}")
                plugin.asked.append((method, question))
                answer = {"Implements": [implements]} if method == "Plugin.Activate" else decide(method, question)
                body = json.dumps(answer).encode()
                self.send_response(answer.pop("status", 200))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "unix"

            def log_message(self, *args: Any) -> None:
                pass

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            opened: ClassVar[list[Any]] = []

            def process_request(self, request: Any, client_address: Any) -> None:
                self.opened.append(request)
                super().process_request(request, client_address)

        self._made = [path for path in (Path("/run/docker"), Path("/run/docker/plugins")) if not path.exists()]
        for path in self._made:
            path.mkdir()
        self._path = Path(f"/run/docker/plugins/{self.name}.sock")
        self._server = Server(str(self._path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in self._server.opened:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._path.unlink(missing_ok=True)
        for path in reversed(self._made):
            with contextlib.suppress(OSError):
                path.rmdir()

    def questions(self, method: str, uri: str) -> list[dict[str, Any]]:
        return [asked for name, asked in self.asked if name == f"AuthZPlugin.{method}" and uri in asked["RequestUri"]]


def _no_volumes(method: str, question: dict[str, Any]) -> dict[str, Any]:
    if question["RequestMethod"] == "POST" and question["RequestUri"].endswith("/volumes/create"):
        name = json.loads(base64.b64decode(question["RequestBody"]))["Name"]
        return {"Allow": name != "forbidden", "Msg": f"no volume {name}"}
    if "break" in question["RequestUri"]:
        return {"status": 500, "Err": "it broke"}
    if method == "AuthZPlugin.AuthZRes" and "/hide" in question["RequestUri"]:
        return {"Allow": False, "Msg": "not for you"}
    return {"Allow": True}


def test_plugins_are_asked_about_everything(engine_fixture: EngineFixture) -> None:
    """A reload enables and disables them, on all listeners."""
    engine = engine_fixture.engine
    first, second = Plugin(_no_volumes), Plugin(lambda method, question: {"Allow": True})
    try:
        _reload(engine, {**engine_fixture.config, "authorization-plugins": [first.name, second.name]})
        assert engine.ok("info", "-f", "{{json .Plugins.Authorization}}") == json.dumps(
            [first.name, second.name], separators=(",", ":")
        )
        said = engine.docker("volume", "create", "forbidden")
        assert f"authorization denied by plugin {first.name}: no volume forbidden" in said.err
        assert not second.questions("AuthZReq", "/volumes/create")
        assert engine.ok("volume", "create", "welcome") == "welcome"
        (asked,) = second.questions("AuthZReq", "/volumes/create")
        assert json.loads(base64.b64decode(asked["RequestBody"]))["Name"] == "welcome"
        assert asked["RequestHeaders"]["Content-Type"] == "application/json"
        (told,) = second.questions("AuthZRes", "/volumes/create")
        assert told["ResponseStatusCode"] == 201
        assert json.loads(base64.b64decode(told["ResponseBody"]))["Name"] == "welcome"
        assert engine_fixture.ok("read", "volume", "ls", "-q") == "welcome"
        engine.ok("volume", "rm", "welcome")

        assert engine.ok("run", "--rm", "busybox", "echo", "through") == "through"
        (hijack,) = second.questions("AuthZRes", "/attach")
        assert hijack["ResponseStatusCode"] == 101
        assert engine.api("GET", "/volumes/break") == (
            500,
            {"message": f"plugin {first.name} failed with error: AuthZPlugin.AuthZReq: it broke"},
        )
        engine.ok("volume", "create", "hide")
        assert engine.api("GET", "/volumes/hide") == (
            403,
            {"message": f"authorization denied by plugin {first.name}: not for you"},
        )
        large = json.dumps({"Name": "x", "Labels": {"a": "b" * (4 << 20)}}).encode()
        status, answer = engine.api("POST", "/volumes/create", large)
        assert (status, answer["message"]) == (
            500,
            "request body too large for authorization plugin: size exceeds 4194304 bytes",
        )

        first.close()
        status, answer = engine.api("GET", "/_ping")
        assert (status, f"plugin {first.name} failed with error" in answer["message"]) == (500, True)
        denied = until(lambda: engine_fixture.lines(decision="denied", by=f"plugin {first.name}", path="/_ping"))
        assert "cannot reach unix:///run/docker/plugins/" in denied[-1]["reason"]
        _reload(
            engine,
            {**engine_fixture.config, "authorization-plugins": ["no-such-plugin"]},
            'authorization plugin "no-such-plugin" not found',
        )
        assert engine.api("GET", "/_ping")[0] == 500
    finally:
        first.close()
        second.close()
        _reload(engine, engine_fixture.config)
    engine.ok("volume", "rm", "hide")


def _reload(engine: Engine, config: dict[str, Any], said: str = "configuration reloaded") -> None:
    engine.configure(config)
    before = engine.log().count(said)
    assert engine.process
    engine.process.send_signal(signal.SIGHUP)
    until(lambda: engine.log().count(said) > before, f"the reload: {said}")
