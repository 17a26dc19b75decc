"""Commands against recorded answers: requests, output, exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest

from orlop_cli import __main__ as entry
from orlop_cli import _table
from orlop_cli._table import Lazy
from orlop_cli.testing import UPGRADED, RecordedDaemon, Request, answer, chunked, frame

ID = "0123456789abcdef" * 4
MISSING = answer({"message": "No such container: nope"}, 404)

# The settings of the user who runs the tests must not change the results
pytestmark = pytest.mark.usefixtures("clean")


def container(**fields: Any) -> dict[str, Any]:
    return {
        "Id": ID,
        "Names": ["/web"],
        "Image": "nginx",
        "ImageID": "sha256:" + "f" * 64,
        "Command": "nginx",
        "Created": 1_700_000_000,
        "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}],
        "State": "running",
        "Status": "Up 2 hours",
        **fields,
    }


# --- ps


def test_ps_sends_one_request(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("GET", "/containers/json", answer([container()]))
    done = orlop("ps")
    assert daemon.seen() == ["GET /containers/json"]
    assert daemon.requests[0].target == "/v1.43/containers/json"
    head, row, end = done.out.split("\n")
    assert head == "CONTAINER ID   IMAGE     COMMAND   CREATED       STATUS       PORTS                  NAMES"
    assert re.fullmatch(r'0123456789ab   nginx     "nginx"   \d years ago   Up 2 hours   0.0.0.0:8080->80/tcp   web', row)
    assert (end, done.code) == ("", 0)


@pytest.mark.parametrize(
    ("flags", "query"),
    [
        (["-a"], "?all=1"),
        (["-n", "3"], "?all=1&limit=3"),
        (["-l"], "?all=1&limit=1"),
        (["-s"], "?size=1"),
        (["--format", "{{.Size}}"], "?size=1"),
        (
            ["-f", "name=a b", "-f", "name=c"],
            "?filters=%7B%22name%22%3A%20%7B%22a%20b%22%3A%20true%2C%20%22c%22%3A%20true%7D%7D",
        ),
    ],
)
def test_ps_flags_become_query_parameters(daemon: RecordedDaemon, orlop: Any, flags: list[str], query: str) -> None:
    daemon.on("GET", "/containers/json", answer([]))
    assert orlop("ps", *flags).code == 0
    assert daemon.requests[0].target == "/v1.43/containers/json" + query


def test_output_of_ps_depends_on_quiet_and_on_psformat_in_config_json(
    daemon: RecordedDaemon, orlop: Any, tmp_path: Path
) -> None:
    from orlop_cli import _config

    daemon.on("GET", "/containers/json", answer([container()]))
    (tmp_path / "config.json").write_text('{"psFormat": "{{.Names}}!"}')
    _config.forget()
    try:
        assert orlop("ps").out == "web!\n"
        assert orlop("ps", "-q").out == "0123456789ab\n"
        assert orlop("container", "list", "-q", "--no-trunc").out == ID + "\n"
    finally:
        _config.forget()


# --- versions


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("client version 1.43 is too new. Maximum supported API version is 1.41", "/v1.41/"),
        (
            "client version 1.43 is too old. Minimum supported API version is 1.44, "
            "please upgrade your client to a newer version",
            "/v1.44/",
        ),
    ],
)
def test_request_is_sent_again_with_an_api_version_that_the_daemon_supports(
    daemon: RecordedDaemon, orlop: Any, text: str, then: str
) -> None:
    daemon.on("GET", "/containers/json", answer([]))
    daemon.on("GET", "/containers/json", answer({"message": text}, 400), times=1)
    assert orlop("ps").code == 0
    assert [request.target.split("containers")[0] for request in daemon.requests] == ["/v1.43/", then]


def test_api_version_in_the_environment_variable_is_used(
    daemon: RecordedDaemon, orlop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_API_VERSION", "1.30")
    daemon.on("GET", "/containers/json", answer([]))
    orlop("ps")
    assert daemon.requests[0].target == "/v1.30/containers/json"


# --- errors


def test_missing_daemon_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        entry.main(["-H", f"unix://{tmp_path}/none", "ps"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        f"orlop: Cannot connect to the Orlop daemon at unix://{tmp_path}/none. Is the daemon running?\n"
        "(no such file or directory)\n"
    )


def test_permission_error_shows_the_owner_and_group_of_the_socket(
    monkeypatch: pytest.MonkeyPatch, daemon: RecordedDaemon
) -> None:
    import grp
    import pwd

    from orlop_cli._errors import CannotConnect
    from orlop_cli.daemon import hosts

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    Path(daemon.path).chmod(0o660)
    monkeypatch.setattr(hosts, "_unix", refuse)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("docker", "x", 999, [])))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(("root", "x", 0, 0, "", "/", "/")))
    with pytest.raises(CannotConnect) as caught:
        hosts.connect(hosts.parse(daemon.host, tls=False), None)
    assert caught.value.message == (
        f"permission denied while trying to connect to the Orlop daemon socket at {daemon.host}\n"
        'It belongs to root:docker. To use it, join the group "docker" and log in again:\n'
        "  sudo usermod -aG docker $USER\n"
        "Members of that group can become root on this machine."
    )


@pytest.mark.parametrize(
    "said",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhey",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[]",
    ],
)
def test_answer_that_is_not_from_a_docker_daemon_is_reported_without_a_traceback(
    daemon: RecordedDaemon, orlop: Any, said: bytes
) -> None:
    def speak(connection: Any, request: Request) -> None:
        connection.sendall(said)

    daemon.on("GET", "/containers/json", speak)
    done = orlop("ps")
    assert done.code == 1
    assert done.err.startswith("orlop: ")
    assert "Traceback" not in done.err


def test_command_continues_with_the_next_argument_after_a_failure(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("POST", "/containers/nope/stop", MISSING)
    daemon.on("POST", "/containers/a/stop", answer(status=204))
    daemon.on("POST", "/containers/b/stop", answer(status=304))
    done = orlop("stop", "-t", "3", "a", "nope", "b")
    assert (done.code, done.out) == (1, "a\nb\n")
    assert done.err == "orlop: Error response from daemon: No such container: nope\n"
    assert daemon.requests[0].target.endswith("?t=3")


def test_rm_force_of_a_missing_container_succeeds(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("DELETE", "/containers/nope", MISSING)
    assert orlop("rm", "nope").code == 1
    done = orlop("rm", "-fv", "nope")
    assert (done.code, done.out) == (0, "")
    deletions = [request.target for request in daemon.requests if request.method == "DELETE"]
    assert deletions[1].endswith("?force=1&v=1")


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["stop"], 1, "'orlop stop' requires at least 1 argument"),
        (["rename", "a"], 1, "'orlop rename' requires 2 arguments"),
        (["ps", "x"], 1, "'orlop ps' accepts no arguments"),
        (["port", "a", "b", "c"], 1, "'orlop port' requires at least 1 and at most 2 arguments"),
        (["imges"], 1, "'imges' is not a command of orlop.\nDid you mean 'orlop images'?"),
        (["container", "foo"], 1, "'foo' is not a command of orlop container."),
        (["ps", "--bogus"], 125, "unknown flag: --bogus"),
        (["ps", "-n"], 125, "flag needs an argument: -n"),
        (["ps", "-n", "x"], 125, 'invalid argument "x" for "-n, --last" flag'),
        (["ps", "-f", "x"], 125, "bad format of filter"),
    ],
)
def test_usage_errors_set_the_exit_code(daemon: RecordedDaemon, orlop: Any, args: list[str], code: int, text: str) -> None:
    done = orlop(*args)
    assert done.code == code
    assert text in done.err
    assert done.out == ""
    assert daemon.requests == []


# --- logs, events, inspect and others


@pytest.mark.parametrize("kind", ["application/vnd.docker.multiplexed-stream", "application/vnd.docker.raw-stream"])
@pytest.mark.parametrize("tty", [True, False])
def test_logs_are_written_to_stdout_and_stderr(daemon: RecordedDaemon, orlop: Any, kind: str, tty: bool) -> None:
    if tty and "multiplexed" in kind:
        return  # daemons do not multiplex a TTY's log
    body = b"all\n" if tty else frame(1, b"out\n") + frame(2, b"err\n")
    daemon.on("GET", "/containers/web/logs", chunked([body[:5], body[5:]] if not tty else [body], {"Content-Type": kind}))
    daemon.on("GET", "/containers/web/json", answer({"Id": ID, "Config": {"Tty": tty}}))
    done = orlop("logs", "-t", "--tail", "5", "--since", "1700000000", "web")
    assert (done.code, done.out, done.err) == ((0, "all\n", "") if tty else (0, "out\n", "err\n"))
    assert daemon.requests[0].target.endswith("?stdout=1&stderr=1&since=1700000000&tail=5&timestamps=1")


EVENT = {
    "Type": "container",
    "Action": "die",
    "Actor": {"ID": "ab", "Attributes": {"exitCode": "0", "name": "web"}},
    "scope": "local",
    "time": 1_700_000_000,
    "timeNano": 1_700_000_000_000_000_007,
}


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "2023-11-14T22:13:20.000000007Z container die ab (exitCode=0, name=web)"),
        (["--format", "{{.Actor.Attributes.name}} {{.Time}} {{.Action}}"], "web 1700000000 die"),
        (["--format", "json"], json.dumps(EVENT, separators=(",", ":"))),
    ],
)
def test_events_are_printed_in_the_requested_format(
    daemon: RecordedDaemon, orlop: Any, flags: list[str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    time.tzset()
    actor = {"ID": "ab", "Attributes": {"name": "web", "exitCode": "0"}}  # orlop sorts the attributes, as docker does
    daemon.on("GET", "/events", chunked([json.dumps({**EVENT, "Actor": actor}).encode() + b"\n"] * 2))
    assert orlop("events", *flags).out == f"{line}\n{line}\n"


def test_unknown_field_in_the_format_of_events_is_reported_before_any_request(daemon: RecordedDaemon, orlop: Any) -> None:
    done = orlop("events", "--format", "{{.Nope}}")
    assert (done.code, daemon.requests) == (64, []) and "Nope" in done.err


def test_inspect_finds_objects_of_any_type_and_reports_missing_objects(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("GET", "/volumes/data", answer({"Name": "data"}))
    daemon.on("GET", "/containers/web/json", answer({"Name": "/web"}))
    done = orlop("inspect", "-f", "{{.Name}}", "web", "nope", "data")
    assert (done.code, done.out, done.err) == (1, "/web\ndata\n", "orlop: Error: No such object: nope\n")
    assert json.loads(orlop("inspect", "--type", "volume", "data").out) == [{"Name": "data"}]
    assert orlop("inspect", "nope").out == "[]\n"


def test_exec_prints_output_and_returns_the_exit_code(daemon: RecordedDaemon, orlop: Any) -> None:
    def start(connection: Any, request: Request) -> None:
        connection.sendall(UPGRADED + frame(1, b"hi\n"))

    daemon.on("POST", "/containers/web/exec", answer({"Id": "e1"}, 201))
    daemon.on("POST", "/exec/e1/start", start)
    daemon.on("GET", "/exec/e1/json", answer({"ExitCode": 5}))
    done = orlop("exec", "-e", "A=1", "-w", "/x", "web", "ls", "-l")
    assert (done.code, done.out) == (5, "hi\n")
    sent = daemon.requests[0].json()
    assert (sent["Cmd"], sent["Env"], sent["WorkingDir"], sent["AttachStdin"]) == (["ls", "-l"], ["A=1"], "/x", False)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"Running": False}, "You cannot attach to a stopped container, start it first"),
        ({"Running": True, "Paused": True}, "cannot attach to a paused container, unpause it first"),
        ({"Running": True, "Restarting": True}, "cannot attach to a restarting container, wait until it is running"),
    ],
)
def test_attach_to_a_container_that_does_not_run_is_refused(
    daemon: RecordedDaemon, orlop: Any, state: dict[str, bool], text: str
) -> None:
    daemon.on(
        "GET", "/containers/web/json", answer({"Id": ID, "State": state, "Config": {"Tty": False, "OpenStdin": False}})
    )
    done = orlop("attach", "web")
    assert (done.code, done.err) == (1, f"orlop: {text}\n")


def test_wait_command_prints_the_exit_codes_of_all_containers(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("POST", "/containers/a/wait", answer({"StatusCode": 3}))
    daemon.on("POST", "/containers/b/wait", answer({"StatusCode": 0}))
    assert orlop("wait", "a", "b").out == "3\n0\n"


def test_port_command_prints_published_ports(daemon: RecordedDaemon, orlop: Any) -> None:
    ports = {"443/tcp": None, "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}]}
    daemon.on("GET", "/containers/web/json", answer({"NetworkSettings": {"Ports": ports}}))
    assert orlop("port", "web").out == "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n"
    assert orlop("port", "web", "80").out == "0.0.0.0:8080\n[::]:8080\n"
    assert orlop("port", "web", "443").err == "orlop: Error: No public port '443' published for web\n"


SAMPLE = {
    "read": "2024-01-01T00:00:00Z",
    "name": "/web",
    "id": ID,
    "cpu_stats": {"cpu_usage": {"total_usage": 3000}, "system_cpu_usage": 20000, "online_cpus": 2},
    "precpu_stats": {"cpu_usage": {"total_usage": 2000}, "system_cpu_usage": 10000},
    "memory_stats": {"usage": 50 << 20, "limit": 100 << 20, "stats": {"inactive_file": 25 << 20}},
    "networks": {"eth0": {"rx_bytes": 1500, "tx_bytes": 20}},
    "blkio_stats": {"io_service_bytes_recursive": [{"op": "read", "value": 4096}, {"op": "Write", "value": 10}]},
    "pids_stats": {"current": 3},
}


def test_stats_command_prints_resource_usage(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("GET", "/containers/json", answer([container()]))
    daemon.on("GET", "/containers/0123456789ab/stats", answer(SAMPLE))
    form = "{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.MemPerc}} {{.NetIO}} {{.BlockIO}} {{.PIDs}}"
    done = orlop("stats", "--no-stream", "--format", form)
    assert done.out == "web 20.00% 25MiB / 100MiB 25.00% 1.5kB / 20B 4.1kB / 10B 3\n"


def test_stats_command_fails_for_a_missing_container(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("GET", "/containers/nope/stats", MISSING)
    done = orlop("stats", "--no-stream", "nope")
    assert (done.code, done.err) == (1, "orlop: Error response from daemon: No such container: nope\n")


def test_images_command_prints_a_row_for_each_name_of_an_image(daemon: RecordedDaemon, orlop: Any) -> None:
    image = {
        "Id": "sha256:" + "a" * 64,
        "Created": 1_700_000_000,
        "Size": 2_026_471,
        "RepoTags": ["x/y:1", "x:2"],
        "RepoDigests": [],
    }
    bare = {"Id": "sha256:" + "b" * 64, "Created": 1_700_000_000, "Size": 10, "RepoTags": [], "RepoDigests": []}
    pulled = {"Id": "sha256:" + "c" * 64, "Created": 0, "Size": 10, "RepoTags": [], "RepoDigests": ["z@sha256:12"]}
    daemon.on("GET", "/images/json", answer([image, bare, pulled]))
    rows = orlop("images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}} {{.CreatedAt}}").out.splitlines()
    assert rows[0] == "x/y:1 aaaaaaaaaaaa 2.03MB 2023-11-14 22:13:20 +0000 UTC"
    assert rows[1].startswith("x:2 aaaa")
    assert rows[2].startswith("<none>:<none> bbbb")
    assert rows[3].startswith("z:<none> cccc")
    orlop("images", "x:2")
    assert "reference" in daemon.requests[-1].target


def test_network_create_sends_subnets_gateways_and_auxiliary_addresses(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("POST", "/networks/create", answer({"Id": "n1"}, 201))
    flags = ["--subnet", "10.1.0.0/16", "--subnet", "fd00::/64", "--gateway", "10.1.0.1", "--ip-range", "10.1.5.0/24"]
    assert orlop("network", "create", *flags, "--aux-address", "a=10.1.0.2", "--internal", "back").out == "n1\n"
    assert daemon.requests[0].json()["IPAM"]["Config"] == [
        {"Subnet": "10.1.0.0/16", "IPRange": "10.1.5.0/24", "Gateway": "10.1.0.1", "AuxiliaryAddresses": {"a": "10.1.0.2"}},
        {"Subnet": "fd00::/64"},
    ]
    assert orlop("network", "create", "--gateway", "10.1.0.1", "x").err == "orlop: no matching subnet for 10.1.0.1\n"


def test_container_prune_asks_for_confirmation(daemon: RecordedDaemon, orlop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    daemon.on("POST", "/containers/prune", answer({"ContainersDeleted": [ID], "SpaceReclaimed": 1500}))
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert orlop("container", "prune").code == 0
    assert daemon.requests == []
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert orlop("container", "prune", "--filter", "label!=keep").out.endswith(
        f"Deleted Containers:\n{ID}\n\nTotal reclaimed space: 1.5kB\n"
    )
    assert "label%21" in daemon.requests[0].target


def test_version_command_prints_the_client_version_without_a_daemon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        entry.main(["-H", f"unix://{tmp_path}/none", "version"])
    captured = capsys.readouterr()
    assert ended.value.code == 1
    assert captured.out.startswith("Client: Orlop\n Version: ")
    assert "Cannot connect" in captured.err


# --- the table of commands


def commands(table: dict[str, Lazy], path: tuple[str, ...] = ()) -> Any:
    for name, lazy in table.items():
        yield (*path, name), lazy


ALL = [
    *commands(_table.TABLE),
    *commands(_table.CONTAINER, ("container",)),
    *commands(_table.IMAGE, ("image",)),
    *commands(_table.VOLUME, ("volume",)),
    *commands(_table.NETWORK, ("network",)),
    *commands(_table.SYSTEM, ("system",)),
]


@pytest.mark.parametrize(("path", "lazy"), ALL, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_each_command_has_help(path: tuple[str, ...], lazy: Lazy, orlop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command has help. Its first line equals the line in the table of commands, which `orlop --help` prints without
    importing the command."""
    monkeypatch.setenv("COLUMNS", "120")
    done = orlop(*path, "--help")
    assert done.code == 0
    usage, _, summary, *_ = done.out.splitlines()
    assert usage.startswith(f"Usage:  orlop {' '.join(path)} [OPTIONS]")
    assert summary == lazy.summary
    if lazy.module:
        assert "\nExamples:\n  orlop " in done.out or "\nExamples:\n  tar" in done.out


