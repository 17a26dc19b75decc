"""`login` and `logout`: what is stored, in config.json or by a credential helper."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from orlop_cli.commands.login import registry_key
from orlop_cli.testing import RecordedDaemon, answer

pytestmark = pytest.mark.usefixtures("clean")

HELPER = """#!/bin/sh
echo "$1" >>"$LOG"
cat >>"$LOG"
echo >>"$LOG"
[ "$1" != get ] || echo '{"Username":"me","Secret":"secret"}'
"""
HUB = "https://index.docker.io/v1/"


@pytest.fixture(autouse=True)
def accepting(daemon: RecordedDaemon) -> None:
    daemon.on("POST", "/auth", answer({"Status": "Login Succeeded", "IdentityToken": ""}))


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credential helper that logs its calls; returns the log."""
    program = tmp_path / "docker-credential-test"
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    (tmp_path / "config.json").write_text('{"credsStore": "test", "psFormat": "x"}')
    return tmp_path / "log"


def stored(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "config.json").read_text())


def test_login_stores_credentials_and_logout_removes_them(orlop: Any, daemon: RecordedDaemon, tmp_path: Path) -> None:
    done = orlop("login", "-u", "me", "-p", "a:b", "https://reg.example:5000/v2/")
    assert (done.code, done.out) == (0, "Login Succeeded\n")
    assert "insecure" in done.err and "stored unencrypted" in done.err
    sent = {"username": "me", "password": "a:b", "serveraddress": "reg.example:5000"}
    assert daemon.find("POST", "/auth").json() == sent
    assert stored(tmp_path) == {"auths": {"reg.example:5000": {"auth": base64.b64encode(b"me:a:b").decode()}}}
    assert stat.S_IMODE((tmp_path / "config.json").stat().st_mode) == 0o600
    daemon.on("POST", "/images/create", answer({"status": "done"}))
    orlop("pull", "reg.example:5000/x")
    header = daemon.find("POST", "/images/create").headers["x-registry-auth"]
    assert json.loads(base64.urlsafe_b64decode(header)) == sent
    assert orlop("logout", "reg.example:5000").out == "Removing login credentials for reg.example:5000\n"
    assert stored(tmp_path) == {"auths": {}}


def test_login_reads_the_password_from_stdin(orlop: Any, daemon: RecordedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("secret\n"))
    assert orlop("login", "-u", "me", "--password-stdin").code == 0
    assert daemon.find("POST", "/auth").json() == {"username": "me", "password": "secret", "serveraddress": HUB}


def test_refused_login_stores_nothing(orlop: Any, daemon: RecordedDaemon, tmp_path: Path) -> None:
    daemon.on("POST", "/auth", answer({"message": "unauthorized"}, 401))
    assert orlop("login", "-u", "me", "-p", "x", "reg").err.endswith("Error response from daemon: unauthorized\n")
    assert not (tmp_path / "config.json").exists()


def test_identity_token_replaces_the_password(orlop: Any, daemon: RecordedDaemon, tmp_path: Path) -> None:
    daemon.on("POST", "/auth", answer({"Status": "Login Succeeded", "IdentityToken": "tok"}))
    orlop("login", "-u", "me", "-p", "secret", "reg")
    assert stored(tmp_path)["auths"]["reg"]["identitytoken"] == "tok"
    assert "secret" not in base64.b64decode(stored(tmp_path)["auths"]["reg"]["auth"]).decode()


def test_credential_helper_stores_credentials(orlop: Any, daemon: RecordedDaemon, helper: Path, tmp_path: Path) -> None:
    assert orlop("login", "-u", "me", "-p", "secret", "reg").code == 0
    assert helper.read_text() == 'store\n{"ServerURL":"reg","Username":"me","Secret":"secret"}\n'
    assert stored(tmp_path) == {"auths": {"reg": {}}, "credsStore": "test", "psFormat": "x"}
    assert orlop("login", "reg").out == "Authenticating with existing credentials...\nLogin Succeeded\n"
    orlop("logout", "reg")
    assert "erase\nreg\n" in helper.read_text()
    assert stored(tmp_path)["auths"] == {}


