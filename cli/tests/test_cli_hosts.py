"""Which daemon the client uses: contexts, addresses, and messages about an unreachable daemon."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from orlop_cli import __main__ as entry
from orlop_cli._errors import CliError
from orlop_cli.daemon import hosts
from orlop_cli.testing import RecordedDaemon, answer

pytestmark = pytest.mark.usefixtures("clean")


def config(tmp_path: Path, content: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))


def elsewhere(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as ended:
        entry.main(list(args))
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_missing_context_is_refused(
    daemon: RecordedDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hosts, "DEFAULT_HOST", daemon.host)
    daemon.on("DELETE", "/containers/web", answer(status=204))
    monkeypatch.setenv("DOCKER_CONTEXT", "prod")
    said = 'orlop: Failed to initialize: unable to resolve docker endpoint: context "prod": context not found: open '
    assert elsewhere(capsys, "rm", "web").startswith(said)
    monkeypatch.delenv("DOCKER_CONTEXT")
    config(tmp_path, {"currentContext": "prod"})
    assert elsewhere(capsys, "rm", "web").startswith(said)
    assert daemon.requests == []


@pytest.mark.parametrize("named", ["-H", "ORLOP_HOST", "DOCKER_HOST", "default"])
def test_host_given_by_flag_or_environment_overrides_the_docker_context(
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
def test_error_about_a_host_without_a_scheme_suggests_a_unix_address(text: str, meant: str) -> None:
    with pytest.raises(CliError) as caught:
        hosts.parse(text, tls=False)
    assert caught.value.message == f'unable to parse daemon host "{text}": did you mean unix://{meant}?'


@pytest.mark.parametrize("port", ["65536", "99999999999999999999", "²", "-1", ""])
def test_daemon_addresses_with_invalid_ports_are_refused(port: str) -> None:
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


def test_error_about_a_connection_refused_by_a_firewall_does_not_mention_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert unreachable("tcp://h:1").endswith("Is the daemon running?\n(operation not permitted)")


def test_error_about_an_unreachable_default_daemon_says_how_to_start_orlopd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "DEFAULT_HOST", "unix:///nosuch/orlop.sock")
    assert unreachable("unix:///nosuch/orlop.sock").endswith(
        "\nStart it with `systemctl start orlop` or `sudo orlopd`, or select another daemon with -H or ORLOP_HOST."
    )
