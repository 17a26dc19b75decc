"""Contexts: docker's store, shared with docker's own client, and connections by ssh."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orlop_cli._errors import CliError
from orlop_cli.daemon import contexts, hosts
from orlop_cli.daemon import ssh as ssh_module
from orlop_cli.testing import RecordedDaemon, answer

pytestmark = pytest.mark.usefixtures("clean")

PEM = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Call the client without -H: the host comes from a context."""
    from orlop_cli import __main__ as entry

    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            entry.main(list(args))
        captured = capfd.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def config(home: Path) -> Any:
    return json.loads((home / "config.json").read_text())


def test_context_selects_the_daemon(run: Any, daemon: RecordedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.on("GET", "/containers/json", answer([]))
    assert run("context", "create", "here", "--docker", f"host={daemon.host}")[:2] == (0, "here\n")
    assert run("-c", "here", "ps", "-q") == (0, "", "")
    monkeypatch.setenv("DOCKER_CONTEXT", "here")
    assert run("ps", "-q") == (0, "", "")
    monkeypatch.delenv("DOCKER_CONTEXT")
    assert run("context", "use", "here")[0] == 0
    assert run("ps", "-q") == (0, "", "")
    assert daemon.seen() == ["GET /containers/json"] * 3
    monkeypatch.setenv("ORLOP_HOST", "unix:///nowhere.sock")
    assert "/nowhere.sock" in run("ps")[2]
    assert run("--context", "here", "ps", "-q")[0] == 0, "the flag wins over the variable"


def test_command_with_a_missing_context_contacts_no_other_daemon(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    for words in (["ps"], ["rm", "-f", "web"], ["-c", "other", "ps"]):
        code, out, err = run(*words)
        assert (code, out) == (1, "")
        assert 'unable to resolve docker endpoint: context "' in err and "context not found" in err


def test_host_and_context_together_are_refused(run: Any) -> None:
    code, _, err = run("-c", "here", "-H", "unix:///x", "ps")
    assert (code, err) == (1, "orlop: conflicting options: either specify --host or --context, not both\n")


def test_tls_files_are_stored_with_private_modes(run: Any, tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text(PEM)
    endpoint = "host=tcp://h:2376,ca=ca,cert=cert,key=key"
    assert run("context", "create", "tls", "--docker", endpoint)[0] == 0
    context = contexts.read("tls")
    assert sorted(context.tls_files()) == ["ca.pem", "cert.pem", "key.pem"]
    for path in context.tls_files().values():
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(f"{context.tls_path}/docker").st_mode) == 0o700
    assert run("context", "export", "tls", "t.tar")[0] == run("context", "import", "copy", "t.tar")[0] == 0
    assert Path(contexts.read("copy").tls_files()["key.pem"]).read_text() == PEM
    assert run("context", "update", "copy", "--docker", "host=tcp://h:1")[0] == 0
    assert contexts.read("copy").tls_files() == {}


def test_context_use_keeps_all_other_keys_of_config_json(run: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"psFormat": "x", "HttpHeaders": {"a": "b"}}))
    (tmp_path / "config.json").chmod(0o640)
    run("context", "create", "aa", "--docker", "host=unix:///x")
    run("context", "use", "aa")
    assert config(tmp_path) == {"auths": {}, "psFormat": "x", "HttpHeaders": {"a": "b"}, "currentContext": "aa"}
    assert stat.S_IMODE((tmp_path / "config.json").stat().st_mode) == 0o640
    run("context", "rm", "-f", "aa")
    assert config(tmp_path) == {"auths": {}, "psFormat": "x", "HttpHeaders": {"a": "b"}}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04bad", b"no archive at all" * 100, bytes(11 << 20)])
