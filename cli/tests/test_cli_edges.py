"""Error handling around commands: closed descriptors, encodings, config.json, output files, unknown names."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import click
import pytest

from orlop_cli import __main__ as entry
from orlop_cli import _auth, _config, _root
from orlop_cli._errors import CliError
from orlop_cli.commands import bundle
from orlop_cli.daemon import hosts
from orlop_cli.files import outputs
from orlop_cli.testing import RecordedDaemon, answer, chunked, frame
from orlop_cli.values import units

pytestmark = pytest.mark.usefixtures("clean")

ID = "ab" * 32
CLIENT, ORLOPD = "orlop_cli", "orlop_kernel"


@pytest.fixture(autouse=True)
def fresh_config() -> Iterator[None]:
    _config.load.cache_clear()
    yield
    _config.load.cache_clear()


def program(module: str, *args: str | bytes, redirected: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run `python -m MODULE ARGS` in a shell with these redirections; captures what reaches the open stdout and stderr."""
    argv = [sys.executable, "-m", module, *args]
    shell = ["sh", "-c", f'exec "$@" {redirected}', "sh"]
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run([*shell, *argv], capture_output=True, env={**os.environ, "PYTHONPATH": paths, **environment})


# --- descriptors


def logs(daemon: RecordedDaemon) -> None:
    output = frame(1, b"to stdout\n" * 2000) + frame(2, b"to stderr\n")
    kind = {"Content-Type": "application/vnd.docker.multiplexed-stream"}
    daemon.on("GET", "/containers/web/logs", chunked([output], kind))


@pytest.mark.parametrize(
    ("redirected", "open_ones"),
    [(">&-", "err"), ("2>&-", "out"), ("<&-", "out err"), ("<&- >&-", "err"), ("<&- >&- 2>&-", "")],
)
def test_closed_descriptors_are_not_reused_for_the_connection(
    daemon: RecordedDaemon, redirected: str, open_ones: str
) -> None:
    logs(daemon)
    done = program(CLIENT, "-H", daemon.host, "logs", "web", redirected=redirected)
    assert done.returncode == 0
    assert daemon.seen() == ["GET /containers/web/logs"]
    assert done.stdout == (b"to stdout\n" * 2000 if "out" in open_ones else b"")
    assert done.stderr == (b"to stderr\n" if "err" in open_ones else b"")


@pytest.mark.parametrize("redirected", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("args", "code"), [(["--help"], 0), (["nosuch"], 1), (["run", "--bogus"], 125)])
def test_closed_standard_descriptors_are_no_error(redirected: str, args: list[str], code: int) -> None:
    done = program(CLIENT, *args, redirected=redirected)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(("redirected", "code"), [(">&-", 0), ("<&- >&- 2>&-", 0), ("2>&-", 0)])
def test_orlopd_starts_without_standard_descriptors(redirected: str, code: int) -> None:
    assert program(ORLOPD, "--version", redirected=redirected).returncode == code


def test_files_opened_later_do_not_become_stderr() -> None:
    """Children inherit descriptors 0 to 2."""
    script = (
        "import os, sys\n"
        "from {0}.__main__ import _open_standard_streams as guard\n"
        "guard()\n"
        "again = os.open('/dev/zero', os.O_RDONLY)\n"
        "print('x', file=sys.stderr, flush=True); print('x', flush=True)\n"
        "assert again > 2 and sys.stdin.read() == '' and all(map(os.get_inheritable, range(3)))\n"
    )
    for module in (CLIENT, ORLOPD):
        shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
        assert subprocess.run([*shell, sys.executable, "-c", script.format(module)], check=False).returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("module", "args"),
    [(CLIENT, ["--help"]), (CLIENT, ["-H", "HOST", "ps"]), (CLIENT, ["-H", "HOST", "logs", "web"]), (ORLOPD, ["--help"])],
)
def test_full_stdout_is_reported(daemon: RecordedDaemon, module: str, args: list[str]) -> None:
    daemon.on("GET", "/containers/json", answer([]))
    logs(daemon)
    done = program(module, *(daemon.host if arg == "HOST" else arg for arg in args), redirected=">/dev/full")
    name = "orlop: " if module == CLIENT else ""
    assert (done.returncode, done.stderr.decode().splitlines()[-1:]) == (
        1,
        [f"{name}cannot write to standard output: no space left on device"],
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(("args", "code"), [(["nosuch"], 1), (["run", "--bogus"], 125)])
def test_full_stderr_keeps_the_exit_code(args: list[str], code: int) -> None:
    assert program(CLIENT, *args, redirected="2>/dev/full").returncode == code


# --- encodings


def test_output_to_an_ascii_terminal_is_escaped(daemon: RecordedDaemon) -> None:
    item = {"Id": ID, "Names": ["/web"], "Image": "x", "Command": "sleep " + "1" * 40, "Created": 1, "Status": "Up"}
    daemon.on("GET", "/containers/json", answer([item]))
    done = program(CLIENT, "-H", daemon.host, "ps", redirected="", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u2026" in done.stdout


def test_undecodable_arguments_are_sent_unchanged(daemon: RecordedDaemon) -> None:
    daemon.on("DELETE", "/containers/%FF", answer(status=204))
    done = program(CLIENT, "-H", daemon.host, "rm", b"\xff", redirected="")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\udcff\n", b"")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write to standard output: no space left on device"),
        (OSError(errno.EACCES, "Permission denied", "/x"), "/x: permission denied"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "connection timed out"),
        ("\udcff".encode, "'utf-8' codec can't encode character '\\udcff' in position 0: surrogates not allowed"),
    ],
)
def test_unexpected_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Any, said: str
) -> None:
    def fail(*_: object) -> int:
        if callable(error):
            error()
        raise error

    monkeypatch.setattr(entry, "_run", fail)
    with pytest.raises(SystemExit) as ended:
        entry.main([])
    assert (ended.value.code, capsys.readouterr().err) == (1, f"orlop: {said}\n")


