"""Orlop as a systemd service: installed, activated, restarted, watched, upgraded, removed.

This module installs Orlop into the machine on which it runs. So it is not named test_*, and only `./dev vm` runs it, in its
virtual machine. The tests depend on each other and run in order.
"""

from __future__ import annotations

import grp
import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import alive, archive, parent_of, patience, until

CHECKOUT = Path(__file__).parents[2]
CONFIG = Path("/etc/orlop/daemon.json")
DROP_IN = Path("/etc/systemd/system/orlop.service.d/test.conf")
SOCKET = Path("/run/orlop.sock")
CURRENT = Path("/opt/orlop/current")
ENVIRONMENT = {**os.environ, "DOCKER_HOST": f"unix://{SOCKET}", "LANG": "C.UTF-8"}
LOOP = "i=0; while true; do i=$((i+1)); echo line $i; sleep 1; done"


def run(*argv: str, data: bytes | None = None, code: int | None = 0) -> str:
    done = subprocess.run(argv, input=data, capture_output=True, env=ENVIRONMENT, cwd=CHECKOUT, timeout=patience(180))
    text = (done.stdout + done.stderr).decode(errors="replace")  # a container may print any bytes
    assert code is None or done.returncode == code, f"{argv}: {done.returncode}\n{text}"
    return text.strip()


def unit(what: str, name: str = "orlop.service") -> str:
    return run("systemctl", "show", "-P", what, name)


def configure(**settings: Any) -> None:
    CONFIG.parent.mkdir(exist_ok=True)
    CONFIG.write_text(json.dumps(settings))


def inspect(name: str) -> dict[str, Any]:
    return dict(json.loads(run("docker", "inspect", name))[0])


def pid_of(name: str) -> int:
    return int(inspect(name)["State"]["Pid"])


def journal(*matches: str) -> list[dict[str, Any]]:
    text = run("journalctl", *matches, "-o", "json", "--no-pager")
    return [json.loads(line) for line in text.splitlines()]


def said(text: str) -> list[dict[str, Any]]:
    return [entry for entry in journal("-u", "orlop.service") if text in str(entry.get("MESSAGE"))]


def add_driver(environment: Path) -> Path:
    """Create the metadata that pip leaves for a third-party driver."""
    (packages,) = environment.glob("lib/python*/site-packages")
    made = packages / "theirs-1.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (made / "entry_points.txt").write_text("[orlop.log]\ntheirs = theirs\n")
    return made


@pytest.fixture(scope="module", autouse=True)
def _installed(request: pytest.FixtureRequest) -> Iterator[None]:
    configure(**{"live-restore": True})
    run("./dev", "install")
    yield
    lines = run("journalctl", "-u", "orlop.service", "--no-pager", "-n", "300").splitlines()
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *(line[:300] for line in lines), sep="\n")  # the log driver journald has written long lines


@pytest.fixture(autouse=True)
def _starts_are_not_counted() -> None:
    """Together, the tests restart the service more often than systemd allows."""
    run("systemctl", "reset-failed", "orlop.service")


def test_installed_daemon_serves() -> None:
    assert os.readlink("/usr/local/bin/orlopd") == f"{CURRENT}/bin/orlopd"
    assert "Server" in run("/usr/local/bin/orlop", "version")
    assert unit("ActiveState") == "active"
    assert unit("StatusText") == "serving"
    assert unit("UnitFileState") == unit("UnitFileState", "orlop.socket") == "enabled"
    info = SOCKET.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o660, 0, grp.getgrnam("docker").gr_gid)
    assert said("listening on fd://")
    assert run("docker", "load", data=archive()) == "Loaded image: busybox:latest"


def test_second_install_of_the_same_version_changes_nothing() -> None:
    before = unit("MainPID"), os.readlink(CURRENT)
    assert "Building" not in run("./dev", "install")
    assert (unit("MainPID"), os.readlink(CURRENT)) == before


def test_messages_of_the_daemon_have_priorities_in_the_journal() -> None:
    (ready, *_) = said("is ready after")
    assert ready["PRIORITY"] == "6"
    assert ready["MESSAGE"].startswith("info  orlopd ")


