"""`docker run`: output, exit codes, and the effect of options in the container."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from tests.integration.engine import RUNTIME, Engine, Result, until

pytestmark = pytest.mark.root


def test_run_prints_the_output_of_the_command(engine: Engine) -> None:
    result = engine.docker("run", "busybox", "echo", "hello")
    assert (result.code, result.out, result.err) == (0, "hello\n", "")


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_run_returns_the_containers_exit_code(engine: Engine, code: int) -> None:
    assert engine.docker("run", "--rm", "busybox", "sh", "-c", f"exit {code}").code == code


def test_run_exits_with_143_if_sigterm_killed_the_child_of_the_command(engine: Engine) -> None:
    # The first process of a PID namespace ignores signals without a handler, so signal its child
    assert engine.docker("run", "--rm", "busybox", "sh", "-c", "sh -c 'kill -TERM $$'; exit $?").code == 143


def test_run_writes_stdout_and_stderr_of_the_command_to_separate_streams(engine: Engine) -> None:
    result = engine.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; echo out2")
    assert (result.out, result.err) == ("out\nout2\n", "err\n")


def test_run_of_a_missing_command_exits_with_127(engine: Engine, name: str) -> None:
    result = engine.docker("run", "--name", name, "busybox", "no-such-command")
    assert (result.code, result.out) == (127, "")
    assert result.err.startswith(
        "docker: Error response from daemon: failed to create task for container: failed to create shim task: "
        f"OCI runtime create failed: {RUNTIME or 'runc'} create failed: unable to start container process: "
    )
    assert 'exec: "no-such-command": executable file not found in $PATH' in result.err
    state = engine.inspect(name)["State"]
    assert (state["Status"], state["ExitCode"]) == ("created", 127)
    assert "executable file not found in $PATH" in state["Error"]


def test_run_of_a_command_that_cannot_be_executed_exits_with_126(engine: Engine) -> None:
    result = engine.docker("run", "--rm", "busybox", "/etc/passwd")
    assert result.code == 126
    assert 'exec: "/etc/passwd": permission denied' in result.err
    result = engine.docker("run", "--rm", "busybox", "/etc")
    assert result.code == 126
    assert "is a directory" in result.err or "permission denied" in result.err


def test_run_exits_with_125_if_the_daemon_reports_an_error(engine: Engine) -> None:
    result = engine.docker("run", "--rm", "--memory", "1m", "busybox", "true")
    assert result.code == 125
    assert result.err.startswith("docker: Error response from daemon: Minimum memory limit allowed is 6MB.")
    result = engine.docker("run", "--rm", "--no-such-flag", "busybox", "true")
    assert result.code == 125


def test_rm_leaves_nothing(engine: Engine, name: str) -> None:
    engine.ok("run", "--rm", "--name", name, "-v", "/anonymous", "busybox", "true")
    # The client gets its answer when the container exits, before the removal is done
    until(lambda: engine.docker("ps", "-aq", "--filter", f"name=^{name}$").out == "", "the container is gone")
    until(lambda: engine.docker("volume", "ls", "-q").out == "", "its anonymous volume is gone")


def test_run_with_detach_prints_the_container_id(engine: Engine, name: str) -> None:
    container = engine.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    assert len(container) == 64
    found = engine.inspect(name)
    assert found["Id"] == container
    assert found["State"]["Status"] == "running"
    assert Path(f"/proc/{found['State']['Pid']}/cmdline").read_bytes() == b"sleep\x00600\x00"


def test_run_with_interactive_passes_piped_input_to_the_command(engine: Engine) -> None:
    result = engine.docker("run", "--rm", "-i", "busybox", "cat", stdin="one\ntwo")
    assert (result.code, result.out) == (0, "one\ntwo")


def test_standard_input_of_the_command_is_empty_without_option_interactive(engine: Engine) -> None:
    assert engine.docker("run", "--rm", "busybox", "cat", stdin="one\n").out == ""


def test_twenty_megabytes_pass_through_cat_unchanged(engine: Engine) -> None:
    data = os.urandom(1 << 20) * 20
    result = engine.docker("run", "--rm", "-i", "--log-driver", "none", "busybox", "cat", stdin=data)
    assert result.code == 0
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()


def test_twenty_megabytes_pass_through_cat_into_the_log_unchanged(engine: Engine, name: str) -> None:
    data = (b"0123456789" * 9 + b"abcdef\n") * (20 * 10_000)
    result = engine.docker("run", "-i", "--name", name, "busybox", "cat", stdin=data)
    assert result.code == 0
    assert result.stdout == data
    assert engine.docker("logs", name).stdout == data


def test_run_sets_environment_variables_and_working_directory(engine: Engine) -> None:
    script = "echo $A-$B; pwd"
    result = engine.docker("run", "--rm", "-e", "A=1", "-e", "B=x y", "-w", "/some/where", "busybox", "sh", "-c", script)
    assert result.out == "1-x y\n/some/where\n"


def test_default_environment_of_a_container_is_the_same_as_in_docker(engine: Engine) -> None:
    found = engine.docker("run", "--rm", "--hostname", "ship", "busybox", "env").out.splitlines()
    assert found == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=ship",
        "HOME=/root",
    ]


@pytest.mark.parametrize(
    ("user", "expected"),
    [("nobody", "65534:65534"), ("65534", "65534:65534"), ("1000:1001", "1000:1001"), ("nobody:0", "65534:0")],
)
def test_command_runs_with_the_given_user_and_group(engine: Engine, user: str, expected: str) -> None:
    assert engine.ok("run", "--rm", "-u", user, "busybox", "sh", "-c", "echo $(id -u):$(id -g)") == expected


def test_run_with_an_unknown_user_fails(engine: Engine) -> None:
    result = engine.docker("run", "--rm", "-u", "captain", "busybox", "true")
    assert result.code == 125 or result.code == 126
    assert "unable to find user captain: no matching entries in passwd file" in result.err


def test_bind_mount_shows_files_of_the_host(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host\n")
    engine.ok("run", "--rm", "-v", f"{tmp_path}:/data", "busybox", "cp", "/data/in", "/data/out")
    assert (tmp_path / "out").read_text() == "from the host\n"
    result = engine.docker("run", "--rm", "-v", f"{tmp_path}:/data:ro", "busybox", "touch", "/data/no")
    assert result.code == 1
    assert "Read-only file system" in result.err
    missing = engine.docker("run", "--rm", "--mount", f"type=bind,src={tmp_path}/gone,dst=/x", "busybox", "true")
    assert missing.code == 125
    assert f"bind source path does not exist: {tmp_path}/gone" in missing.err


def test_named_volume_keeps_its_data_after_the_container_is_removed(engine: Engine, name: str) -> None:
    volume = f"v-{name}"
    engine.ok("run", "--rm", "-v", f"{volume}:/data", "busybox", "sh", "-c", "echo kept > /data/f")
    assert engine.ok("run", "--rm", "-v", f"{volume}:/d:ro", "busybox", "cat", "/d/f") == "kept"
    assert engine.ok("volume", "rm", volume) == volume


def test_empty_volume_is_filled_with_the_images_files(engine: Engine, name: str) -> None:
    volume = f"v-{name}"
    assert "passwd" in engine.ok("run", "--rm", "-v", f"{volume}:/etc", "busybox", "ls", "/etc").split()
    engine.ok("run", "--rm", "-v", f"{volume}:/etc", "busybox", "rm", "/etc/passwd")
    # Only an empty volume is filled
    assert "passwd" not in engine.ok("run", "--rm", "-v", f"{volume}:/etc", "busybox", "ls", "/etc").split()
    assert engine.ok("run", "--rm", "-v", f"n-{name}:/etc:nocopy", "busybox", "ls", "/etc").split() == [
        "hostname",
        "hosts",
        "resolv.conf",
    ]
    engine.ok("volume", "rm", volume, f"n-{name}")


def test_subpath_of_a_volume_never_leads_out_of_it(engine: Engine, name: str) -> None:
    script = "mkdir /v/sub; echo inside > /v/sub/f; ln -s / /v/out; ln -s sub /v/in; ln -s ../../../../../.. /v/up"
    engine.ok("run", "--rm", "-v", f"{name}:/v", "busybox", "sh", "-c", script)

    def run(subpath: str) -> Result:
        mount = f"type=volume,src={name},dst=/x,volume-subpath={subpath}"
        return engine.docker("run", "--rm", "--mount", mount, "busybox", "ls", "/x")

    assert run("sub").out == "f\n"
    assert run("in").out == "f\n"
    assert run("sub/../in/.").out == "f\n"
    base = f"{engine.data_root}/volumes/{name}/_data"
    for outside in ("out", "up", "in/../out/etc"):
        assert f"path concatenation escapes the base directory, base: {base}, subpath: {outside}" in run(outside).err
    for bad in ("..", "sub/../..", "/etc"):
        assert "subpath must be a relative path within the volume" in run(bad).err
    assert f"cannot access path {base}/no: lstat {base}/no: no such file or directory" in run("no").err
    until(lambda: engine.ok("ps", "-aq") == "", "the containers are gone")
    engine.ok("volume", "rm", name)


def test_tmpfs_is_mounted_with_the_given_options(engine: Engine) -> None:
    out = engine.ok(
        "run", "--rm", "--tmpfs", "/t:size=1m,mode=700", "busybox", "sh", "-c", "grep ' /t ' /proc/mounts; touch /t/x"
    )
    assert out.startswith("tmpfs /t tmpfs rw,nosuid,nodev,noexec")
    assert "size=1024k" in out


def test_write_to_a_read_only_root_file_system_fails(engine: Engine) -> None:
    result = engine.docker(
        "run", "--rm", "--read-only", "--tmpfs", "/tmp", "busybox", "sh", "-c", "touch /tmp/ok && touch /no"
    )
    assert result.code == 1
    assert result.err == "touch: /no: Read-only file system\n"


def test_memory_cpu_and_pids_limits_are_set_in_the_cgroup(engine: Engine, name: str) -> None:
    container = engine.ok(
        "run", "-d", "--name", name, "-m", "64m", "--cpus", "0.5", "--pids-limit", "50", "busybox", "sleep", "600"
    )
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    file = "memory.max" if unified else "memory.limit_in_bytes"
    assert engine.cgroup(container, "memory", file) == str(64 << 20)
    assert engine.cgroup(container, "pids", "pids.max") == "50"
    if unified:
        assert engine.cgroup(container, "cpu", "cpu.max") == "50000 100000"
    else:
        assert engine.cgroup(container, "cpu", "cpu.cfs_quota_us") == "50000"


def test_inspect_shows_that_a_process_was_killed_because_of_the_memory_limit(engine: Engine, name: str) -> None:
    result = engine.docker(
        "run",
        "--name",
        name,
        "-m",
        "16m",
        "busybox",
        "sh",
        "-c",
        "head -c 60000000 /dev/zero | tail -c 50000000 >/dev/null; exit 137",
    )
    assert result.code == 137
    assert engine.inspect(name)["State"]["OOMKilled"] is True


def test_ulimit_is_set(engine: Engine) -> None:
    assert (
        engine.ok("run", "--rm", "--ulimit", "nofile=123:456", "busybox", "sh", "-c", "ulimit -Sn; ulimit -Hn") == "123\n456"
    )


def test_run_adds_and_drops_capabilities(engine: Engine) -> None:
    def effective(*flags: str) -> int:
        return int(engine.ok("run", "--rm", *flags, "busybox", "awk", "/CapEff/ {print $2}", "/proc/1/status"), 16)

    assert effective() == 0xA80425FB
    assert effective("--cap-drop", "ALL") == 0
    assert effective("--cap-drop", "ALL", "--cap-add", "NET_ADMIN") == 1 << 12
    assert effective("--cap-drop", "CHOWN") == 0xA80425FA


def test_privileged_container_can_mount_file_systems(engine: Engine) -> None:
    script = "awk '/CapEff/ {print $2}' /proc/1/status; ls /dev/loop-control; mount -t tmpfs none /tmp && echo mounted"
    lines = engine.ok("run", "--rm", "--privileged", "busybox", "sh", "-c", script).splitlines()
    assert int(lines[0], 16) > 0xA80425FB
    assert lines[-1] == "mounted"
    assert engine.docker("run", "--rm", "busybox", "mount", "-t", "tmpfs", "none", "/tmp").code != 0


def test_hostname_is_set_and_written_to_etc_hosts(engine: Engine) -> None:
    out = engine.ok(
        "run", "--rm", "--hostname", "ship", "busybox", "sh", "-c", "hostname; cat /etc/hostname; cat /etc/hosts"
    )
    assert out.splitlines()[:2] == ["ship", "ship"]
    assert out.splitlines()[-1].split()[1:] == ["ship"]


def test_default_hostname_is_the_short_container_id(engine: Engine, name: str) -> None:
    assert engine.ok("run", "--name", name, "busybox", "hostname") == engine.inspect(name)["Id"][:12]


def test_docker_init_is_process_1_of_a_container_with_option_init(engine: Engine) -> None:
    assert shutil.which("docker-init") or shutil.which("tini"), "the tests need an init: tini"
    assert engine.ok("run", "--rm", "--init", "busybox", "cat", "/proc/1/comm") == "docker-init"


def test_container_name_in_use_is_refused(engine: Engine, name: str) -> None:
    first = engine.ok("create", "--name", name, "busybox")
    result = engine.docker("run", "--name", name, "busybox", "true")
    assert result.code == 125
    assert result.err.startswith(
        f'docker: Error response from daemon: Conflict. The container name "/{name}" is already in use by container '
        f'"{first}". You have to remove (or rename) that container to be able to reuse that name.'
    )


def test_run_of_an_unknown_image_fails(engine: Engine) -> None:
    result = engine.docker("run", "--pull", "never", "no-such-image", "true")
    assert result.code == 125
    assert "No such image: no-such-image:latest" in result.err


def test_run_writes_the_cidfile_and_overrides_the_entrypoint(engine: Engine, tmp_path: Path) -> None:
    cid = tmp_path / "cid"
    out = engine.ok("run", "--rm", "--cidfile", str(cid), "--entrypoint", "echo", "busybox", "a", "b")
    assert out == "a b"
    assert len(cid.read_text()) == 64


def test_container_runs_with_dockers_seccomp_profile(engine: Engine) -> None:
    assert engine.ok("run", "--rm", "busybox", "awk", "/^Seccomp:/ {print $2}", "/proc/1/status") == "2"
    unconfined = ["--security-opt", "seccomp=unconfined"]
    assert engine.ok("run", "--rm", *unconfined, "busybox", "awk", "/^Seccomp:/ {print $2}", "/proc/1/status") == "0"


def test_container_cannot_read_masked_paths(engine: Engine) -> None:
    assert engine.docker("run", "--rm", "busybox", "cat", "/proc/kcore").out == ""
    assert engine.docker("run", "--rm", "busybox", "sh", "-c", "echo 1 > /proc/sys/kernel/panic").code != 0


def test_run_sets_sysctls_and_the_size_of_dev_shm(engine: Engine) -> None:
    script = "cat /proc/sys/net/ipv4/ip_forward; df -k /dev/shm | awk 'END {print $2}'"
    out = engine.ok("run", "--rm", "--sysctl", "net.ipv4.ip_forward=1", "--shm-size", "8m", "busybox", "sh", "-c", script)
    assert out.splitlines() == ["1", "8192"]


def test_mounts_of_a_container_are_not_visible_on_the_host(engine: Engine, name: str) -> None:
    def ours() -> list[str]:
        return [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(engine.home) in line]

    before = ours()
    engine.ok("run", "-d", "--name", name, "--tmpfs", "/t", "-v", "/anonymous", "busybox", "sleep", "600")
    assert ours() == before


# --- required commands --------------------------------------------------------------------------------------------------


def test_curl_lists_containers(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    result = engine.run(["curl", "-sS", "--unix-socket", engine.socket, "http://localhost/v1.43/containers/json"], check=0)
    (found,) = json.loads(result.out)
    assert (found["Names"], found["Image"], found["Command"], found["State"]) == (
        [f"/{name}"],
        "busybox",
        "sleep 600",
        "running",
    )


def test_create_request_with_only_an_image_succeeds(engine: Engine) -> None:
    status, answer = engine.api("POST", "/containers/create", {"Image": "busybox"})
    assert status == 201
    assert sorted(answer) == ["Id", "Warnings"]
    assert engine.api("POST", f"/containers/{answer['Id']}/start")[0] == 204
    assert engine.api("POST", f"/containers/{answer['Id']}/wait") == (200, {"StatusCode": 0})
    found = engine.inspect(answer["Id"])
    assert (found["Path"], found["Args"], found["HostConfig"]["NetworkMode"]) == ("sh", [], "bridge")
    assert re.fullmatch(r"/[a-z]+_[a-z]+\d?", found["Name"])


def test_docker_run_without_options_succeeds_and_prints_nothing(engine: Engine) -> None:
    result = engine.docker("run", "busybox", "true")
    assert (result.code, result.out, result.err) == (0, "", "")