# --- values


@pytest.mark.parametrize("keys", [os.fsdecode(b"\xff"), "ctrl-p,é"])
def test_detach_keys_are_single_bytes(daemon: RecordedDaemon, orlop: Any, keys: str) -> None:
    done = orlop("run", "--detach-keys", keys, "x")
    assert (done.code, "invalid detach keys" in done.err, daemon.requests) == (125, True, [])


@pytest.mark.parametrize("text", ["inf", "-Infinity", "nan", "sNaN", "1e9999999999999", "1e400", "99999999999", "x"])
def test_cpus_must_be_a_finite_number(text: str) -> None:
    with pytest.raises(ValueError, match="as a rational number"):
        units.parse_cpus(text)


@pytest.mark.parametrize("parse", [units.parse_bytes, units.parse_duration])
def test_huge_sizes_and_durations_are_refused(parse: Callable[[str], int]) -> None:
    with pytest.raises(ValueError, match="invalid"):
        parse("9" * 5000 + "m")


# --- invalid answers


@pytest.mark.parametrize("body", [b'{"Type":"container"}\n<html>\n', b"[1]\n", b"[" * 100_000 + b"\n"])
def test_invalid_json_of_events_is_reported(daemon: RecordedDaemon, orlop: Any, body: bytes) -> None:
    daemon.on("GET", "/events", chunked([body]))
    done = orlop("events", "--format", "{{.Type}}")
    assert done.code == 1
    assert done.err.startswith("orlop: the daemon's answer is not JSON: ")


@pytest.mark.parametrize("length", [b"x", b"-5", b"1_0", b"+1", b"5, 5", b"", b"9" * 5000])
def test_invalid_content_length_is_reported(daemon: RecordedDaemon, orlop: Any, length: bytes) -> None:
    said = b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n[]"
    daemon.on("GET", "/containers/json", lambda connection, request: connection.sendall(said))
    done = orlop("ps")
    assert (done.code, "bad Content-Length" in done.err) == (1, True)


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\n"]
)
def test_invalid_status_and_chunk_size_are_reported(daemon: RecordedDaemon, orlop: Any, said: bytes) -> None:
    daemon.on("GET", "/containers/json", lambda connection, request: connection.sendall(said))
    done = orlop("ps")
    assert (done.code, done.err.count("\n")) == (1, 1)


# --- config.json