def test_missing_credential_helper_makes_a_login_fail_but_not_a_pull(
    orlop: Any, daemon: RecordedDaemon, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "absent"}')
    done = orlop("login", "-u", "me", "-p", "secret", "reg")
    assert done.code == 1 and 'exec: "docker-credential-absent": executable file not found' in done.err
    assert stored(tmp_path) == {"credsStore": "absent"}
    daemon.on("POST", "/images/create", answer({"status": "done"}))
    done = orlop("pull", "reg.example/x")
    assert done.code == 0 and "docker-credential-absent is not installed" in done.err
    assert "x-registry-auth" not in daemon.find("POST", "/images/create").headers


def test_invalid_config_json_causes_a_warning_and_is_not_overwritten(
    orlop: Any, daemon: RecordedDaemon, tmp_path: Path
) -> None:
    """If config.json is not valid JSON, commands print a warning, and a login fails and does not overwrite the file."""
    (tmp_path / "config.json").write_text("{broken")
    daemon.on("GET", "/containers/json", answer([]))
    done = orlop("ps", "-q")
    assert done.code == 0 and "WARNING: Error loading config file" in done.err
    done = orlop("login", "-u", "me", "-p", "x", "reg")
    assert done.code == 1 and (tmp_path / "config.json").read_text() == "{broken"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-u", "me"], "Cannot perform an interactive login from a non TTY device"),
        (["--password-stdin"], "Must provide --username with --password-stdin"),
        (["-u", "me", "-p", "x", "--password-stdin"], "--password and --password-stdin are mutually exclusive"),
    ],
)
def test_login_with_wrong_flags_sends_no_request(
    orlop: Any, daemon: RecordedDaemon, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    done = orlop("login", *words, "reg")
    assert done.code == 1 and message in done.err
    assert daemon.requests == []


@pytest.mark.parametrize(
    ("server", "key"),
    [("", HUB), ("docker.io", HUB), ("http://reg:5000", "reg:5000"), ("https://reg/v1/", "reg"), ("ghcr.io", "ghcr.io")],
)
def test_credentials_are_stored_under_the_normalized_name_of_the_registry(server: str, key: str) -> None:
    """The key in config.json under which the credentials of a registry are stored."""
    assert registry_key(server) == key


def test_search_results_are_sorted_by_stars(orlop: Any, daemon: RecordedDaemon) -> None:
    found = [
        {"name": "few", "description": "a" * 60, "star_count": 1, "is_official": False},
        {"name": "many", "description": "two\nlines", "star_count": 9, "is_official": True},
    ]
    daemon.on("GET", "/images/search", answer(found))
    lines = orlop("search", "--limit", "5", "term").out.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "many", "few"]
    assert lines[1].split() == ["many", "two", "lines", "9", "[OK]"] and "a" * 44 + "…" in lines[2]
    assert daemon.find("GET", "/images/search").target.endswith("/images/search?term=term&limit=5")


def test_checkpoints_are_created_listed_removed_and_started(orlop: Any, daemon: RecordedDaemon) -> None:
    daemon.on("POST", "/containers/web/checkpoints", answer(None, 201))
    daemon.on("GET", "/containers/web/checkpoints", answer([{"Name": "c1"}]))
    daemon.on("DELETE", "/containers/web/checkpoints/c1", answer(status=204))
    daemon.on("POST", "/containers/web/start", answer(status=204))
    assert orlop("checkpoint", "create", "--leave-running", "web", "c1").out == "c1\n"
    body = daemon.find("POST", "/containers/web/checkpoints").json()
    assert body == {"CheckpointID": "c1", "CheckpointDir": "", "Exit": False}
    assert orlop("checkpoint", "ls", "--checkpoint-dir", "/d", "web").out == "CHECKPOINT NAME\nc1\n"
    assert daemon.find("GET", "/containers/web/checkpoints").target.endswith("?dir=%2Fd")
    assert orlop("checkpoint", "rm", "web", "c1").code == 0
    assert orlop("start", "--checkpoint", "c1", "web").code == 0
    assert daemon.find("POST", "/containers/web/start").target.endswith("?checkpoint=c1")