def test_log_driver_journald_writes_container_output_to_the_journal() -> None:
    script = "echo hello; echo bad >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'bin\\377ary\\n'"
    options = ("--log-driver=journald", "--log-opt=env=MODE", "-e", "MODE=prod")
    shown = run("docker", "run", "--name=journal", *options, "busybox", "sh", "-c", script)
    assert "hello" in shown
    assert "hello" in run("docker", "logs", "journal")
    until(lambda: len(journal("CONTAINER_NAME=journal")) == 6, "the journal has three lines, and three parts of a line")
    entries = journal("CONTAINER_NAME=journal", "--all")
    by_message = {entry["MESSAGE"]: entry for entry in entries if isinstance(entry["MESSAGE"], str)}
    assert (by_message["hello"]["PRIORITY"], by_message["bad"]["PRIORITY"]) == ("6", "3")
    assert by_message["hello"]["MODE"] == "prod"
    assert by_message["hello"]["SYSLOG_IDENTIFIER"] == inspect("journal")["Id"][:12]
    parts = [entry for entry in entries if "CONTAINER_PARTIAL_ID" in entry]
    assert sorted(entry["CONTAINER_PARTIAL_ORDINAL"] for entry in parts) == ["1", "2", "3"]
    assert [entry["MESSAGE"] for entry in entries if isinstance(entry["MESSAGE"], list)] == [[*b"bin\xffary"]]
    run("docker", "rm", "journal")


def test_docker_info_shows_systemd_and_cgroup_v2() -> None:
    said = run("docker", "info", "--format", "{{.CgroupDriver}} {{.CgroupVersion}} {{json .Warnings}} {{.SecurityOptions}}")
    assert said.startswith("systemd 2 ")
    assert "name=cgroupns" in said
    assert "No " not in said  # "No memory limit support" and the like


def test_container_runs_in_a_systemd_scope_in_orlops_slice() -> None:
    run("docker", "run", "-d", "--name", "live", "--memory", "64m", "--pids-limit", "50", "busybox", "sh", "-c", LOOP)
    key = inspect("live")["Id"]
    assert unit("ActiveState", f"orlop-{key}.scope") == "active"
    assert unit("ControlGroup", f"orlop-{key}.scope") == f"/orlop.slice/orlop-{key}.scope"
    assert unit("MemoryMax", f"orlop-{key}.scope") == str(64 << 20)
    cgroup = Path(f"/sys/fs/cgroup/orlop.slice/orlop-{key}.scope")
    assert (cgroup / "memory.max").read_text().strip() == str(64 << 20)
    assert (cgroup / "pids.max").read_text().strip() == "50"
    assert run("docker", "exec", "live", "cat", "/proc/self/cgroup") == "0::/"
    assert Path(f"/proc/{parent_of(pid_of('live'))}/cgroup").read_text().strip() == "0::/system.slice/orlop.service"


def test_inspect_and_events_show_an_out_of_memory_kill() -> None:
    run("docker", "run", "--name", "oom", "-m", "16m", "busybox", "sh", "-c", "x=a; while true; do x=$x$x; done", code=137)
    assert inspect("oom")["State"]["OOMKilled"] is True
    # The client sends whole seconds: events of this second are only included in the next.
    asked = ("docker", "events", "--since", "0", "--until", "0s", "--filter", "event=oom", "--format", "{{.Action}}")
    until(lambda: "oom" in run(*asked).splitlines(), "the event")
    run("docker", "rm", "oom")


def test_restart_of_the_service_does_not_affect_containers() -> None:
    pid, daemon, lines = pid_of("live"), unit("MainPID"), len(run("docker", "logs", "live").splitlines())
    run("systemctl", "restart", "orlop")
    assert unit("MainPID") != daemon
    assert alive(pid)
    assert pid_of("live") == pid
    until(lambda: len(run("docker", "logs", "live").splitlines()) > lines, "its log goes on")
    assert run("docker", "exec", "live", "echo", "hi") == "hi"


def test_memory_limit_is_enforced_after_a_restart_without_containers() -> None:
    """systemd owns the slice, so Orlop must not remove the slice's cgroup: otherwise the next scope in the slice would have
    no controllers."""
    run("docker", "rm", "-f", "live")
    run("systemctl", "restart", "orlop")  # while no container runs
    run("docker", "run", "-d", "--name", "live", "--memory", "64m", "busybox", "sh", "-c", LOOP)
    key = inspect("live")["Id"]
    assert Path(f"/sys/fs/cgroup/orlop.slice/orlop-{key}.scope/memory.max").read_text().strip() == str(64 << 20)


def test_reload_applies_a_valid_configuration_and_refuses_an_invalid_configuration() -> None:
    configure(**{"live-restore": True, "debug": True})
    run("systemctl", "reload", "orlop")
    until(lambda: run("docker", "info", "--format", "{{.Debug}}") == "true", "the reload is done")
    until(lambda: unit("SubState") == "running", "systemd knows")
    assert unit("StatusText") == "serving"
    CONFIG.write_text("{")
    run("systemctl", "reload", "orlop")
    until(lambda: "was refused" in unit("StatusText"), "systemd is told")
    assert unit("ActiveState") == "active"
    (refused, *_) = said("cannot reload the configuration")
    assert refused["PRIORITY"] == "3"
    configure(**{"live-restore": True})
    run("systemctl", "reload", "orlop")
    until(lambda: unit("StatusText") == "serving")