def config(tmp_path: Path, content: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("content", "args", "said"),
    [
        ({"psFormat": 5}, ["ps"], "psFormat is not a string"),
        ({"detachKeys": ["ctrl-p"]}, ["attach", "web"], "detachKeys is not a string"),
        ({"proxies": ["x"]}, ["create", "x"], "proxies is not an object"),
        ({"proxies": {"default": "http://p"}}, ["create", "x"], "default of proxies is not an object"),
        ({"pruneFilters": "label=x"}, ["container", "prune", "-f"], "pruneFilters is not a list"),
        ({"auths": ["reg.io"]}, ["pull", "reg.io/x"], "auths is not an object"),
        ({"auths": {"reg.io": "bWU6cGFzcw=="}}, ["pull", "reg.io/x"], "reg.io is not an object"),
        ({"auths": {"reg.io": {"auth": 5}}}, ["pull", "reg.io/x"], "auth is not a string"),
        ({"credHelpers": {"reg.io": {}}}, ["pull", "reg.io/x"], "reg.io is not a string"),
        ({"credsStore": True}, ["pull", "reg.io/x"], "credsStore is not a string"),
    ],
)
def test_wrong_types_in_config_json_are_reported(
    daemon: RecordedDaemon, orlop: Any, tmp_path: Path, content: Any, args: list[str], said: str
) -> None:
    running = {"Id": ID, "State": {"Running": True}, "Config": {"Tty": False, "OpenStdin": False}}
    daemon.on("GET", "/containers/web/json", answer(running))
    config(tmp_path, content)
    done = orlop(*args)
    assert (done.code, done.err) == (1, f"orlop: cannot read {tmp_path}/config.json: {said}\n")


def test_null_in_config_json_is_ignored(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    daemon.on("GET", "/containers/json", answer([]))
    config(tmp_path, {"psFormat": None})
    assert orlop("ps").code == 0


def test_unreadable_config_json_is_reported(orlop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").mkdir()
    assert orlop("ps").err == f"orlop: cannot read {tmp_path}/config.json: is a directory\n"
    monkeypatch.setenv("DOCKER_CONFIG", "/dev/null")
    assert orlop("ps").err == "orlop: cannot read /dev/null/config.json: not a directory\n"


@pytest.mark.parametrize("said", ["no JSON", "[]", '{"Username": "me"}'])
def test_invalid_answer_of_a_credential_helper_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    helper = tmp_path / "docker-credential-x"
    helper.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{said}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    config(tmp_path, {"credsStore": "x"})
    with pytest.raises(CliError, match="its answer has no Username and Secret"):
        _auth.header("reg.io")


# --- which daemon


def elsewhere(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as ended:
        entry.main(list(args))
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_chosen_docker_context_is_refused(
    daemon: RecordedDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hosts, "DEFAULT_HOST", daemon.host)
    daemon.on("DELETE", "/containers/web", answer(status=204))
    monkeypatch.setenv("DOCKER_CONTEXT", "prod")
    said = 'orlop: contexts are not supported, and {} is "prod": name the daemon with -H or ORLOP_HOST\n'
    assert elsewhere(capsys, "rm", "web") == said.format("DOCKER_CONTEXT")
    monkeypatch.delenv("DOCKER_CONTEXT")
    config(tmp_path, {"currentContext": "prod"})
    assert elsewhere(capsys, "rm", "web") == said.format("currentContext of config.json")
    assert daemon.requests == []


@pytest.mark.parametrize("named", ["-H", "ORLOP_HOST", "DOCKER_HOST", "default"])
def test_named_daemon_overrides_the_docker_context(
    daemon: RecordedDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "default" if named == "default" else "prod")
    config(tmp_path, {"currentContext": "prod"})
    daemon.on("DELETE", "/containers/web", answer(status=204))
    if named.endswith("HOST"):
        monkeypatch.setenv(named, daemon.host)
    monkeypatch.setattr(hosts, "DEFAULT_HOST", daemon.host if named == "default" else "unix:///nosuch")
    with pytest.raises(SystemExit) as ended:
        entry.main([*(["-H", daemon.host] if named == "-H" else []), "rm", "web"])
    assert (ended.value.code, daemon.seen()) == (0, ["DELETE /containers/web"])


def test_help_needs_no_daemon(monkeypatch: pytest.MonkeyPatch, orlop: Any) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "prod")
    monkeypatch.setenv("DOCKER_HOST", "nonsense://")
    with pytest.raises(SystemExit) as ended:
        entry.main(["run", "--help"])
    assert ended.value.code == 0


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("/run/x.sock", "/run/x.sock"),
        ("unix:/run/x.sock", "/run/x.sock"),
        ("./x.sock", f"{Path.cwd()}/x.sock"),
        ("~/x", os.path.expanduser("~/x")),
    ],
)
def test_host_without_scheme_suggests_unix(text: str, meant: str) -> None:
    with pytest.raises(CliError) as caught:
        hosts.parse(text, tls=False)
    assert caught.value.message == f'unable to parse daemon host "{text}": did you mean unix://{meant}?'


