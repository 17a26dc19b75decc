"""Roles of listeners, used with `docker` and curl: allowed operations, and access to the host."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.access_fixture import TEAM, EngineFixture, serving
from tests.integration.engine import BUSYBOX, until
from tests.registry import busybox, docker_archive, hostile, image, layer

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def engine_fixture() -> Iterator[EngineFixture]:
    yield from serving()


def test_read_only_clients_can_list_inspect_and_read_logs(engine_fixture: EngineFixture) -> None:
    assert sorted(engine_fixture.ok("read", "ps", "--format", "{{.Names}}").split()) == ["db1", "web1"]
    assert engine_fixture.ok("read", "logs", "web1") == "hello"
    until(lambda: "web1" in engine_fixture.ok("read", "events", "--since", "1h", "--until", "0s"))  # times are in seconds
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
def test_read_only_clients_cannot_change_objects_or_see_processes(engine_fixture: EngineFixture, argv: str) -> None:
    text = engine_fixture.denied("read", *argv.split())
    assert f"is not allowed for role read-only of listener unix://{engine_fixture.engine.home}/read.sock" in text
    assert engine_fixture.engine.state("web1") == "running"


def test_read_only_clients_see_no_environment_values(engine_fixture: EngineFixture) -> None:
    env = "{{json .Config.Env}}"
    assert "PASSWORD=(hidden)" in engine_fixture.ok("read", "inspect", "-f", env, "web1")
    assert "secret" not in engine_fixture.ok("read", "inspect", "web1")
    assert "PASSWORD=secret" in engine_fixture.ok("env", "inspect", "-f", env, "web1")


def test_sockets_have_the_configured_owner_and_mode(engine_fixture: EngineFixture) -> None:
    read, env = (os.stat(engine_fixture.engine.home / f"{name}.sock") for name in ("read", "env"))
    assert (stat.S_IMODE(read.st_mode), read.st_gid) == (0o600, 0)
    assert (stat.S_IMODE(env.st_mode), env.st_gid) == (0o660, 65534)


def test_clients_of_role_no_exec_run_new_containers_but_no_commands_in_existing_containers(
    engine_fixture: EngineFixture,
) -> None:
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
        ("volume create -d some-plugin evil", "a volume of driver some-plugin"),
        ("run --volume-driver some-plugin -v evil:/d busybox true", "a volume of driver some-plugin"),
        ("network create -d macvlan evil", "a network of driver macvlan"),
    ):
        assert f"{what} is not allowed for role no-exec" in engine_fixture.denied("ci", *argv.split())
    engine_fixture.ok("ci", "volume", "rm", "ci-data")


def test_restricted_clients_cannot_reach_private_addresses(engine_fixture: EngineFixture) -> None:
    """The daemon may be able to reach addresses that the client cannot reach (SSRF). The daemon sends no request to these
    addresses, and the audit log names the client."""
    with hostile.serving() as inside:
        port = inside.host.rpartition(":")[2]
        what = "which is neither public nor a configured registry, is not allowed for role"
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


def test_push_is_refused_by_role_by_labels_or_by_destination(engine_fixture: EngineFixture) -> None:
    """The audit log contains the image, the tag, and the reason why a push was refused."""
    with hostile.serving() as inside:
        name = f"{inside.host}/app:v1"
        engine_fixture.engine.ok("tag", "busybox", name)
        assert "not allowed for role read-only" in engine_fixture.denied("read", "push", name)
        assert f"image {name} is outside the labels" in engine_fixture.denied("db", "push", name)
        for policy in ("ci", "web"):
            assert "which is neither public nor a configured registry" in engine_fixture.denied(policy, "push", name)
            status, answer = engine_fixture.api(policy, "GET", f"/distribution/{name}/json")
            assert (status, "which is neither public" in answer["message"]) == (403, True)
        assert inside.requests == []
        path = f"/v1.45/images/{inside.host}/app/push"
        end = until(lambda: engine_fixture.lines(path=path, event="end", decision="denied"))[0]
        id = engine_fixture.engine.inspect("web1")["Image"]
        assert (end["object"], end["by"]) == ({"type": "image", "id": id, "name": name}, "role no-exec")
        assert "push" not in engine_fixture.engine.events(type="image")
        engine_fixture.engine.ok("rmi", name)


def test_attach_and_its_standard_input_are_allowed_by_role(engine_fixture: EngineFixture) -> None:
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


def test_json_keys_in_any_case_are_checked(engine_fixture: EngineFixture) -> None:
    """Guard and handler accept keys in any case, so they read the same values."""
    body = {"image": BUSYBOX, "hostconfig": {"PRIVILEGED": True}}
    status, answer = engine_fixture.api("ci", "POST", "/containers/create", body)
    assert (status, "Privileged is not allowed" in answer["message"]) == (403, True)


def test_dry_run_of_a_create_is_refused_like_the_create(engine_fixture: EngineFixture) -> None:
    engine_fixture.engine.ok("network", "create", "closed")
    for policy, body in (
        ("ci", {"HostConfig": {"Privileged": True}}),
        ("ci", {"HostConfig": {"Binds": ["/etc:/e"]}}),
        ("web", {"Labels": {TEAM: "db"}}),
        ("web", {"HostConfig": {"NetworkMode": "closed"}}),
    ):
        request = {"Image": BUSYBOX, **body}
        refused = engine_fixture.api(policy, "POST", "/containers/create", request)
        assert refused[0] == 403
        assert engine_fixture.api(policy, "POST", "/orlop/containers/plan", request) == refused
    assert engine_fixture.api("read", "POST", "/orlop/containers/plan", {"Image": BUSYBOX})[0] == 403
    status, plan = engine_fixture.api("ci", "POST", "/orlop/containers/plan", {"Image": BUSYBOX, "Cmd": ["true"]})
    assert (status, plan["Problems"]) == (200, [])
    engine_fixture.engine.ok("network", "rm", "closed")


def test_host_access_is_not_inherited_from_other_containers(engine_fixture: EngineFixture) -> None:
    engine_fixture.engine.ok("run", "-d", "--name", "manager", "-v", "/etc:/host:ro", "busybox", "sleep", "600")
    engine_fixture.engine.ok("run", "-d", "--name", "exporter", "--network", "host", "busybox", "sleep", "600")
    engine_fixture.engine.ok("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=7", "share")
    for argv, what in (
        ("--volumes-from manager", "VolumesFrom manager, which has the bind mount of /etc,"),
        ("--network container:exporter", "NetworkMode container:exporter, which uses the host's namespace,"),
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


def test_volumes_on_host_directories_are_refused(engine_fixture: EngineFixture) -> None:
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


def test_files_of_the_host_cannot_be_copied_out_of_containers(engine_fixture: EngineFixture, tmp_path: Path) -> None:
    """Tries paths below a bind mount, a link into the mount, and a volume, with a running and with a stopped container."""
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


def test_answers_do_not_reveal_paths_of_the_host(engine_fixture: EngineFixture) -> None:
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


def test_error_about_a_held_port_does_not_name_the_process(engine_fixture: EngineFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        argv = ("run", "--rm", "-p", f"127.0.0.1:{port}:80", BUSYBOX, "true")
        for policy in ("ci", "web"):
            refused = engine_fixture.denied(policy, *argv)
            assert ("address already in use" in refused, "is held by" in refused) == (True, False)
        assert f"(port {port} is held by" in engine_fixture.engine.docker(*argv).err


def test_top_does_not_show_processes_of_the_host(engine_fixture: EngineFixture) -> None:
    for policy in ("read", "ci", "web"):
        for words in ("-C sleep", "ef", "-eo lstart,pid,args"):
            assert f'ps_args "{words}" is not allowed' in engine_fixture.denied(policy, "top", "web1", *words.split())
        assert len(engine_fixture.docker(policy, "top", "web1", "aux").out.splitlines()) == 2  # titles and sleep


def test_listener_cannot_move_or_remove_image_names_that_it_did_not_create(
    engine_fixture: EngineFixture, tmp_path: Path
) -> None:
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
    for _ in range(2):  # the listener's own names may be moved and removed
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
