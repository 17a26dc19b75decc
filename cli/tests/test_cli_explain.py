"""`orlop explain`: explanations of codes and errors, the users of ports (from a /proc made by the test), and the command
with recorded answers."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from orlop_cli.explain import codes, objects, ports
from orlop_cli.explain.container import Evidence, PortUse, explain, wanted_ports
from orlop_cli.explain.report import Explanation, shell_word
from orlop_cli.testing import RecordedDaemon, answer, frame

pytestmark = pytest.mark.usefixtures("clean")
ID = "ab" * 32
ENDED = "2026-01-02T03:04:05.5Z"


def container(state: dict[str, Any] | None = None, host: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    usual = {"Status": "exited", "Running": False, "ExitCode": 1, "Error": "", "OOMKilled": False, "FinishedAt": ENDED}
    return {
        "Id": ID,
        "Name": "/web",
        "State": {**usual, **(state or {})},
        "HostConfig": {"Memory": 0, "RestartPolicy": {"Name": "no"}, **(host or {})},
        "Config": {"Tty": False, "Image": "nginx"},
        "RestartCount": 0,
        **fields,
    }


def event(action: str, **attributes: str) -> dict[str, Any]:
    return {"Action": action, "timeNano": 1_700_000_000 * 10**9, "Actor": {"Attributes": attributes}}


def section(report: Explanation, title: str) -> list[str]:
    return dict(report.sections).get(title, [])


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "the program ended without an error"),
        (127, "the command was not found"),
        (137, "ended by signal 9 (SIGKILL: no program can handle this signal)"),
        (139, "ended by signal 11 (SIGSEGV: segmentation fault: the program used memory that does not belong to it)"),
        (129, "ended by signal 1 (SIGHUP)"),
        (3, "the program reported an error; the meaning of this code is defined by the program"),
        (200, "the program reported an error; the meaning of this code is defined by the program"),
    ],
)
def test_exit_code_is_explained_in_words(code: int, words: str) -> None:
    assert codes.exit_words(code) == words


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("failed to bind host port 0.0.0.0:80/tcp: address already in use", "port"),
        ("Bind for 0.0.0.0:8080 failed: port is already allocated", "port"),
        ('exec: "/nope": stat /nope: no such file or directory', "command"),
        ('exec: "nope": executable file not found in $PATH', "command"),
        ('exec: "/etc/passwd": permission denied', "mode"),
        ("exec /bin/x: exec format error", "format"),
        ("unable to find user joe: no matching entries in passwd file", "user"),
        ("write /x: no space left on device", "disk"),
        ("something new", ""),
    ],
)
def test_cause_is_recognized_in_the_error_of_a_failed_start(error: str, cause: str) -> None:
    assert codes.start_hint(error)[0] == cause


def test_port_is_recognized_in_error_messages_of_orlopd_and_dockerd() -> None:
    assert codes.held_port("failed to bind host port 0.0.0.0:8099/udp: address already in use") == (8099, "udp")
    assert codes.held_port("Bind for 0.0.0.0:8080 failed: port is already allocated") == (8080, "tcp")
    assert codes.held_port("no port here") is None


def test_explanation_of_an_oom_kill_shows_the_memory_limit_and_suggests_twice_as_much() -> None:
    report = explain(container({"ExitCode": 137, "OOMKilled": True}, {"Memory": 8 << 20}), Evidence())
    assert "memory limit, 8MiB (OOM)" in section(report, "Cause")[0]
    assert report.next[0][0] == "orlop update -m 16777216 --memory-swap 33554432 web"
    alone = explain(container({"ExitCode": 137, "OOMKilled": True}), Evidence())
    assert "The container has no memory limit." in section(alone, "Cause")[0]
    assert not [command for command, _ in alone.next if "update" in command]


@pytest.mark.parametrize(
    ("code", "sent", "words"),
    [
        (137, ["15", "9"], "did not end after signal 15"),
        (137, ["9"], "A request to the daemon sent signal 9 (SIGKILL)."),
        (0, ["15"], "A request to the daemon sent signal 15; then the program ended."),
        (139, [], "No request to the daemon sent signal 11 (SIGSEGV)"),
    ],
)
def test_explanation_says_whether_a_request_sent_the_fatal_signal(code: int, sent: list[str], words: str) -> None:
    events = [event("kill", signal="2"), event("die", exitCode="1")]  # of an earlier run
    events += [*(event("kill", signal=number) for number in sent), event("die", exitCode=str(code))]
    assert words in section(explain(container({"ExitCode": code}), Evidence(events)), "Cause")[0]


def test_explanation_shows_the_restart_policy_and_earlier_exits() -> None:
    found = container(host={"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}}, RestartCount=2)
    lines = section(explain(found, Evidence([event("die", exitCode="3", execDuration="7")])), "Restarts")
    assert lines[0].endswith("at most 2 times")
    assert "the policy allows no more restarts" in lines
    assert lines[-1].endswith("exit code 3 after 7 s")


def test_explanation_shows_the_last_health_probes() -> None:
    log = [{"Start": ENDED, "ExitCode": 1, "Output": f"try {number}\nmore\n"} for number in range(7)]
    health = {"Status": "unhealthy", "FailingStreak": 7, "Log": log}
    report = explain(container({"Status": "running", "Running": True, "StartedAt": ENDED, "Health": health}), Evidence())
    lines = section(report, "Health")
    assert lines[0] == "unhealthy; 7 failures in a row"
    assert lines[1:3] == ["03:04:05 exit code 1: try 2", "  more"]
    assert report.summary.endswith(", unhealthy")
    assert "orlop start web" not in [command for command, _ in report.next]


def test_wanted_ports_begin_with_the_port_in_the_error_message() -> None:
    """The error of the last start names port 9, so this port is the first of the ports that the container asks for."""
    bindings = {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}, {"HostPort": ""}],
        "53/udp": [{"HostPort": "53"}],
        "1/tcp": None,
    }
    found = container({"Error": "bind host port 0.0.0.0:9/tcp: address already in use"}, {"PortBindings": bindings})
    assert wanted_ports(found) == [(9, "tcp", ""), (8080, "tcp", "80/tcp"), (53, "udp", "53/udp")]


def test_explanation_shows_which_process_or_container_uses_a_port_and_suggests_a_command() -> None:
    error = "failed to bind host port 0.0.0.0:8080/tcp: address already in use"
    found = container({"Status": "created", "Error": error, "ExitCode": 128})
    report = explain(found, Evidence(ports=[PortUse(8080, "tcp", "80/tcp", ["nginx, pid 812"], [812])]))
    assert section(report, "Ports") == ["port 8080 is held by nginx, pid 812 (for 80/tcp of the container)"]
    assert report.next[0][0] == "ps -fp 812"
    other = explain(found, Evidence(ports=[PortUse(8080, "tcp", "80/tcp", ["container db"])]))
    assert other.next[0][0] == "orlop stop db"


def test_control_characters_in_the_explanation_are_escaped() -> None:
    report = explain(container(), Evidence(logs=["\x1b[2Jbad\tx"]))
    assert "\\x1b[2Jbad\tx" in report.text()
    assert "\x1b" not in report.text()


@pytest.mark.parametrize(("word", "quoted"), [("web", "web"), ("a b", "'a b'"), ("it's", "'it'\"'\"'s'"), ("", "''")])
def test_names_in_suggested_commands_are_quoted_for_the_shell(word: str, quoted: str) -> None:
    assert shell_word(word) == quoted


# --- ports


def test_listening_process_is_found_by_its_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = ports.holders(server.getsockname()[1], "tcp")
    assert [(holder.address, holder.pid) for holder in found] == [("127.0.0.1", os.getpid())]
    assert ports.words(found[0], {}) == f"{Path('/proc/self/comm').read_text().strip()}, pid {os.getpid()}"


def test_connected_socket_or_socket_of_another_protocol_does_not_occupy_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert ports.holders(client.getsockname()[1], "tcp") == []
        assert ports.holders(server.getsockname()[1], "udp") == []


def test_socket_of_an_unreadable_process_is_shown_with_its_user_id(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "77" / "fd").mkdir(parents=True)
    line = "0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 4242 1"
    (tmp_path / "net" / "tcp").write_text(f"head\n{line}\n")
    assert [ports.words(one, {}) for one in ports.holders(8080, "tcp", str(tmp_path))] == [
        "a process of user 1000; only root can read its name"
    ]
    (tmp_path / "77" / "fd" / "3").symlink_to("socket:[4242]")
    (tmp_path / "77" / "comm").write_text("nginx\n")
    (tmp_path / "77" / "cgroup").write_text(f"0::/docker.slice/docker-{ID}.scope\n")
    found = ports.holders(8080, "tcp", str(tmp_path))
    assert [ports.words(one, {ID: "proxy"}) for one in found] == ["nginx, pid 77, in container proxy"]


# --- images, networks, volumes


def listed(name: str, **fields: Any) -> dict[str, Any]:
    return {"Id": ID, "Names": [f"/{name}"], "State": "running", "Status": "Up 1 hour", **fields}


def test_explanation_of_a_volume_shows_its_containers_and_size() -> None:
    mounts = [{"Type": "volume", "Name": "data", "Destination": "/v", "RW": False}]
    users = [listed("db", Mounts=mounts), listed("web", Mounts=[{"Type": "bind", "Source": "/x", "Destination": "/x"}])]
    found = {"Name": "data", "Mountpoint": "/m", "Driver": "local", "Labels": None}
    report = objects.explain_volume(found, users, [{"Name": "data", "UsageData": {"Size": 1000}}])
    assert report.facts == {"UsedBy": ["db"], "Size": 1000}
    assert section(report, "Used by") == ["db (Up 1 hour) at /v, read-only"]
    unused = objects.explain_volume(found, [], [])
    assert (unused.summary, unused.next[0][0]) == ("used by no container", "orlop volume rm data")


def test_explanation_of_a_network_shows_which_container_prevents_its_removal() -> None:
    network = {
        "Id": ID,
        "Name": "back",
        "Driver": "bridge",
        "Internal": True,
        "IPAM": {"Config": [{"Subnet": "10.1.0.0/16"}]},
    }
    users = [
        listed("old", State="exited", NetworkSettings={"Networks": {"back": {"IPAddress": ""}}}),
        listed("db", NetworkSettings={"Networks": {"back": {"IPAddress": "10.1.0.2"}}}),
        listed("web", NetworkSettings={"Networks": {"bridge": {}}}),
    ]
    report = objects.explain_network(network, users)
    assert report.summary == "used by 2 containers, 1 running; it cannot be removed while these containers are connected"
    assert report.next == [("orlop network disconnect back db", "disconnect a container")]
    assert objects.explain_network(network, users[:1]).next[0][0] == "orlop network rm back"


def test_explanation_of_an_image_shows_how_much_space_its_removal_frees() -> None:
    image = {"Id": "sha256:" + ID, "RepoTags": ["app:1", "app:2"], "Size": 5_000_000}
    report = objects.explain_image(image, [], [{"Id": "sha256:" + ID, "SharedSize": 3_000_000}])
    assert "removing this image frees 2MB" in section(report, "Disk")[1]
    used = objects.explain_image(image, [listed("web", ImageID="sha256:" + ID), listed("x", ImageID="sha256:1")], [])
    assert used.facts["UsedBy"] == ["web"]


# --- the command


def test_explain_command_prints_the_state_and_the_last_log_lines_of_a_container(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("GET", f"/containers/{ID}/logs", answer())
    daemon.on("GET", "/containers/web/json", answer(container({"ExitCode": 2})))
    daemon.on("GET", "/containers/json", answer([listed("web")]))
    framed = frame(1, b"one\n") + frame(2, b"two\n")
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(framed)}\r\n\r\n".encode()
    daemon.on("GET", f"/containers/{ID}/logs", head + framed)
    done = orlop("explain", "web")
    assert done.code == 0
    assert done.out.startswith("Container web: exited ")
    assert "\n\nLast log lines:\n  one\n  two\n\nNext:\n" in done.out


def test_explain_command_prints_json_and_reports_missing_objects(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("GET", "/volumes/data", answer({"Name": "data", "Mountpoint": "/m", "Driver": "local", "Labels": {}}))
    daemon.on("GET", "/containers/json", answer([]))
    done = orlop("explain", "--format", "json", "--type", "volume", "data", "nope")
    (found,) = json.loads(done.out)
    assert (found["Kind"], found["Name"], found["Facts"]["UsedBy"]) == ("volume", "data", [])
    assert found["Next"][0]["Command"] == "orlop volume rm data"
    assert (done.code, done.err) == (1, "orlop: no such volume: nope\n")


@pytest.mark.parametrize("flags", [["--format", "yaml"], ["--type", "ship"]])
def test_explain_command_refuses_unknown_flag_values(orlop: Any, flags: list[str]) -> None:
    done = orlop("explain", *flags, "web")
    assert done.code == 1
    assert "is not a valid value" in done.err


@pytest.mark.parametrize(("host", "seen"), [(os.uname().nodename, True), ("elsewhere", False)])
def test_processes_are_searched_only_if_the_daemon_runs_on_this_machine(
    daemon: RecordedDaemon, orlop: Any, host: str, seen: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        bindings = {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": str(port)}]}}
        daemon.on("GET", "/containers/web/json", answer(container({"Status": "created"}, bindings)))
        daemon.on("GET", "/containers/json", answer([]))
        daemon.on("GET", "/info", answer({"Name": host}))
        (found,) = json.loads(orlop("explain", "--format", "json", "--type", "container", "web").out)
    assert found["Facts"]["Ports"] == [{"Port": port, "Protocol": "tcp", "Pids": [os.getpid()] if seen else []}]