@pytest.mark.parametrize("port", ["65536", "99999999999999999999", "²", "-1", ""])
def test_invalid_ports_are_refused(port: str) -> None:
    with pytest.raises(CliError, match="invalid port"):
        hosts.parse(f"tcp://h:{port}", tls=False)


def unreachable(host: str) -> str:
    with pytest.raises(CliError) as caught:
        hosts.connect(hosts.parse(host, tls=False), None)
    return caught.value.message


def test_unreachable_daemon_is_reported_with_its_cause(tmp_path: Path) -> None:
    path = str(tmp_path / "d.sock")
    sentence = "Cannot connect to the Orlop daemon at {}. Is the daemon running?\n({})"
    assert unreachable(f"unix://{path}") == sentence.format(f"unix://{path}", "no such file or directory")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    assert unreachable(f"unix://{path}") == sentence.format(f"unix://{path}", "connection refused")
    long = "unix:///" + "x" * 120
    assert unreachable(long) == sentence.format(long, "af_unix path too long")
    assert unreachable("tcp://a..b:1").startswith(sentence.format("tcp://a..b:1", "")[:-1])


def test_refusal_by_a_firewall_does_not_mention_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert unreachable("tcp://h:1").endswith("Is the daemon running?\n(operation not permitted)")


def test_unreachable_default_daemon_says_how_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "DEFAULT_HOST", "unix:///nosuch/orlop.sock")
    assert unreachable("unix:///nosuch/orlop.sock").endswith(
        "\nStart it with `systemctl start orlop` or `sudo orlopd`, or name another with -H or ORLOP_HOST."
    )


# --- output files


def lost(connection: Any, request: Any) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal")