def test_command_of_a_plugin_is_loaded_only_when_it_is_needed(monkeypatch: pytest.MonkeyPatch, orlop: Any) -> None:
    import importlib.metadata

    import click

    @click.command("check", help="Compare the database with the kernel")
    def check() -> None:
        click.echo("checked")

    class Entry:
        name, value = "check", "x:check"
        loaded = 0

        def load(self) -> click.Command:
            self.loaded += 1
            return check

    entry_point = Entry()
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry_point] if group == "orlop.cli" else [])
    assert orlop("volume", "--help").code == 0
    assert entry_point.loaded == 0
    assert orlop("check").out == "checked\n"
    assert "Compare the database with the kernel" in orlop("--help").out
    assert orlop("system", "check", "--help").out.count("checked") == 0, "a name without a group is the root's"


def test_plugin_can_add_a_command_to_a_group(monkeypatch: pytest.MonkeyPatch, orlop: Any) -> None:
    import importlib.metadata

    @click.command("take", help="Take it")
    def take() -> None:
        raise click.ClickException("there is nothing to take")

    class Entry:
        name, value = "system.take", "x:take"

        def load(self) -> click.Command:
            return take

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Entry()])
    result = orlop("system", "take")
    assert (result.code, result.err) == (1, "orlop: there is nothing to take\n")
    assert "Take it" in orlop("system", "--help").out and "Take it" not in orlop("--help").out
    assert orlop("take").code == orlop("volume", "take").code == 1


def test_plugin_command_that_cannot_be_imported_does_not_break_help(monkeypatch: pytest.MonkeyPatch, orlop: Any) -> None:
    import importlib.metadata

    class Entry:
        name, value = "bad", "gone:bad"

        def load(self) -> Any:
            raise ImportError("no module named gone")

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Entry()])
    assert "cannot load command bad" in orlop("--help").out
    assert orlop("bad").code == 1
