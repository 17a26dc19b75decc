"""The modules of `orlop_kernel.boot`: log, pid file, sockets, systemd."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from orlop_kernel.boot import exposure, listen, logs, pidfile, process, systemd, tls
from orlop_kernel.config import Config, ConfigError, Listener


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("orlop.x", logging.WARNING, "f", 1, message, args, None)


def test_each_log_message_is_written_as_one_line() -> None:
    line = logs._Text().format(record("name %s", "a\nERROR forged"))
    assert "\n" not in line
    assert line.endswith("warn  name a\\nERROR forged")


def test_journal_lines_have_a_priority_and_no_time() -> None:
    text = logs._Journal(logs._Text()).format(record("hello %d", 5))
    assert text == "<4>warn  hello 5"
    failed = record("it failed")
    failed.levelno = logging.ERROR
    try:
        raise ValueError("why")
    except ValueError:
        failed.exc_info = sys.exc_info()
    lines = logs._Journal(logs._Text()).format(failed).splitlines()
    assert lines[0] == "<3>error it failed"
    assert lines[-1] == "<3>ValueError: why"
    assert all(line.startswith("<3>") for line in lines)
    assert logs._Journal(logs._Json()).format(record("x")).startswith('<4>{"level":"warn"')


def test_journal_is_recognized_by_device_and_inode_of_its_socket(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        info = os.fstat(file.fileno())
        assert logs._is_journal(file.fileno(), f"{info.st_dev}:{info.st_ino}")
        assert not logs._is_journal(file.fileno(), f"{info.st_dev}:{info.st_ino + 1}")
        assert not logs._is_journal(file.fileno(), "")
    assert not logs._is_journal(-1, "1:1")


def test_json_log_lines_have_dockerds_keys() -> None:
    fields = json.loads(logs._Json().format(record("hello %d", 5)))
    assert (fields["level"], fields["msg"], fields["logger"]) == ("warn", "hello 5", "orlop.x")
    assert fields["time"].endswith("Z")


def test_pid_file_contains_the_pid_and_is_removed_at_exit(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "orlop.pid"
    with pidfile.held(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_stale_pid_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "orlop.pid"
    for content in ("1\n", "garbage", "999999999", ""):  # pid 1 exists, but is not orlopd
        path.write_text(content)
        with pidfile.held(str(path)):
            assert path.read_text() == f"{os.getpid()}\n"


def test_start_is_refused_if_the_pid_file_belongs_to_a_running_daemon(tmp_path: Path) -> None:
    program = "print(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", program, "orlopd"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()  # the child prints after its exec, when it has its new command line
        path = tmp_path / "orlop.pid"
        path.write_text(str(child.pid))
        with pytest.raises(ConfigError, match=f"process with PID {child.pid} is still running"), pidfile.held(str(path)):
            pass
        assert path.read_text() == str(child.pid)
    finally:
        child.communicate(b"\n")


def test_data_root_and_exec_root_are_created_and_the_exec_root_is_locked(tmp_path: Path) -> None:
    with process.roots(Config(data_root=str(tmp_path / "new"), exec_root=str(tmp_path / "run"))):
        assert (tmp_path / "new").is_dir() and (tmp_path / "run" / "orlop.lock").exists()


def test_message_is_sent_to_the_notify_socket_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        systemd.notify_ready("serving")
        assert manager.recv(999) == b"READY=1\nSTATUS=serving"
        systemd.notify_reloading()
        assert manager.recv(999).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        systemd.notify_stopping(30)
        assert manager.recv(999) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=45000000"
        systemd.notify_stopping(math.inf)
        assert int(manager.recv(999).rpartition(b"=")[2]) > 10**12
    systemd.notify_stopping(30)  # no service manager listens, which is no error


def test_systemd_watchdog_is_notified_twice_per_period(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)

    async def main() -> None:
        for environ in ({}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "6"}):
            await systemd.feed_watchdog(environ, 5)  # the watchdog is for another pid, so the call returns at once
            assert environ == {}
        with trio.move_on_after(100):
            await systemd.feed_watchdog({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "5"}, 5)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
        manager.bind(path)
        trio.run(main, clock=MockClock(autojump_threshold=0))
        assert [manager.recv(99) for _ in range(4)] == [b"WATCHDOG=1"] * 4
        with pytest.raises(BlockingIOError):
            manager.recv(99)


def test_sockets_that_systemd_passed_to_another_process_are_ignored() -> None:
    assert systemd.inherited_sockets({}, 5) == {}
    environ = {"LISTEN_PID": "6", "LISTEN_FDS": "1", "OTHER": "x"}
    assert systemd.inherited_sockets(environ, 5) == {}
    assert environ == {"OTHER": "x"}


def opened(config: Config, inherited: dict[int, str] | None = None) -> list[object]:
    async def main() -> list[object]:
        async with listen.opened(config, inherited or {}) as listeners:
            seen: list[object] = []
            for listener in listeners:
                sock = getattr(getattr(listener, "_listener", listener), "socket", None)
                seen.append(sock.getsockname() if sock else None)
            paths = [host.removeprefix("unix://") for host in config.effective_hosts if host.startswith("unix://")]
            seen += [stat.S_IMODE(os.stat(path).st_mode) for path in paths]
            return seen

    return trio.run(main)


def test_unix_socket_has_the_configured_group_and_mode_660(tmp_path: Path) -> None:
    assert 0o660 in opened(Config(hosts=(f"unix://{tmp_path}/s",), group=str(os.getgid())))


def test_unix_socket_belongs_to_root_when_the_default_group_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_group(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr("grp.getgrnam", no_group)
    assert 0o600 in opened(Config(hosts=(f"unix://{tmp_path}/s",)))
    assert "group of the socket to docker: there is no such group" in caplog.text
    with pytest.raises(ConfigError, match="group crew not found"):
        opened(Config(hosts=(f"unix://{tmp_path}/s",), group="crew"))


@pytest.mark.parametrize("host", ["tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://example.org:0", "tcp://127.0.0.1.example.org:0"])
def test_tcp_address_outside_loopback_is_refused_without_tls(host: str) -> None:
    with pytest.raises(ConfigError, match="anyone who can reach this address can become root"):
        opened(Config(hosts=(host,)))


def test_tcp_on_loopback_is_served(caplog: pytest.LogCaptureFixture) -> None:
    (name,) = opened(Config(hosts=("tcp://127.0.0.1:0",)))
    assert isinstance(name, tuple)
    assert name[0] == "127.0.0.1"
    assert "has no TLS" in caplog.text


def test_missing_parts_of_a_tcp_address_have_defaults() -> None:
    assert exposure.split_tcp("", False) == ("localhost", 2375)
    assert exposure.split_tcp("0.0.0.0", True) == ("0.0.0.0", 2376)
    assert exposure.split_tcp("[::1]:99", False) == ("::1", 99)
    assert exposure.split_tcp("[::1]", False) == ("::1", 2375)
    assert exposure.split_tcp(":5", False) == ("localhost", 5)


def test_empty_value_of_the_option_host_means_the_default_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlop_kernel.config.model.DEFAULT_HOST", f"unix://{tmp_path}/s")
    for hosts in (("",), (" ", f"unix://{tmp_path}/s")):
        assert opened(Config(hosts=hosts, group=str(os.getgid())))[1:] == [0o660]


def test_reload_checks_the_addresses_on_which_the_daemon_will_listen_after_a_restart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = Config(hosts=("unix:///x",), group="0")
    listen.check(running, running)
    for wanted, text in (
        (Config(hosts=("tcp://0.0.0.0:1",)), "anyone who can reach this address can become root"),
        (Config(tlsverify=True, tlscacert="/no/ca", tlscert="/no/cert", tlskey="/no/key"), "cannot read tlscert /no/cert"),
        (Config(hosts=("unix:///x",), group="no-crew"), "group no-crew not found"),
        (Config(listeners=(Listener(host="unix:///y", role="full", owner="nobody-here"),)), "user nobody-here not found"),
    ):
        with pytest.raises(ConfigError, match=text):
            listen.check(running, wanted)
    assert not caplog.text


def test_error_names_each_missing_tls_file(tmp_path: Path) -> None:
    config = Config(hosts=("tcp://0.0.0.0:0",), tlsverify=True, tlscacert="/no/ca", tlscert="/no/cert", tlskey="/no/key")
    with pytest.raises(ConfigError, match="invalid TLS configuration: cannot read tlscert /no/cert: No such file"):
        opened(config)


def test_systemd_sockets_are_found_by_fd_or_name(tmp_path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    sock.listen()
    fd = sock.detach()
    with pytest.raises(ConfigError, match=r"systemd passed .* \(api\)"):
        opened(Config(hosts=("fd://other",)), {fd: "api"})
    assert opened(Config(hosts=("fd://api",)), {fd: "api"}) == [str(tmp_path / "s")]
    with pytest.raises(ConfigError, match="systemd passed no sockets"):
        opened(Config(hosts=("fd://",)))


def test_second_daemon_cannot_listen_on_the_same_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen()
        with pytest.raises(ConfigError, match="another daemon is listening"):
            opened(Config(hosts=(f"unix://{tmp_path}/s",), group="0"))


def test_all_sockets_are_closed_when_one_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        opened(Config(hosts=(f"unix://{tmp_path}/s", "tcp://0.0.0.0:0"), group="0"))
    assert not (tmp_path / "s").exists()


def orlopd(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "orlop_kernel", *argv], capture_output=True, text=True, timeout=30)


def test_options_help_and_version_and_validate_print_text_and_end_the_program(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text('{"debug": true}')
    bad.write_text('{"debug": "yes"}')
    valid = orlopd("--validate", "--config-file", str(good))
    assert (valid.returncode, valid.stdout, valid.stderr) == (0, "", "configuration OK\n")
    invalid = orlopd("--validate", "--config-file", str(bad))
    assert invalid.returncode == 1
    assert "debug: yes: expected true or false, got a string (line 1)" in invalid.stderr
    assert orlopd("--version").stdout.startswith("Orlop version ")
    bad.write_text('{"init-path": "/no/init"}')
    assert "cannot use init-path: /no/init is not an executable" in orlopd("--validate", "--config-file", str(bad)).stderr
    assert "Usage:  orlopd" in orlopd("--help").stdout
    assert orlopd("--no-such").returncode == 1


BAD = """{
  "log-driver": "nosuch",
  "storage-driver": "overlay2",
  "storage-opts": ["overlay2.size=1G", "size=1G"],
  "group": "no-such-group",
  "seccomp-profile": "/no/such/profile.json",
  "bip": "10.1.0.1/24", "fixed-cidr": "10.2.0.0/24",
  "authorization-plugins": ["no-such-plugin"],
  "data-root": "/dev/null/data",
  "runtimes": {"odd": {"path": "/x", "runtimeType": "no-such-type"}},
  "guards": ["no-such-guard", "listeners"]
}
"""


def test_option_validate_reports_all_errors_that_would_prevent_a_start(tmp_path: Path) -> None:
    """`--validate` reports all errors, each with the line of its key."""
    path = tmp_path / "daemon.json"
    path.write_text(BAD)
    done = orlopd("--validate", "--config-file", str(path))
    assert done.returncode == 1
    for text, line in (
        ('cannot find log driver "nosuch"', 2),
        ("this driver has no quotas", 4),
        ('invalid storage option "size=1G"', 4),
        ("group no-such-group not found", 5),
        ("cannot use seccomp-profile /no/such/profile.json", 6),
        ("parent subnet 10.1.0.0/24 doesn't contain it", 7),
        ("no-such-plugin", 8),
        ("cannot make directory /dev/null/data", 9),
        ("cannot use runtime odd", 10),
        ('cannot find guard plugin "no-such-guard"', 11),
    ):
        assert any(text in said and f"{path}:{line}" in said for said in done.stderr.splitlines()), (text, done.stderr)
    path.write_text('{"log-opts": {"max-size": "lots"}, "storage-opts": ["overlay2.override_kernel_check=true"]}')
    said = orlopd("--validate", "--config-file", str(path)).stderr
    assert "lots" in said and "override_kernel_check" not in said


@pytest.mark.parametrize(
    ("flags", "text", "place"),
    [
        (
            ["--bridge", "nosuch0"],
            "bridge device with non default name nosuch0 must be created manually",
            "bridge: --bridge",
        ),
        (
            ["--bip", "10.1.0.1/24", "--fixed-cidr", "10.2.0.0/24"],
            "parent subnet 10.1.0.0/24 doesn't contain it",
            "bip: --bip, fixed-cidr: --fixed-cidr",
        ),
        (
            ["--bip", "10.1.0.1/24", "--default-gateway", "10.2.0.1"],
            "it is not in 10.1.0.0/24, the bridge's subnet",
            "bip: --bip, default-gateway: --default-gateway",
        ),
        (["--fixed-cidr", "10.2.0.0/24"], "configuration OK", ""),
    ],
)
def test_option_validate_checks_the_default_bridge(flags: list[str], text: str, place: str) -> None:
    done = orlopd("--config-file", "/dev/null", "--validate", *flags)
    assert done.stderr.endswith(f"{text} [{place}]\n" if place else f"{text}\n")
    assert (done.returncode == 0) == ("OK" in text)


def test_show_config_imports_neither_trio_nor_the_engine() -> None:
    program = (
        "import sys; sys.argv = ['orlopd', '--show-config', '--config-file', '/dev/null']\n"
        "from orlop_kernel.__main__ import main\nassert main() == 0\n"
        "print([m for m in sys.modules if m in ('trio', 'sqlite3', 'pyroute2', 'httpx', 'orlop_engine.engine')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")


def test_every_member_of_a_listener_entry_is_a_right_or_is_listed_as_giving_none() -> None:
    """Entries with different rights must not trust the same CA. So each member must be in `_rights`, or be listed here as a
    member that gives no right."""
    none = {"host", "tlscacert", "owner", "group", "mode"}
    values: dict[str, Any] = {"role": "no-exec", "labels": ("a=b",), "image_names": ("x/*",)}
    plain = Listener(host="tcp://h:1", role="full")
    rights = {
        field
        for field in Listener.__struct_fields__
        if tls._rights(msgspec.structs.replace(plain, **{field: values.get(field, True)})) != tls._rights(plain)
    }
    assert rights == set(Listener.__struct_fields__) - none