def test_export_writes_regular_files_only(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/null")
    kinds = {"/dev/null": "a device", str(tmp_path / "link"): "a device", str(tmp_path): "a directory"}
    for path, what in {**kinds, str(tmp_path / "fifo"): "an irregular file"}.items():
        done = orlop("export", "-o", path, "web")
        said = f'failed to export container: invalid output path: "{path}" must be a regular file: got {what}'
        assert (done.code, done.err) == (1, f"orlop: {said}\n")
    assert daemon.requests == []


def test_save_writes_a_whole_file_or_none(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    daemon.on("GET", "/images/get", chunked([b"t" * 70000, b"ar"]))
    assert orlop("image", "save", "-o", str(tmp_path / "x.tar"), "a:1", "b").err == ""
    assert (tmp_path / "x.tar").read_text() == "t" * 70000 + "ar"
    asked = [parse_qs(urlsplit(request.target).query) for request in daemon.requests if request.path == "/images/get"]
    assert asked == [{"names": ["a:1", "b"]}]
    done = orlop("save", "-o", str(tmp_path), "a:1")
    said = f'failed to save image: invalid output path: "{tmp_path}" must be a regular file: got a directory'
    assert (done.code, done.err) == (1, f"orlop: {said}\n")
    daemon.on("GET", "/images/get", lost)
    assert orlop("save", "-o", str(tmp_path / "y.tar"), "a:1").code == 1
    assert "y.tar" not in os.listdir(tmp_path), "a broken archive is not kept"


def test_save_and_load_accept_platforms(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    daemon.on("HEAD", "/_ping", answer().replace(b"1.45", b"1.51"))
    daemon.on("GET", "/_ping", answer().replace(b"1.45", b"1.51"))
    daemon.on("GET", "/images/get", chunked([b"tar"]))
    daemon.on("POST", "/images/load", chunked([b'{"stream":"Loaded image: a:1\\n"}\r\n']))
    (tmp_path / "x.tar").write_bytes(b"tar")
    assert orlop("save", "--platform", "linux/arm/v7", "-o", str(tmp_path / "y.tar"), "a:1").code == 0
    assert orlop("load", "--platform", "linux/arm64", "-i", str(tmp_path / "x.tar")).code == 0
    queries = [parse_qs(urlsplit(request.target).query) for request in daemon.requests]
    asked = [json.loads(query["platform"][0]) for query in queries if "platform" in query]
    assert asked == [{"os": "linux", "architecture": "arm", "variant": "v7"}, {"os": "linux", "architecture": "arm64"}]
    done = orlop("save", "--platform", "linux/arm64,linux/amd64", "a:1")
    assert (done.code, '"platform" requires API version 1.52' in done.err) == (1, True)
    assert 'invalid platform "x"' in orlop("save", "--platform", "x", "a:1").err


def test_export_follows_a_link_to_its_target(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    daemon.on("GET", "/containers/web/export", chunked([b"tar"]))
    (tmp_path / "there").mkdir()
    for target in ("there/old", "there/new"):
        (tmp_path / "link").symlink_to(target)
        (tmp_path / "there/old").write_text("old")
        assert orlop("export", "-o", str(tmp_path / "link"), "web").code == 0
        assert os.readlink(tmp_path / "link") == target
        assert (tmp_path / target).read_text() == "tar"
        (tmp_path / "link").unlink()
    assert sorted(os.listdir(tmp_path / "there")) == ["new", "old"]


@pytest.mark.parametrize("args", [["export", "-o", "{}/new", "web"], ["cp", "web:/f", "{}"]])
def test_lost_daemon_is_not_reported_as_a_write_error(
    daemon: RecordedDaemon, orlop: Any, tmp_path: Path, args: list[str]
) -> None:
    told = base64.b64encode(b'{"name":"f","mode":420}')
    head = b"HTTP/1.1 200 OK\r\nX-Docker-Container-Path-Stat: " + told + b"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal"
    daemon.on("GET", "/containers/web/export", lost)
    daemon.on("GET", "/containers/web/archive", lambda connection, request: connection.sendall(head))
    before = os.listdir(tmp_path)
    done = orlop(*(arg.format(tmp_path) for arg in args))
    assert (done.code, done.err) == (
        1,
        "orlop: connection to the daemon lost: connection closed in the middle of an answer\n",
    )
    assert os.listdir(tmp_path) == before


def test_export_checks_its_file_before_the_request(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone/x")
    done = orlop("export", "-o", str(tmp_path / "link"), "web")
    assert (done.code, done.err) == (1, f"orlop: cannot write {tmp_path}/link: no such file or directory\n")
    assert daemon.requests == []


def test_incomplete_file_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs, "write_all", full)
    for make in (outputs.new_file, outputs.whole_file):
        with (
            pytest.raises(CliError, match=r"cannot write .*/x: no space left on device"),
            make(str(tmp_path / "x")) as write,
        ):
            write(b"data")
    assert os.listdir(tmp_path) == []


def test_debug_bundle_omits_volume_options() -> None:
    options = {"type": "cifs", "o": "username=u,password=S3cret"}
    mounts = [{"Type": "volume", "VolumeOptions": {"DriverConfig": {"Name": "local", "Options": options}}}]
    for found in (
        {"Volumes": [{"Name": "share", "Options": options}, {"Name": "plain", "Options": None}]},
        {"HostConfig": {"Mounts": mounts}, "Config": {"Volumes": {"/data": {}}}},
    ):
        shown = json.dumps(bundle.masked(found, True))
        assert '"Options": {"type": "xxxxx", "o": "xxxxx"}' in shown
        assert "S3cret" not in shown
    network = {"Name": "n", "Options": {"com.docker.network.bridge.name": "br7"}}
    assert bundle.masked([network], False) == [network]


def test_debug_bundle_does_not_overwrite_files(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/null")):
        assert orlop("debug", "bundle", "-o", str(path)).err == f"orlop: cannot write {path}: it is there already\n"
    assert orlop("debug", "bundle", "-o", "/nosuch/x").err == "orlop: cannot write /nosuch/x: no such file or directory\n"
    assert daemon.requests == []


@pytest.mark.parametrize("command", ["create", "run"])
def test_unwritable_cidfile_creates_no_container(daemon: RecordedDaemon, orlop: Any, tmp_path: Path, command: str) -> None:
    (tmp_path / "dangling").symlink_to("gone")
    for path, said in (
        ("/nosuch/cid", "cannot write /nosuch/cid: no such file or directory"),
        (f"{tmp_path}/dangling", "container ID file found, make sure the other container isn't running or delete "),
        (str(tmp_path), "container ID file found, make sure the other container isn't running or delete "),
    ):
        done = orlop(command, "--cidfile", path, "x")
        assert (done.code, done.err.startswith(f"orlop: {said}")) == (125, True)
    assert daemon.requests == []


def test_failed_create_leaves_no_cidfile(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    daemon.on("POST", "/containers/create", answer({"message": "no"}, 409))
    assert orlop("run", "--cidfile", f"{tmp_path}/cid", "x").code == 125
    assert orlop("run", "--cidfile", f"{tmp_path}/cid", "--rm", "--restart", "always", "x").code == 125
    assert not (tmp_path / "cid").exists()


def test_container_is_named_if_its_cidfile_cannot_be_written(
    daemon: RecordedDaemon, orlop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs, "write_all", full)
    daemon.on("POST", "/containers/create", answer({"Id": ID}, 201))
    done = orlop("create", "--cidfile", f"{tmp_path}/cid", "x")
    said = f"cannot write {tmp_path}/cid: no space left on device; container {ID} is there without it"
    assert (done.code, done.err) == (125, f"orlop: {said}\n")
    assert not (tmp_path / "cid").exists()


def test_env_and_label_files_are_split_like_dockers(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    daemon.on("POST", "/containers/create", answer({"Id": ID}, 201))
    (tmp_path / "env").write_bytes("\ufeffA=a\fb\u2028c\x85d\x1ee\rf\r\n  B=b\r\r\n\n#C=c\nD=d".encode())
    assert orlop("create", "--env-file", f"{tmp_path}/env", "--label-file", f"{tmp_path}/env", "x").code == 0
    made = daemon.find("POST", "/containers/create").json()
    assert made["Env"] == ["A=a\fb\u2028c\x85d\x1ee\rf", "B=b\r", "D=d"]
    assert made["Labels"] == dict(item.split("=", 1) for item in made["Env"])


# --- docker's commands that orlop lacks, and help


@pytest.mark.parametrize(
    ("words", "name", "then"),
    [
        (["plugin", "ls"], "plugin", "Orlop does not have, neither the client nor the daemon."),
        (["config", "ls"], "config ls", "neither the client nor the daemon."),
        (["swarm", "init"], "swarm", "neither the client nor the daemon."),
        (["login"], "login", "The docker client works against Orlop too: DOCKER_HOST=unix:///run/orlop.sock"),
        (["help", "search"], "search", "The docker client works against Orlop too"),
    ],
)
def test_commands_that_only_docker_has_are_explained(
    daemon: RecordedDaemon, orlop: Any, words: list[str], name: str, then: str
) -> None:
    done = orlop(*words)
    assert done.code == 1
    assert done.err.startswith(f"orlop: '{name}' is a command of docker that ")
    assert then in done.err and "Did you mean" not in done.err
    assert daemon.requests == []


def test_commands_that_only_docker_has_are_documented_and_absent() -> None:
    from orlop_cli import _docker_only

    page = (Path(__file__).parents[2] / "docs/cli.md").read_text()
    listed = set(
        re.findall("`([^`]+)`", page.partition("## Commands and flags that only docker has")[2].partition("\n## ")[0])
    )
    for table in (_docker_only._CLIENT, _docker_only._DAEMON):
        for group, names in table.items():
            ours = {"orlop": _root.TABLE, "system": _root.SYSTEM, "config": _root.CONFIG, "image": _root.IMAGE}
            assert not names & ours.get(group, _root.VOLUME).keys()
            if group == "orlop":
                assert names <= listed
    root = click.Context(_root.root, info_name="orlop")
    for path, flags in re.findall(r"^- `([a-z ]+)`: ((?:`--[\w-]+`(?:, )?)+)", page, re.MULTILINE):
        command: Any = _root.root
        for word in path.split():
            command = command.get_command(root, word)
        assert not set(re.findall("--[a-z-]+", flags)) & {opt for param in command.params for opt in param.opts}


@pytest.mark.parametrize("words", [[], ["run"], ["container"], ["container", "list"], ["help"], ["system", "prune"]])
def test_help_command_equals_help_flag(orlop: Any, words: list[str]) -> None:
    if words:
        assert orlop("help", *words).out == orlop(*words, "--help").out != ""
    else:
        assert orlop("help").out == orlop("--help").out
    assert orlop("help", *words).code == 0


def test_help_of_an_unknown_command_suggests_one(orlop: Any) -> None:
    done = orlop("help", "container", "lss")
    assert (done.code, done.err.splitlines()[1]) == (1, "Did you mean 'orlop container ls'?")


def test_h_prints_help(daemon: RecordedDaemon, orlop: Any) -> None:
    assert orlop("ps", "-h").out == orlop("ps", "--help").out
    assert orlop("network", "create", "-h").code == 0
    assert daemon.requests == []
    daemon.on("POST", "/containers/create", answer({"Id": ID}, 201))
    assert orlop("create", "-h", "box", "x").code == 0
    assert daemon.find("POST", "/containers/create").json()["Hostname"] == "box"


def test_prune_does_not_promise_named_volumes(orlop: Any) -> None:
    text = orlop("system", "prune", "--help").out
    assert "everything no container uses" not in text
    assert "also unused images, and anonymous volumes" in text