def test_client_that_connects_to_the_socket_starts_the_daemon() -> None:
    pid = pid_of("live")
    run("systemctl", "stop", "orlop.service")
    assert unit("ActiveState") == "inactive"
    assert unit("ActiveState", "orlop.socket") == "active"
    assert alive(pid)
    assert run("docker", "ps", "--format", "{{.Names}}") == "live"
    assert unit("ActiveState") == "active"
    assert pid_of("live") == pid


def test_systemd_restarts_a_killed_daemon() -> None:
    pid, daemon = pid_of("live"), int(unit("MainPID"))
    os.kill(daemon, signal.SIGKILL)
    until(lambda: unit("MainPID") not in ("0", str(daemon)) and unit("ActiveState") == "active", "it is started again")
    assert pid_of("live") == pid
    assert alive(pid)


def test_systemd_restarts_a_daemon_that_hangs() -> None:
    DROP_IN.parent.mkdir()
    DROP_IN.write_text("[Service]\nWatchdogSec=20\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "orlop")
    pid, daemon = pid_of("live"), int(unit("MainPID"))
    assert unit("WatchdogUSec") == "20s"
    os.kill(daemon, signal.SIGSTOP)
    until(lambda: unit("MainPID") not in ("0", str(daemon)) and unit("ActiveState") == "active", "it is started again")
    assert said("Watchdog timeout")
    assert said("Fatal Python error: Aborted")  # with a traceback
    assert not Path("/core").exists()
    assert pid_of("live") == pid
    assert run("docker", "exec", "live", "echo", "hi") == "hi"
    DROP_IN.unlink()
    run("systemctl", "daemon-reload")


def test_upgrade_keeps_a_running_container() -> None:
    run("systemctl", "restart", "orlop")
    pid, old = pid_of("live"), CURRENT.resolve()
    monitor = parent_of(pid)
    with (CHECKOUT / "sdk/orlop_sdk/linux.py").open("a") as file:
        file.write("# another version\n")
    theirs = add_driver(old)
    assert "lacks drivers that are installed now: (log theirs)" in run("./dev", "install", code=1)
    assert CURRENT.resolve() == old
    shutil.rmtree(theirs)
    assert "orlop.service was restarted" in run("./dev", "install")
    new = CURRENT.resolve()
    assert new != old
    assert old.exists()  # the running monitor was started from the old version
    assert f" {new}/" in Path(f"/proc/{unit('MainPID')}/maps").read_text()
    assert (pid_of("live"), parent_of(pid)) == (pid, monitor)
    assert run("docker", "exec", "live", "echo", "hi") == "hi"
    run("docker", "rm", "-f", "live")
    until(lambda: not alive(monitor), "the monitor ends")
    run("./dev", "install")
    until(lambda: not old.exists() or run("./dev", "install") is None, "nobody needs the old version")


def test_stop_of_the_service_without_live_restore_stops_containers() -> None:
    configure(**{"live-restore": False})
    run("systemctl", "reload", "orlop")
    until(lambda: run("docker", "info", "--format", "{{.LiveRestoreEnabled}}") == "false")
    run("docker", "run", "-d", "--name", "live", "--restart", "always", "busybox", "sleep", "1000")
    pid = pid_of("live")
    run("systemctl", "stop", "orlop.service")
    assert not alive(pid)
    assert not list(Path("/sys/fs/cgroup/orlop.slice").glob("orlop-*.scope"))
    run("systemctl", "start", "orlop.service")
    until(lambda: inspect("live")["State"]["Running"], "its policy brings it back")


def test_uninstall_removes_only_files_that_the_installation_created() -> None:
    assert "1 containers run" in run("./dev", "uninstall", code=1)
    assert unit("ActiveState") == "active"
    run("docker", "rm", "-f", "live")
    said = run("./dev", "uninstall")
    assert "/var/lib/orlop" in said
    assert "/etc/orlop" in said
    for path in ("/usr/local/bin/orlop", "/usr/local/bin/orlopd", "/opt/orlop", "/etc/systemd/system/orlop.service"):
        assert not os.path.lexists(path)
    assert not SOCKET.exists()
    assert unit("LoadState") == unit("LoadState", "orlop.socket") == "not-found"
    with pytest.raises(KeyError):
        grp.getgrnam("docker")
    assert Path("/var/lib/orlop/orlop.db").exists()
    assert "nothing is installed" in run("./dev", "uninstall", code=1)
