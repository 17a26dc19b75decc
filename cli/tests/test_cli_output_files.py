"""Files that the client reads and writes: exports, saved images, debug bundles, cidfiles, env files."""

from __future__ import annotations

import base64
import errno
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from orlop_cli._errors import CliError
from orlop_cli.commands import bundle
from orlop_cli.files import outputs
from orlop_cli.testing import RecordedDaemon, answer, chunked

pytestmark = pytest.mark.usefixtures("clean")

ID = "ab" * 32


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


def test_save_command_leaves_either_a_complete_file_or_no_file(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
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


def test_export_to_a_symlink_replaces_the_target_and_keeps_the_link(
    daemon: RecordedDaemon, orlop: Any, tmp_path: Path
) -> None:
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
        "orlop: lost the connection to the daemon:  connection closed in the middle of an answer\n",
    )
    assert os.listdir(tmp_path) == before


def test_export_checks_its_output_path_before_it_sends_a_request(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone/x")
    done = orlop("export", "-o", str(tmp_path / "link"), "web")
    assert (done.code, done.err) == (1, f"orlop: cannot write {tmp_path}/link: no such file or directory\n")
    assert daemon.requests == []


def test_incomplete_output_file_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert orlop("debug", "bundle", "-o", str(path)).err == f"orlop: cannot write {path}: the file already exists\n"
    assert orlop("debug", "bundle", "-o", "/nosuch/x").err == "orlop: cannot write /nosuch/x: no such file or directory\n"
    assert daemon.requests == []


@pytest.mark.parametrize("command", ["create", "run"])
def test_no_container_is_created_if_the_cidfile_cannot_be_written(
    daemon: RecordedDaemon, orlop: Any, tmp_path: Path, command: str
) -> None:
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


def test_error_about_an_unwritable_cidfile_contains_the_container_id(
    daemon: RecordedDaemon, orlop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs, "write_all", full)
    daemon.on("POST", "/containers/create", answer({"Id": ID}, 201))
    done = orlop("create", "--cidfile", f"{tmp_path}/cid", "x")
    said = f"cannot write {tmp_path}/cid: no space left on device; container {ID} has been created"
    assert (done.code, done.err) == (125, f"orlop: {said}\n")
    assert not (tmp_path / "cid").exists()


def test_env_and_label_files_are_split_into_lines_as_by_docker(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    daemon.on("POST", "/containers/create", answer({"Id": ID}, 201))
    (tmp_path / "env").write_bytes("\ufeffA=a\fb\u2028c\x85d\x1ee\rf\r\n  B=b\r\r\n\n#C=c\nD=d".encode())
    assert orlop("create", "--env-file", f"{tmp_path}/env", "--label-file", f"{tmp_path}/env", "x").code == 0
    made = daemon.find("POST", "/containers/create").json()
    assert made["Env"] == ["A=a\fb\u2028c\x85d\x1ee\rf", "B=b\r", "D=d"]
    assert made["Labels"] == dict(item.split("=", 1) for item in made["Env"])