def test_context_import_refuses_invalid_archives(run: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert run("context", "import", "aa", "file")[0] == 1
    assert not (tmp_path / "contexts").exists()


def test_damaged_context_is_reported(run: Any, tmp_path: Path) -> None:
    run("context", "create", "aa", "--docker", "host=unix:///x")
    Path(contexts.read("aa").meta_path, "meta.json").write_text("{")
    with pytest.raises(CliError, match=r'context "aa": cannot read .*meta.json'):
        contexts.read("aa")
    assert run("context", "ls", "-q") == (0, "default\n", "")


def test_http_headers_configured_by_the_user_are_sent(
    run: Any, daemon: RecordedDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.on("GET", "/containers/json", answer([]))
    (tmp_path / "config.json").write_text(json.dumps({"HttpHeaders": {"X-Team": "a", "User-Agent": "mine"}}))
    run("-H", daemon.host, "ps")
    monkeypatch.setenv("DOCKER_CUSTOM_HEADERS", 'x-one=1,"x-two=b,c"')
    run("-H", daemon.host, "ps")
    first, second = (request.headers for request in daemon.requests)
    assert (first["x-team"], first["user-agent"][:6]) == ("a", "Orlop-")
    assert (second["x-one"], second["x-two"], second.get("x-team")) == ("1", "b,c", None)
    monkeypatch.setenv("DOCKER_CUSTOM_HEADERS", "broken")
    assert "cannot use DOCKER_CUSTOM_HEADERS" in run("-H", daemon.host, "ps")[2]


# --- comparison with docker's client, which needs no daemon for these commands

LINES = """
context create aa --description d,d --docker host=unix:///run/some.sock
context create aa
context create bb --docker host=tcp://127.0.0.1:2376,skip-tls-verify=true
context create cc --from aa
context create dd --docker foo=bar
context create dd --docker foo
context create b@d
context create default
context create ee --docker ca=/nope,host=tcp://x:1
context create ee --docker ca=ca.pem,host=tcp://x:1
context create ss --docker host=ssh://me@h
context use aa
context ls -q
context ls --format {{.Name}}|{{.Current}}|{{.Description}}|{{.Error}}
context inspect
context inspect aa ee nope
context inspect -f {{.Name}}={{.Endpoints.docker.Host}} aa
context rm aa
context rm -f aa
context show
context rm bb nope
context rm default
context use nope
context use cc
context show
context use default
context update cc --description new
context update cc --docker host=unix:///q
context update nope
context inspect cc
context export cc
context export cc
context export ee -
context import xx cc.dockercontext
context import xx cc.dockercontext
context import yy nofile
-c nope ps
-c cc -H unix:///x ps
-l loud ps
context create gg --docker from=cc
context update gg --docker from=ee
context update gg
context ls
context
"""


@pytest.mark.skipif(not shutil.which("docker"), reason="the docker client is not installed")
def test_output_and_stored_files_are_the_same_as_those_of_the_docker_client(tmp_path: Path) -> None:
    found = {}
    for name, program in (("docker", ["docker"]), ("orlop", [sys.executable, "-m", "orlop_cli"])):
        home = tmp_path / name
        home.mkdir()
        (home / "ca.pem").write_text("no certificate")
        found[name] = [_call(program, line.split(), home) for line in LINES.strip().split("\n")[:-1]]
        found[name] += [str(path.relative_to(home)) for path in sorted((home / "contexts").rglob("*"))]
        found[name].append(_plain("\n".join(path.read_text() for path in sorted(home.rglob("meta.json"))), home))
    for theirs, ours in zip(found["docker"], found["orlop"], strict=True):
        assert ours == theirs


def _call(program: list[str], words: list[str], home: Path) -> object:
    environment = {**os.environ, "DOCKER_CONFIG": str(home)}
    done = subprocess.run(
        [*program, *words], cwd=home, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    return words, done.returncode, _plain(done.stdout, home), _plain(done.stderr, home)


def _plain(text: str, home: Path) -> str:
    """The output without the names of the clients, their default sockets, and docker's hint to read its help."""
    text = text.replace(str(home), "HOME").replace("orlop: ", "").replace("unix:///var/run/docker.sock", "SOCKET")
    text = re.sub(r"\nSee 'docker .*' ?.*", "", text.replace(hosts.DEFAULT_HOST, "SOCKET"))
    return re.sub(r" {3,}", "   ", text).strip()


# --- ssh


def test_ssh_addresses_are_converted_to_ssh_commands() -> None:
    found = ssh_module.command(hosts.parse("ssh://me@host:2222/run/x.sock", False))
    assert found[:-1] == ["ssh", "-o", "ConnectTimeout=30", "-T", "-l", "me", "-p", "2222", "--", "host"]
    assert "--host unix:///run/x.sock system dial-stdio" in found[-1]
    assert ssh_module.command(hosts.parse("ssh://host", False))[4:6] == ["--", "host"]


@pytest.mark.parametrize(
    "text", ["ssh://", "ssh://me:secret@host", "ssh://host:x", "ssh://-oProxyCommand=x", "ssh://-l@host"]
)
def test_wrong_ssh_addresses_are_refused(text: str) -> None:
    with pytest.raises(CliError, match="unable to parse daemon host"):
        hosts.parse(text, False)


@pytest.fixture
def local_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `ssh` that runs the command on this machine, as sshd would: `sh -c COMMAND`."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "ssh").write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    (place / "orlop").write_text(f'#!/bin/sh\nexec {sys.executable} -m orlop_cli "$@"\n')
    for program in place.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return place


def test_commands_reach_a_daemon_by_ssh(run: Any, daemon: RecordedDaemon, local_ssh: Path) -> None:
    daemon.on("GET", "/containers/json", answer([]))
    assert run("-H", f"ssh://me@far{daemon.path}", "ps", "-q") == (0, "", "")
    assert daemon.seen() == ["GET /containers/json"]


def test_error_about_a_failed_ssh_command_contains_its_stderr(run: Any, local_ssh: Path) -> None:
    (local_ssh / "ssh").write_text("#!/bin/sh\necho 'Permission denied (publickey).' >&2\nexit 255\n")
    code, out, err = run("-H", "ssh://me@far", "ps")
    assert (code, out) == (1, "")
    assert "ssh to ssh://me@far has exited with exit status 255" in err and "Permission denied (publickey)." in err


def test_dial_stdio_copies_data_in_both_directions(daemon: RecordedDaemon, tmp_path: Path) -> None:
    daemon.on("GET", "/_ping", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK")
    command = [sys.executable, "-m", "orlop_cli", "-H", daemon.host, "system", "dial-stdio"]
    request = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
    done = subprocess.run(command, input=request, capture_output=True, timeout=30, check=True)
    assert done.stdout.endswith(b"\r\n\r\nOK")
