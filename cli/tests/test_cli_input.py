"""Invalid flag values, answers of the daemon, and members of config.json."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orlop_cli import _auth
from orlop_cli._errors import CliError
from orlop_cli.testing import RecordedDaemon, answer, chunked
from orlop_cli.values import units

pytestmark = pytest.mark.usefixtures("clean")

ID = "ab" * 32


@pytest.mark.parametrize("keys", [os.fsdecode(b"\xff"), "ctrl-p,é"])
def test_detach_keys_with_non_ascii_characters_are_refused(daemon: RecordedDaemon, orlop: Any, keys: str) -> None:
    done = orlop("run", "--detach-keys", keys, "x")
    assert (done.code, "invalid detach keys" in done.err, daemon.requests) == (125, True, [])


@pytest.mark.parametrize("text", ["inf", "-Infinity", "nan", "sNaN", "1e9999999999999", "1e400", "99999999999", "x"])
def test_value_of_the_cpus_flag_must_be_a_finite_number(text: str) -> None:
    with pytest.raises(ValueError, match="as a rational number"):
        units.parse_cpus(text)


@pytest.mark.parametrize("parse", [units.parse_bytes, units.parse_duration])
def test_huge_sizes_and_durations_are_refused(parse: Callable[[str], int]) -> None:
    with pytest.raises(ValueError, match="invalid"):
        parse("9" * 5000 + "m")


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
def test_invalid_http_status_and_chunk_size_are_reported(daemon: RecordedDaemon, orlop: Any, said: bytes) -> None:
    daemon.on("GET", "/containers/json", lambda connection, request: connection.sendall(said))
    done = orlop("ps")
    assert (done.code, done.err.count("\n")) == (1, 1)


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
    assert f"WARNING: Error loading config file: cannot read {tmp_path}/config.json: is a directory\n" in orlop("ps").err
    monkeypatch.setenv("DOCKER_CONFIG", "/dev/null")
    assert "WARNING: Error loading config file: cannot read /dev/null/config.json: not a directory\n" in orlop("ps").err


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
