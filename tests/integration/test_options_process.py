"""Options for the process and its confinement: their effect inside the container."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.engine import Engine, until

pytestmark = pytest.mark.root

ALL_NAMESPACES = ("pid", "ipc", "uts", "net")
STATUS = "grep -E '^(Uid|Gid|Groups|NoNewPrivs|Seccomp|CapBnd|CapEff):' /proc/self/status"


def _namespaces(engine: Engine, name: str) -> dict[str, str]:
    pid = engine.inspect(name)["State"]["Pid"]
    return {kind: str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in (*ALL_NAMESPACES, "cgroup")}


def _status(text: str) -> dict[str, str]:
    return {key: " ".join(value.split()) for key, _, value in (line.partition(":") for line in text.splitlines())}


def test_many_options_of_docker_run_take_effect_together(engine: Engine, name: str) -> None:
    script = (
        "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname; pwd; stat -c %u:%g:%a .; "
        "ulimit -c; ulimit -n; ulimit -Hn; "
        "cat /proc/self/oom_score_adj; df -k /dev/shm | tail -1 | awk '{print $2}'; cat /proc/sys/net/core/somaxconn "
        f"/proc/sys/kernel/msgmax; cat /proc/sys/fs/mqueue/msg_max; {STATUS}"
    )
    flags = ["--hostname", "ship_1", "--domainname", "sea.example", "-w", "/some/deep/place", "--group-add", "7777"]
    flags += ["--group-add", "wheel", "--ulimit", "core=-1", "--ulimit", "nofile=100:200", "--oom-score-adj", "77"]
    flags += ["--shm-size", "3m", "--sysctl", "net.core.somaxconn=99", "--sysctl", "kernel.msgmax=4096"]
    flags += ["--sysctl", "fs.mqueue.msg_max=55", "--security-opt", "no-new-privileges", "--cap-drop", "ALL"]
    flags += ["--cap-add", "net_admin", "--annotation", "org.example.a=b", "-l", "x=y", "--stop-signal", "USR1"]
    _with_groups(engine, name)
    lines = engine.ok("run", "--name", name, *flags, f"with-groups-{name}", "sh", "-c", script).splitlines()
    assert lines[:4] == ["ship_1", "sea.example", "/some/deep/place", "0:0:755"]
    assert lines[4:12] == ["unlimited", "100", "200", "77", "3072", "99", "4096", "55"]
    status = _status("\n".join(lines[12:]))
    assert status["Groups"].split() == ["0", "10", "7777"]
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 1 << 12
    found = engine.inspect(name)
    assert (found["HostConfig"]["Annotations"], found["Config"]["Labels"]) == ({"org.example.a": "b"}, {"x": "y"})
    assert (found["Config"]["StopSignal"], found["AppArmorProfile"]) == ("USR1", _profile())


def _with_groups(engine: Engine, name: str) -> None:
    """An image with groups that busybox does not have."""
    maker = f"maker-{name}"
    engine.ok("run", "--name", maker, "busybox", "sh", "-c", "echo wheel:x:10: >>/etc/group")
    engine.ok("commit", maker, f"with-groups-{name}")


def _profile() -> str:
    try:
        on = Path("/sys/module/apparmor/parameters/enabled").read_text().startswith("Y")
    except OSError:
        on = False
    return "docker-default" if on and shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin:/bin") else ""


@pytest.mark.parametrize("user", ["4294967296", "-1", "0x0", "2147483648", "1000:-1", "1000:4294967296", " 0", "+0"])
def test_start_with_an_unknown_user_is_refused(engine: Engine, name: str, user: str) -> None:
    body = {"Image": "busybox", "User": user, "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}
    assert engine.api("POST", f"/containers/create?name={name}", body)[0] == 201
    status, answer = engine.api("POST", f"/containers/{name}/start")
    assert status == 400 and ("unable to find user" in answer["message"] or "out of range" in answer["message"])


def test_working_directory_is_created_before_the_start(engine: Engine, name: str, tmp_path: Path) -> None:
    engine.ok("create", "--name", name, "-w", "/made/here", "busybox", "cat", "file")
    (tmp_path / "file").write_text("copied\n")
    engine.ok("cp", str(tmp_path / "file"), f"{name}:/made/here/file")
    assert engine.ok("start", "-a", name) == "copied"
    result = engine.docker("create", "-w", "/etc/passwd/x", "busybox")
    assert result.code == 1 and "not a directory" in result.err
    assert engine.docker("ps", "-aq").out.split() == [engine.inspect(name)["Id"][:12]]


def test_init_reaps_orphans_of_the_command(engine: Engine, name: str) -> None:
    assert shutil.which("docker-init") or shutil.which("tini"), "the tests need an init: tini"
    # The inner subshell becomes a child of PID 1, which does not wait
    orphan = ("busybox", "sh", "-c", "((sleep 0.05; touch /ended) &); exec sleep 600")
    for flags, zombies in (([], "1"), (["--init"], "0")):
        engine.ok("run", "-d", "--name", name, "--network", "none", *flags, *orphan)
        until(lambda: engine.docker("exec", name, "test", "-e", "/ended").code == 0, "the end of the child")
        count = ("exec", name, "sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l")
        until(lambda count=count, zombies=zombies: engine.ok(*count) == zombies, f"{zombies} zombies")
        engine.ok("rm", "-f", name)
    # The init forwards signals: TERM ends a process without a handler, unless it is process 1
    engine.ok("run", "-d", "--init", "--name", name, "busybox", "sleep", "600")
    engine.ok("stop", "-t", "20", name)
    assert engine.inspect(name)["State"]["ExitCode"] == 143
    with_host = engine.ok("run", "--rm", "--init", "--pid", "host", "--network", "none", "busybox", "cat", "/proc/self/stat")
    assert "docker-init" not in with_host


def test_read_only_root_leaves_dev_and_tmpfs_writable(engine: Engine) -> None:
    script = (
        "for p in / /etc /sys /dev/shm /dev/mqueue /dev /tmp /run; do "
        "touch $p/probe 2>/dev/null && echo $p rw || echo $p ro; done; grep -E ' /(run|tmp) ' /proc/mounts"
    )
    flags = ["--read-only", "--tmpfs", "/run:size=64k,mode=1770,uid=5,gid=6,exec", "--tmpfs", "/tmp"]
    lines = engine.ok("run", "--rm", "--network", "none", *flags, "busybox", "sh", "-c", script).splitlines()
    assert lines[:8] == [
        "/ ro",
        "/etc ro",
        "/sys ro",
        "/dev/shm rw",
        "/dev/mqueue rw",
        "/dev rw",
        "/tmp rw",
        "/run rw",
    ]
    run = next(line for line in lines[8:] if " /run " in line)
    assert {"rw", "nosuid", "nodev", "size=64k", "mode=1770", "uid=5", "gid=6"} <= set(run.split()[3].split(","))
    assert "noexec" not in run and "noexec" in next(line for line in lines[8:] if " /tmp " in line)


def test_masked_and_read_only_paths_are_enforced(engine: Engine, name: str) -> None:
    script = "cat /proc/interrupts | wc -c; echo 60 >/proc/sys/kernel/panic; grep -c ' /proc/' /proc/mounts"

    def seen(*flags: str) -> tuple[list[str], str]:
        result = engine.docker("run", "--rm", "--network", "none", *flags, "busybox", "sh", "-c", script)
        return result.out.split(), result.err

    out, err = seen()
    assert out[0] == "0" and int(out[1]) > 3 and "Read-only file system" in err
    out, err = seen("--security-opt", "systempaths=unconfined", "-u", "1000")
    assert int(out[0]) > 100 and out[1] == "0" and "Permission denied" in err
    body = {
        "Image": "busybox",
        "Cmd": ["cat", "/etc/passwd"],
        "HostConfig": {"MaskedPaths": ["/etc/passwd"], "NetworkMode": "none"},
    }
    assert engine.api("POST", f"/containers/create?name={name}", body)[0] == 201
    assert engine.ok("start", "-a", name) == ""


def test_seccomp_profiles_are_enforced(engine: Engine, name: str, tmp_path: Path) -> None:
    profile = tmp_path / "no-chmod.json"
    rule = {"names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))

    def run(option: str, *command: str) -> tuple[int, str]:
        result = engine.docker(
            "run", "--rm", "--network", "none", "--security-opt", f"seccomp={option}", "busybox", *command
        )
        return result.code, result.err

    assert run(str(profile), "chmod", "600", "/etc/passwd") == (1, "chmod: /etc/passwd: Function not implemented\n")
    assert run("unconfined", "chmod", "600", "/etc/passwd") == (0, "")
    # The built-in profile forbids unshare(2), which needs no capability for a user namespace
    assert "Operation not permitted" in run("builtin", "unshare", "-U", "true")[1]
    assert run("unconfined", "unshare", "-U", "true")[0] == 0
    for bad in ("{", "/etc/passwd"):
        body = {"Image": "busybox", "HostConfig": {"SecurityOpt": [f"seccomp={bad}"], "NetworkMode": "none"}}
        status, made = engine.api("POST", "/containers/create", body)
        status, answer = engine.api("POST", f"/containers/{made['Id']}/start")
        assert status == 400 and "Decoding seccomp profile failed" in answer["message"] and "root:" not in answer["message"]


@pytest.mark.skipif(Path("/sys/module/apparmor").exists(), reason="this host has AppArmor")
def test_profiles_and_labels_that_would_have_no_effect_are_refused(engine: Engine) -> None:
    for option, code in (("apparmor=unconfined", 0), ("label=disable", 0), ("apparmor=mine", 125), ("label=type:x", 125)):
        result = engine.docker("run", "--rm", "--network", "none", "--security-opt", option, "busybox", "true")
        assert result.code == code, result.err
        assert ("AppArmor is not enabled on this host" in result.err) is (option == "apparmor=mine")
        assert ("SELinux labels are not supported" in result.err) is (option == "label=type:x")


@pytest.mark.skipif(not _profile(), reason="this host has no AppArmor")
def test_apparmor_confines_processes_and_execs(engine: Engine, name: str) -> None:
    current = ["cat", "/proc/self/attr/current"]
    engine.ok("run", "-d", "--name", name, "--cap-add", "SYS_ADMIN", "busybox", "sleep", "600")
    assert engine.ok("exec", name, *current) == "docker-default (enforce)"
    assert engine.docker("exec", name, "mount", "-t", "tmpfs", "none", "/tmp").code != 0
    assert engine.ok("exec", name, "kill", "-0", "1") == ""
    assert engine.inspect(name)["AppArmorProfile"] == "docker-default"
    engine.ok("stop", "-t", "0", name)
    for flags in (["--privileged"], ["--security-opt", "apparmor=unconfined"]):
        assert engine.ok("run", "--rm", *flags, "busybox", *current) == "unconfined"
    result = engine.docker("run", "--rm", "--security-opt", "apparmor=no-such", "busybox", "true")
    assert result.code == 125 and "it is not loaded" in result.err


def test_container_has_only_the_given_access_to_devices(engine: Engine, name: str) -> None:
    device = next(path for path in ("/dev/loop-control", "/dev/fuse", "/dev/kmsg") if os.path.exists(path))
    flags = ["--device", f"{device}:/dev/mine:r", "--device-cgroup-rule", "c 1:11 w", "--network", "none"]
    script = (
        "true </dev/mine && echo read; true >/dev/mine; "
        "mknod /dev/log c 1 11; true >/dev/log && echo ruled; true </dev/log; mknod /dev/disk b 254 0; true </dev/disk"
    )
    result = engine.docker("run", "--rm", *flags, "busybox", "sh", "-c", script)
    assert result.out.split() == ["read", "ruled"]
    refused = ("create /dev/mine", "open /dev/log", "open /dev/disk")  # mknod works, but no rule allows opening
    assert [f"can't {what}: Operation not permitted" in result.err for what in refused] == [True, True, True], result.err
    result = engine.docker("run", "--rm", "--device", "/dev/no-such", "busybox", "true")
    assert 'error gathering device information while adding custom device "/dev/no-such": no such file' in result.err
    renamed = ["--privileged", "--device", "/dev/null:/dev/other-name", "--network", "none"]
    assert (
        engine.ok("run", "--rm", *renamed, "busybox", "sh", "-c", "test -c /dev/other-name && test -c /dev/null && echo ok")
        == "ok"
    )


CDI = {
    "cdiVersion": "0.5.0",
    "kind": "vendor.com/class",
    "containerEdits": {"env": ["VENDOR=yes"]},
    "devices": [
        {
            "name": "dev0",
            "containerEdits": {
                "deviceNodes": [{"path": "/dev/vendor0", "hostPath": "/dev/null"}],
                "hooks": [{"hookName": "createContainer", "path": "/bin/sh", "args": ["sh", "-c", "touch HERE/hook-ran"]}],
                "mounts": [{"hostPath": "HERE", "containerPath": "/vendor", "options": ["ro"]}],
            },
        }
    ],
}


def test_cdi_devices_are_injected(fresh: Callable[..., Engine], tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    engine = fresh({"cdi-spec-dirs": [str(tmp_path)]})
    (tmp_path / "vendor.json").write_text(json.dumps(CDI).replace("HERE", str(tmp_path)))
    info = engine.api("GET", "/info")[1]
    assert info["CDISpecDirs"] == [str(tmp_path)]
    assert info["DiscoveredDevices"] == [{"Source": "cdi", "ID": "vendor.com/class=dev0"}]
    assert "DiscoveredDevices" not in engine.api("GET", "/v1.49/info")[1]
    script = "echo $VENDOR; echo x > /dev/vendor0 && ls /vendor; touch /vendor/x"
    request = {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["vendor.com/class=dev0"]}]}
    body = {
        "Image": "busybox",
        "Cmd": ["sh", "-c", script],
        "User": "1000",
        "HostConfig": {"NetworkMode": "none", **request},
    }
    made = engine.api("POST", "/containers/create", body)[1]["Id"]
    result = engine.docker("start", "-a", made)
    assert result.out.split() == ["yes", "hook-ran", "vendor.json"] and "Read-only file system" in result.err
    none = engine.orlop("run", "--rm", "--device", "vendor.com/class=none", "busybox", "true")
    assert none.code == 125 and "CDI device injection failed: unresolvable CDI devices vendor.com/class=none" in none.err


@pytest.mark.skipif(bool(shutil.which("nvidia-container-runtime-hook")), reason="this host has NVIDIA's toolkit")
def test_missing_gpus_are_reported(engine: Engine) -> None:
    result = engine.docker("run", "--rm", "--gpus", "all", "busybox", "true")
    assert result.code == 125
    assert 'could not select device driver "" with capabilities: [[gpu]]' in result.err


def test_container_can_join_namespaces_of_the_host_and_of_other_containers(engine: Engine, name: str) -> None:
    sleep = ("busybox", "sleep", "600")
    ours = {kind: str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in (*ALL_NAMESPACES, "cgroup")}
    engine.ok("run", "-d", "--name", name, "--ipc", "shareable", "--shm-size", "2m", "--cgroupns", "private", *sleep)
    own = _namespaces(engine, name)
    assert not set(own.values()) & set(ours.values())
    host = [flag for kind in ("pid", "ipc", "uts", "network") for flag in (f"--{kind}", "host")]
    engine.ok("run", "-d", "--name", f"{name}-host", *host, "--cgroupns", "host", "--userns", "host", *sleep)
    assert _namespaces(engine, f"{name}-host") == ours
    joined = [flag for kind in ("pid", "ipc", "network") for flag in (f"--{kind}", f"container:{name}")]
    engine.ok("run", "-d", "--name", f"{name}-two", *joined, *sleep)
    two = _namespaces(engine, f"{name}-two")
    assert {kind for kind in two if two[kind] == own[kind]} == {"pid", "ipc", "net"}
    assert "sleep 600" in engine.ok("exec", f"{name}-two", "cat", "/proc/1/cmdline").replace("\0", " ")


def test_containers_with_ipc_mode_container_share_dev_shm(engine: Engine, name: str) -> None:
    sleep = ("--network", "none", "busybox", "sleep", "600")
    engine.ok("run", "-d", "--name", name, "--ipc", "shareable", "--shm-size", "2m", *sleep)
    engine.ok("run", "-d", "--name", f"{name}-two", "--ipc", f"container:{name}", *sleep)
    engine.ok("exec", f"{name}-two", "sh", "-c", "echo from two > /dev/shm/x")
    assert (
        engine.ok("exec", name, "sh", "-c", "cat /dev/shm/x; df -k /dev/shm | tail -1 | awk '{print $2}'")
        == "from two\n2048"
    )
    engine.ok("run", "-d", "--name", f"{name}-private", *sleep)
    for other, text in (
        (f"{name}-private", "non-shareable IPC (hint: use IpcMode:shareable"),
        ("no-such", "No such container"),
    ):
        result = engine.docker("run", "--rm", "--ipc", f"container:{other}", "busybox", "true")
        assert result.code == 125 and text in result.err
    none = engine.docker("run", "--rm", "--ipc", "none", "--network", "none", "busybox", "ls", "/dev/shm")
    assert "No such file or directory" in none.err
    assert not [line for line in Path("/proc/self/mounts").read_text().splitlines() if ".stage" in line]
    engine.ok("rm", "-f", name, f"{name}-two", f"{name}-private")
    until(lambda: not list(engine.exec_root.glob("mnt/*.stage")), "nothing of it is left")


def test_shared_memory_outlives_the_daemon(fresh: Callable[..., Engine]) -> None:
    engine = fresh({"live-restore": True})
    engine.ok("run", "-d", "--name", "one", "--ipc", "shareable", "--network", "none", "busybox", "sleep", "600")
    engine.ok("exec", "one", "sh", "-c", "echo kept > /dev/shm/x")
    engine.kill()
    engine.start()
    assert engine.ok("run", "--rm", "--ipc", "container:one", "--network", "none", "busybox", "cat", "/dev/shm/x") == "kept"
    os.kill(engine.monitor("one"), signal.SIGKILL)
    until(lambda: not list(engine.exec_root.glob("mnt/*")), "nothing of either is left")


def test_unknown_runtime_is_refused(engine: Engine) -> None:
    result = engine.docker("run", "--rm", "--runtime", "no-such", "busybox", "true")
    assert result.code == 125 and "unknown or invalid runtime name: no-such" in result.err


def test_entrypoint_and_cmd_are_combined_as_in_docker(engine: Engine, name: str) -> None:
    def args(**fields: object) -> tuple[int, object]:
        status, made = engine.api("POST", "/containers/create", {"Image": f"with-entry-{name}", **fields})
        if status != 201:
            return status, made["message"]
        found = engine.inspect(made["Id"])
        return status, [found["Path"], *found["Args"]]

    engine.ok("create", "--name", name, "busybox")
    changes = ('ENTRYPOINT ["echo"]', 'CMD ["a", "b"]')
    engine.ok("commit", *(word for change in changes for word in ("-c", change)), name, f"with-entry-{name}")
    assert args() == (201, ["echo", "a", "b"])
    assert args(Cmd=["c"]) == (201, ["echo", "c"])
    assert args(Cmd="c") == (201, ["echo", "c"])
    assert args(Entrypoint=["cat"]) == (201, ["cat"])  # the image's command belongs to its entrypoint
    assert args(Entrypoint="cat", Cmd=["x"]) == (201, ["cat", "x"])
    assert args(Entrypoint=[""], Cmd=["x"]) == (201, ["x"])
    assert args(Entrypoint=[""]) == (400, "no command specified")
