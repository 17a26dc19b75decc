"""`cp` and related commands without a daemon: path rules, packing, malicious archives."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orlop_cli import __main__ as entry
from orlop_cli._errors import CliError
from orlop_cli.files import copy_rules as rules
from orlop_cli.files.copy_rules import Place, Source
from orlop_cli.files.pack import pack
from orlop_cli.files.unpack import unpack
from orlop_cli.testing import RecordedDaemon, answer, chunked


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordedDaemon]:
    for name in ("DOCKER_API_VERSION", "DOCKER_HOST", "ORLOP_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with RecordedDaemon(str(tmp_path / "d.sock")) as made:
        made.on("GET", "/_ping", answer())
        yield made


@pytest.fixture
def orlop(daemon: RecordedDaemon, capfd: pytest.CaptureFixture[str]) -> Any:
    def call(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            entry.main(["-H", daemon.host, *args])
        said = capfd.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


# --- path rules


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("web:/etc", ("web", "/etc")),
        ("web:etc/x", ("web", "etc/x")),
        ("web:", ("web", "")),
        (":/etc", ("", "/etc")),
        ("/a:b", ("", "/a:b")),
        ("./a:b", ("", "./a:b")),
        (".a:b", ("", ".a:b")),
        ("file", ("", "file")),
        ("-", ("", "-")),
        ("web:a:b", ("web", "a:b")),
    ],
)
def test_arguments_are_split_into_container_and_path(argument: str, found: tuple[str, str]) -> None:
    assert rules.split(argument) == found


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/a/b", ("/a", "b")),
        ("/a/b/", ("/a", "b")),
        ("/a/b/.", ("/a/b", ".")),
        ("/a//./b/../c", ("/a", "c")),
        ("/", ("/", "/")),
        ("/.", ("/", ".")),
        ("//a", ("/", "a")),
        ("a", (".", "a")),
        (".", (".", ".")),
    ],
)
def test_path_is_split_into_parent_and_name(path: str, found: tuple[str, str]) -> None:
    assert rules.parent_and_name(path) == found


@pytest.mark.parametrize(
    ("path", "target", "found"),
    [
        ("/a/l", "b", "/a/b"),
        ("/a/l", "../b", "/b"),
        ("/a/l", "/c/d", "/c/d"),
        ("/a/l/", "b", "/a/b/"),
        ("/a/l", "../../../b", "/b"),
    ],
)
def test_symlink_target_is_resolved_relative_to_the_directory_of_the_link(path: str, target: str, found: str) -> None:
    assert rules.link_target(path, target) == found


FILE, TREE, CONTENTS = Source(False, "f"), Source(True, "d"), Source(True, "")


@pytest.mark.parametrize(
    ("source", "place", "found"),
    [
        (FILE, Place("/w", True, True), ("/w", "f")),
        (FILE, Place("/w/g", True), ("/w", "g")),
        (FILE, Place("/w/g"), ("/w", "g")),
        (FILE, Place("/w/g/"), "no such directory"),
        (FILE, Place("/w/g/."), "no such directory"),
        (TREE, Place("/w", True, True), ("/w", "d")),
        (TREE, Place("/w/g", True), "cannot copy directory"),
        (TREE, Place("/w/g/"), ("/w", "g")),
        (CONTENTS, Place("/w", True, True), ("/w", "")),
        (CONTENTS, Place("/w/g"), ("/w", "g")),
    ],
)
def test_destination_of_cp_depends_on_whether_the_given_path_exists(
    source: Source, place: Place, found: tuple[str, str] | str
) -> None:
    if isinstance(found, str):
        with pytest.raises(CliError, match=found):
            rules.settle(source, place)
    else:
        assert rules.settle(source, place) == found


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["", "b"], "source can not be empty"),
        (["a", ""], "destination can not be empty"),
        (["a", "b"], "must specify at least one container source"),
        (["a:x", "b:y"], "copying between containers is not supported"),
        (["a:x", "/nosuch/y"], 'invalid output path: directory "/nosuch" does not exist'),
        (["a:x", "/dev/null"], 'invalid output path: "/dev/null" must be a directory or a regular file: got a device'),
    ],
)
def test_invalid_cp_arguments_send_no_request(daemon: RecordedDaemon, orlop: Any, args: list[str], text: str) -> None:
    assert orlop("cp", *args) == (1, "", f"orlop: {text}\n")
    assert daemon.requests == []


# --- archives


def archive(*entries: tuple[str, bytes | None] | tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for each in entries:
            if isinstance(each, tarfile.TarInfo):
                tar.addfile(each)
                continue
            name, content = each
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.mode, info.mtime, info.size = 0o755 if content is None else 0o640, 1_600_000_000, len(content or b"")
            tar.addfile(info, io.BytesIO(content or b""))
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def pieces(data: bytes, size: int = 700) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def test_packed_tree_is_unpacked_unchanged(tmp_path: Path) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out"
    (tree / "deep/er").mkdir(parents=True)
    out.mkdir()
    (tree / "big").write_bytes(os.urandom(3_000_000))
    (tree / "empty").touch()
    (tree / "big").chmod(0o4711)
    (tree / "deep").chmod(0o500)
    (tree / "deep/er").chmod(0o1777)
    (tree / "l").symlink_to("../anywhere")
    os.link(tree / "big", tree / "deep-link")
    os.mkfifo(tree / "pipe", 0o600)
    name = "näme " + "x" * 150 + os.fsdecode(b"\xff")
    (tree / name).write_text("long")
    os.utime(tree / "empty", (1_500_000_000, 1_500_000_000))
    unpack(pack(str(tree), "tree"), str(out), "tree", "copy")
    copy = out / "copy"
    assert (copy / "big").read_bytes() == (tree / "big").read_bytes()
    assert (copy / name).read_text() == "long"
    assert os.readlink(copy / "l") == "../anywhere"
    assert os.stat(copy / "big").st_ino == os.stat(copy / "deep-link").st_ino
    for entry_ in ("big", "deep", "deep/er", "pipe", "empty"):
        assert os.stat(copy / entry_).st_mode == os.stat(tree / entry_).st_mode
    assert os.stat(copy / "empty").st_mtime == 1_500_000_000
    (tree / "deep").chmod(0o700)
    (copy / "deep").chmod(0o700)


def test_unpacked_files_are_merged_into_an_existing_directory(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("stays")
    (tmp_path / "f").write_text("goes")
    before = os.stat(tmp_path).st_mode
    unpack(pieces(archive(("./", None), ("./f", b"new"), ("./d/", None), ("./d/x", b"x"))), str(tmp_path), "", "")
    assert ((tmp_path / "f").read_text(), (tmp_path / "d/x").read_text(), (tmp_path / "old").read_text()) == (
        "new",
        "x",
        "stays",
    )
    assert os.stat(tmp_path).st_mode == before


@pytest.mark.parametrize(
    "hostile",
    [
        [("top/../../escaped", b"x")],
        [("../escaped", b"x")],
        [("top/a", b"x"), ("elsewhere", b"x")],
        [link("top/l", "SECRET"), ("top/l/escaped", b"x")],
        [("top", None), link("top/l", ".."), ("top/l/escaped", b"x")],
        [link("top/h", "../secret", tarfile.LNKTYPE)],
        [link("top/h", "/etc/passwd", tarfile.LNKTYPE)],
        [link("top/l", "SECRET"), link("top/h", "top/l/file", tarfile.LNKTYPE)],
        [("top/d", None), ("top/d/x", b"x"), ("top/d", b"now a file")],
        [("top/f", b"x"), ("top/f", None)],
        [("top/f", b"x"), ("top/f/under", b"x")],
    ],
    ids=lambda entries: " ".join(str(getattr(e, "name", e)) for e in entries)[:40],
)
def test_hostile_archives_cannot_write_outside_the_destination(tmp_path: Path, hostile: list[Any]) -> None:
    secret, out = tmp_path / "secret", tmp_path / "out"
    secret.mkdir()
    out.mkdir()
    (secret / "file").write_text("of the host")
    for each in hostile:
        if isinstance(each, tarfile.TarInfo):
            each.linkname = each.linkname.replace("SECRET", str(secret))
    with pytest.raises(CliError):
        unpack(pieces(archive(*hostile)), str(out), "top", "top")
    assert sorted(os.listdir(tmp_path)) == ["out", "secret"]
    assert os.listdir(secret) == ["file"] and (secret / "file").read_text() == "of the host"
    assert os.stat(secret / "file").st_nlink == 1


def test_links_below_the_destination_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CliError, match="cannot overwrite non-directory"):
        unpack(pieces(archive(("d", None), ("d/x", b"x"))), str(tmp_path / "out"), "d", "d")
    (tmp_path / "out/f").symlink_to(tmp_path / "elsewhere/made")
    unpack(pieces(archive(("f", b"x"))), str(tmp_path / "out"), "f", "f")  # the link is replaced
    assert os.listdir(tmp_path / "elsewhere") == [] and (tmp_path / "out/f").read_text() == "x"


@pytest.mark.parametrize("cut", [0, 100, 512, 900, 1500])
def test_truncated_archives_are_refused(tmp_path: Path, cut: int) -> None:
    data = archive(("f", b"x" * 1000))[:cut]
    with pytest.raises(CliError, match="broken"):
        unpack(pieces(data), str(tmp_path), "f", "f")


def test_file_that_shrinks_while_it_is_packed_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * (3 << 20))
    stream = pack(str(path), "f")
    next(stream), next(stream)
    path.write_bytes(b"")
    with pytest.raises(CliError, match="became shorter"):
        list(stream)


# --- commands


def stat_header(mode: int, link: str = "") -> dict[str, str]:
    told = {"name": "n", "size": 1, "mode": mode, "mtime": "2020-01-01T00:00:00Z", "linkTarget": link}
    return {"X-Docker-Container-Path-Stat": base64.b64encode(json.dumps(told).encode()).decode()}


def test_cp_copies_files_out_of_a_container(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    daemon.on("GET", "/containers/web/archive", chunked([archive(("f", b"data"))], stat_header(0o644)))
    assert orlop("cp", "--quiet=false", "web:/etc/f", f"{tmp_path}/g") == (
        0,
        "",
        f"Successfully copied 10.2kB to {tmp_path}/g\n",
    )
    assert (tmp_path / "g").read_text() == "data"
    assert daemon.requests[0].target == "/v1.43/containers/web/archive?path=%2Fetc%2Ff"


def test_cp_follows_a_symlink_to_the_target_that_the_daemon_reports(
    daemon: RecordedDaemon, orlop: Any, tmp_path: Path
) -> None:
    daemon.on(
        "HEAD",
        "/containers/web/archive",
        answer(headers=stat_header(1 << 27 | 0o777, "one")).partition(b"\r\n\r\n")[0] + b"\r\n\r\n",
    )
    daemon.on("GET", "/containers/web/archive", chunked([archive(("one", b"data"))], stat_header(0o644)))
    assert orlop("cp", "-L", "web:/d/link", str(tmp_path))[0] == 0
    assert (tmp_path / "link").read_text() == "data"
    assert daemon.requests[1].target.endswith("?path=%2Fd%2Fone")


def test_cp_copies_files_into_a_container(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("data")
    daemon.on("HEAD", "/containers/web/archive", answer(status=404).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    daemon.on("PUT", "/containers/web/archive", answer())
    assert orlop("cp", "-a", f"{tmp_path}/f", "web:/w/g") == (0, "", "")
    put = daemon.find("PUT", "/containers/web/archive")
    assert put.target.endswith("?path=%2Fw&noOverwriteDirNonDir=true&copyUIDGID=true")
    assert put.headers["transfer-encoding"] == "chunked"


def test_failed_export_leaves_no_file(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal"
    daemon.on("GET", "/containers/web/export", lambda connection, request: connection.sendall(head))
    code, _, said = orlop("export", "-o", f"{tmp_path}/out/x.tar", "web")
    assert code == 1 and said.startswith("orlop: ") and os.listdir(tmp_path / "out") == []
    assert "does not exist" in orlop("export", "-o", "/nosuch/x", "web")[2]


def test_diff_prints_changes_and_commit_sends_its_flags(daemon: RecordedDaemon, orlop: Any) -> None:
    kinds = [{"Path": "/a", "Kind": 0}, {"Path": "/b", "Kind": 1}, {"Path": "/c", "Kind": 2}]
    daemon.on("GET", "/containers/web/changes", answer(kinds))
    assert orlop("diff", "web")[1] == "C /a\nA /b\nD /c\n"
    daemon.on("GET", "/containers/web/changes", chunked([b"null\n"]))
    assert orlop("container", "diff", "web")[:2] == (0, "")
    daemon.on("POST", "/commit", answer({"Id": "sha256:1"}, 201))
    assert (
        orlop("commit", "-p=false", "-c", "ENV A=1", "-c", "USER x", "-m", "why", "web", "reg:5000/a:b")[1] == "sha256:1\n"
    )
    target = daemon.find("POST", "/commit").target
    assert target.endswith(
        "?container=web&repo=reg%3A5000%2Fa&tag=b&comment=why&changes=ENV%20A%3D1&changes=USER%20x&pause=0"
    )
    assert orlop("commit", "web", "BAD")[0] == 1


def test_update_sends_limits_and_reports_failures(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("POST", "/containers/a/update", answer({"Warnings": ["no swap"]}))
    daemon.on("POST", "/containers/b/update", answer({"message": "no"}, 404))
    code, out, said = orlop("update", "-m", "64m", "--cpus", "1.5", "--restart", "on-failure:2", "a", "b")
    assert (code, out, said) == (1, "a\nno swap\n", "orlop: Error response from daemon: no\n")
    assert daemon.requests[0].json() == {
        "Memory": 64 << 20,
        "NanoCpus": 1_500_000_000,
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2},
    }
    assert orlop("update", "a") == (1, "", "orlop: you must provide one or more flags when using this command\n")
    assert orlop("update", "-m", "x", "a")[0] == 125
    assert orlop("update", "--restart", "on-failure:x", "a")[0] == 1


def test_history_prints_layers(daemon: RecordedDaemon, orlop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    steps = [
        {
            "Id": "sha256:" + "a" * 64,
            "Created": 1_600_000_000,
            "CreatedBy": "RUN\t" + "x" * 60,
            "Size": 1_234_567,
            "Comment": "c",
        },
        {"Id": "<missing>", "Created": 1_600_000_000, "CreatedBy": "", "Size": 0, "Comment": ""},
    ]
    daemon.on("GET", "/images/a/b:1/history", answer(steps))
    head, first, second, _ = orlop("history", "a/b:1")[1].split("\n")
    assert head.split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert (
        first.startswith("aaaaaaaaaaaa ") and "RUN " + "x" * 40 + "…" in first and "1.23MB" in first and first.endswith("c")
    )
    assert second.startswith("<missing>")
    assert orlop("image", "history", "-q", "--no-trunc", "a/b:1")[1].startswith("sha256:aaa")
    raw = orlop("history", "--human=false", "--format", "{{.CreatedSince}} {{.Size}}", "a/b:1")[1]
    assert raw.startswith("2020-09-13T12:26:40Z 1234567\n")
    assert "requires API version 1.48" in orlop("history", "--platform", "linux/arm64", "a/b:1")[2]


def test_ps_does_not_import_modules_of_cp(tmp_path: Path) -> None:
    """The modules that cp needs are imported only when it is called."""
    script = "import orlop_cli._root, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tarfile", "tempfile", "base64", "orlop_cli.files.unpack"} & set(loaded)
