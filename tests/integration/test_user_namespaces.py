"""`userns-remap`: containers in a user namespace, over id-mapped mounts of layers and volumes."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.engine import STORAGE, Engine, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(STORAGE == "erofs", reason="erofs refuses userns-remap"),
]

FIRST = 300_000
STAT = "stat -c '%u:%g %n' "


def _opened(ranges: Path, **config: object) -> Engine:
    """A daemon that sees `ranges` as /etc/subuid and /etc/subgid, in a mount namespace of its own."""
    binds = f"mount --bind {ranges} /etc/subuid && mount --bind {ranges} /etc/subgid"
    prefix = ("unshare", "--mount", "--propagation", "slave", "sh", "-c", f'{binds} && exec "$@"', "sh")
    engine = Engine({"userns-remap": "nobody:nogroup", "live-restore": True, **config}, prefix=prefix)
    os.chmod(engine.home, 0o711)  # the runtime enters this directory as the container's root
    engine.start()
    engine.load()
    return engine


@pytest.fixture(scope="module")
def ranges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ids") / "ranges"
    path.write_text(f"nobody:{FIRST}:1000\nnogroup:{FIRST}:1000\nnobody:500000:65536\nnogroup:500000:65536\n")
    return path


@pytest.fixture(scope="module")
def mapped(ranges: Path) -> Iterator[Engine]:
    engine = _opened(ranges)
    try:
        yield engine
    finally:
        assert not engine.close()


def test_process_is_root_in_the_container_and_unprivileged_on_the_host(mapped: Engine, name: str) -> None:
    mapped.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    pid = mapped.inspect(name)["State"]["Pid"]
    assert os.stat(f"/proc/{pid}").st_uid == FIRST
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", "300000", "1000", "1000", "500000", "65536"]
    seen = mapped.docker("exec", name, "sh", "-c", f"id -u; {STAT} / /bin/busybox /proc/1 /etc/hosts; echo >> /etc/hosts")
    assert seen.out.split("\n") == ["0", "0:0 /", "0:0 /bin/busybox", "0:0 /proc/1", "0:0 /etc/hosts", ""]
    assert mapped.docker("exec", "-u", "7:8", name, "id", check=0).line.startswith("uid=7")
    assert str(FIRST) in mapped.docker("top", name).out
    assert mapped.docker("stats", "--no-stream", "--format", "{{.PIDs}}", name).line == "1"
    assert "name=userns" in mapped.api("GET", "/info")[1]["SecurityOptions"]


def test_owners_of_files_on_disk_are_the_same_as_without_userns_remap(mapped: Engine, name: str) -> None:
    script = "touch /new /vol/new; chown 33:44 /new /vol/new; chown 5 /bin/sh; rm /bin/vi; mkdir /d; sleep 600"
    mapped.ok("run", "-d", "--name", name, "-v", f"{name}:/vol", "busybox", "sh", "-c", script)
    until(lambda: mapped.docker("exec", name, "ls", "-d", "/d").code == 0)
    volume = Path(mapped.api("GET", f"/volumes/{name}")[1]["Mountpoint"])
    assert os.stat(volume).st_uid == 0
    assert (os.stat(volume / "new").st_uid, os.stat(volume / "new").st_gid) == (33, 44)
    assert {"C /bin", "C /bin/sh", "D /bin/vi", "A /new", "A /d"} <= set(mapped.docker("diff", name).out.splitlines())
    mapped.ok("commit", name, f"{name}:made")
    for flags in ((), ("--userns", "host")):
        run = ("run", "--rm", "-v", f"{name}:/vol", *flags, f"{name}:made", "sh", "-c", f"{STAT} /new /vol/new /bin/sh")
        assert mapped.docker(*run).out.splitlines() == ["33:44 /new", "33:44 /vol/new", "5:0 /bin/sh"]
    mapped.ok("rm", "-fv", name)
    mapped.ok("volume", "rm", name)
    mapped.ok("rmi", f"{name}:made")


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_cp_and_export_use_the_user_ids_of_the_container(mapped: Engine, name: str, running: bool, tmp_path: Path) -> None:
    script = "touch /new /vol/new; chown 33:44 /new /vol/new; touch /ready; sleep 600"
    mapped.ok("run", "-d", "--name", name, "-v", f"{name}:/vol", "busybox", "sh", "-c", script)
    until(lambda: mapped.docker("exec", name, "ls", "/ready").code == 0)
    if not running:
        mapped.ok("stop", "-t", "0", name)

    def owners(*command: str) -> dict[str, tuple[int, int]]:
        with tarfile.open(fileobj=io.BytesIO(mapped.docker(*command, check=0).stdout)) as tar:
            return {member.name.rstrip("/"): (member.uid, member.gid) for member in tar}

    assert owners("cp", f"{name}:/new", "-") == {"new": (33, 44)}
    assert owners("cp", f"{name}:/vol", "-") == {"vol": (0, 0), "vol/new": (33, 44)}
    exported = owners("export", name)
    assert (exported["new"], exported["bin/sh"]) == ((33, 44), (0, 0))
    (tmp_path / "f").write_text("1")
    os.chown(tmp_path / "f", 55, 66)
    for target in ("/put", "/vol/put"):
        mapped.ok("cp", "-a", str(tmp_path / "f"), f"{name}:{target}")
    if not running:
        mapped.ok("start", name)
    assert mapped.docker("exec", name, "sh", "-c", f"{STAT} /put /vol/put").out.splitlines() == [
        "55:66 /put",
        "55:66 /vol/put",
    ]
    mapped.ok("rm", "-fv", name)
    mapped.ok("volume", "rm", name)


def test_owners_of_bind_mounted_host_files_are_not_mapped(mapped: Engine, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("1")
    os.chmod(tmp_path, 0o755)
    bind = ("-v", f"{tmp_path}:/b")
    assert mapped.docker("run", "--rm", *bind, "busybox", "stat", "-c", "%u", "/b/f").line == "65534"
    assert mapped.docker("run", "--rm", *bind, "busybox", "touch", "/b/f").code == 1
    os.chown(tmp_path / "f", FIRST + 7, FIRST + 8)
    assert mapped.docker("run", "--rm", *bind, "busybox", "stat", "-c", "%u:%g", "/b/f").line == "7:8"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--privileged",), "privileged mode is incompatible with user namespaces"),
        (("--network", "host"), "cannot share the host's network namespace when user namespaces are enabled"),
        (("--pid", "host"), "cannot share the host PID namespace when user namespaces are enabled"),
        (("--ipc", "host"), "cannot share the host's IPC namespace when user namespaces are enabled"),
    ],
)
def test_options_that_need_the_hosts_user_namespace_are_refused(
    mapped: Engine, flags: tuple[str, ...], sentence: str
) -> None:
    refused = mapped.docker("run", "--rm", *flags, "busybox", "true")
    assert (refused.code, sentence in refused.err) == (125, True)
    assert mapped.docker("run", "--rm", "--userns", "host", *flags, "busybox", "true").code == 0


@pytest.mark.parametrize("kind", ["network", "pid", "ipc"])
def test_container_that_joins_a_namespace_also_joins_the_user_namespace_that_owns_it(
    mapped: Engine, name: str, kind: str
) -> None:
    more = ("--ipc", "shareable") if kind == "ipc" else ()
    mapped.ok("run", "-d", "--name", name, *more, "busybox", "sleep", "600")
    user = os.readlink(f"/proc/{mapped.inspect(name)['State']['Pid']}/ns/user")
    join = ("run", "--rm", f"--{kind}", f"container:{name}", "busybox", "readlink", "/proc/self/ns/user")
    assert mapped.docker(*join, check=0).line == user
    mapped.ok("rm", "-f", name)
    mapped.ok("run", "-d", "--name", name, "--userns", "host", *more, "busybox", "sleep", "600")
    assert "which has no user namespace: use --userns=host" in mapped.docker(*join).err
    mapped.ok("rm", "-f", name)


def test_container_with_a_user_and_a_tmpfs_and_limits_and_a_terminal_works(mapped: Engine, name: str) -> None:
    script = f"{STAT} /im/bin/busybox /t /dev/shm; tty; id -u > /dev/tty; cat /proc/sys/net/ipv4/ping_group_range"
    status, made = mapped.api(
        "POST",
        f"/v1.48/containers/create?name={name}",
        {
            "Image": "busybox",
            "Cmd": ["sh", "-c", script],
            "Tty": True,
            "User": "1000",
            "HostConfig": {
                "Memory": 64 << 20,
                "IpcMode": "shareable",
                "ReadonlyRootfs": True,
                "Tmpfs": {"/t": "uid=7"},
                "Mounts": [{"Type": "image", "Source": "busybox", "Target": "/im"}],
            },
        },
    )
    assert status == 201, made
    assert mapped.docker("start", "-a", name).out.splitlines() == [
        "0:0 /im/bin/busybox",
        "7:0 /t",
        "0:0 /dev/shm",
        "/dev/pts/0",
        "1000",
        "0\t999",
    ]
    mapped.ok("rm", name)


def test_published_ports_and_container_names_can_be_reached(mapped: Engine, name: str) -> None:
    network = mapped.ok("network", "create", name)
    script = "mkdir /w; echo hello > /w/index.html; httpd -f -h /w"
    mapped.ok("run", "-d", "--name", name, "--network", name, "-p", "127.0.0.1::80", "busybox", "sh", "-c", script)
    address = mapped.docker("port", name, "80").line
    until(lambda: mapped.run(["wget", "-qO-", f"http://{address}/"]).line == "hello", "the port answers")
    get = mapped.docker("run", "--rm", "--network", name, "busybox", "wget", "-qO-", f"http://{name}/")
    assert get.line == "hello"
    mapped.ok("rm", "-f", name)
    mapped.ok("network", "rm", network)


def test_build_step_runs_in_a_user_namespace(mapped: Engine, name: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("1")
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nCOPY --chown=5:6 f /f\n"
        "RUN --mount=type=cache,target=/c cat /proc/self/uid_map > /map && touch /c/x "
        "&& stat -c %u /c/x > /ids && chown 9 /ids\n"
    )
    mapped.docker("build", "-q", "-t", f"{name}:built", str(tmp_path), check=0)
    seen = mapped.docker(
        "run", "--rm", "--userns", "host", f"{name}:built", "sh", "-c", f"{STAT} /f /ids; cat /ids /map; ls /"
    )
    assert seen.out.splitlines()[:4] == ["5:6 /f", "9:0 /ids", "0", f"{0:>10} {FIRST:>10} {1000:>10}"]
    assert "\nc\n" not in seen.out, "the cache's mount point is no part of the layer"
    mapped.ok("rmi", f"{name}:built")


def test_container_keeps_its_user_namespace_if_the_next_daemon_has_no_userns_remap(ranges: Path, name: str) -> None:
    engine = _opened(ranges)
    try:
        engine.ok("run", "-d", "--name", name, "-v", f"{name}:/vol", "busybox", "sh", "-c", "touch /new; sleep 600")
        pid = engine.inspect(name)["State"]["Pid"]
        engine.kill()
        engine.start()
        assert engine.inspect(name)["State"]["Pid"] == pid
        assert engine.docker("exec", name, "stat", "-c", "%u", "/new").line == "0"
        engine.stop()
        engine.configure({"live-restore": True})
        engine.start()
        assert engine.inspect(name)["State"]["Pid"] == pid
        engine.ok("cp", str(ranges), f"{name}:/vol/put")
        assert engine.docker("exec", name, "stat", "-c", "%u %n", "/new", "/vol/put").out.splitlines() == [
            "0 /new",
            "0 /vol/put",
        ]
        engine.ok("restart", "-t", "0", name)
        map_ = engine.docker("exec", name, "cat", "/proc/self/uid_map").out.split()
        assert map_ == ["0", "0", str((1 << 32) - 1)], "a start uses the configuration of the daemon"
        assert engine.docker("exec", name, "stat", "-c", "%u", "/new").line == "0"
    finally:
        assert not engine.close()


def test_checkpoint_of_a_container_with_a_user_namespace_is_refused(mapped: Engine, name: str) -> None:
    mapped.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    status, answer = mapped.api("POST", f"/containers/{name}/checkpoints", {"CheckpointID": "one"})
    assert (status, answer["message"]) == (501, f"cannot checkpoint container {name}: it has a user namespace")
    mapped.ok("rm", "-f", name)
