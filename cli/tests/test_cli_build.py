"""`orlop build` and docker's CLI plugins."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from orlop_cli import _config, _plugins
from orlop_cli._errors import CliError
from orlop_cli.files import context as contexts
from orlop_cli.testing import RecordedDaemon, Request, answer, chunked
from orlop_cli.values.ignore import Ignore, parse

pytestmark = pytest.mark.usefixtures("clean")

IMAGE = "sha256:" + "12ab" * 16
BUILT = [
    b'{"stream":"Step 1/1 : FROM busybox\\n"}\n',
    b'{"aux":{"ID":"' + IMAGE.encode() + b'"}}\n',
    b'{"stream":"Successfully built 12ab12ab12ab\\n"}\n',
]


@pytest.fixture(autouse=True)
def uncached() -> None:
    _config.forget()


def plugin(directory: Path, name: str) -> None:
    """A plugin that prints how it was called."""
    path = directory / "cli-plugins" / f"docker-{name}"
    path.parent.mkdir(exist_ok=True)
    lines = (
        "#!/bin/sh",
        'echo "$0" "$@" "$DOCKER_HOST" "${DOCKER_CONTEXT-unset}"',
        '[ "$DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND" ] || echo "called by nobody"',
        "exit 7",
    )
    path.write_text("\n".join((*lines, "")))
    path.chmod(0o755)


def called(directory: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the client in a new process, because a plugin may replace the process."""
    env = {"PATH": os.environ["PATH"], "DOCKER_CONFIG": str(directory), **environment}
    return subprocess.run([sys.executable, "-m", "orlop_cli", *words], env=env, capture_output=True, text=True, check=False)


def members(body: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        return {member.name: member for member in archive.getmembers()}


def query(request: Request) -> dict[str, list[str]]:
    return urllib.parse.parse_qs(urllib.parse.urlsplit(request.target).query)


# --- build ------------------------------------------------------------------------------------------------------------


def test_directory_is_sent_as_the_context(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    daemon.on("GET", "/_ping", answer())
    daemon.on("POST", "/build", chunked(BUILT))
    context = tmp_path / "context"
    (context / "sub").mkdir(parents=True)
    (context / "Dockerfile").write_text("FROM busybox\n")
    (context / "sub" / "f").write_text("x")
    (context / "secret").write_text("x")
    (context / ".dockerignore").write_text("# none\nsecret\nDockerfile\n")
    done = orlop(
        *(
            "build",
            "-t",
            "app:1",
            "-t",
            "b",
            "--build-arg",
            "A=1",
            "--label",
            "l=m",
            "--target",
            "x",
            "--no-cache",
            "--pull",
        ),
        *("--add-host", "h:10.0.0.1", "--ulimit", "nofile=5", "--network", "none", "-m", "64m", "--platform", "linux/amd64"),
        *("--iidfile", str(tmp_path / "id"), str(context)),
    )
    assert done.code == 0, done.err
    assert done.out == "Step 1/1 : FROM busybox\nSuccessfully built 12ab12ab12ab\n"
    assert (tmp_path / "id").read_text() == IMAGE
    request = daemon.find("POST", "/build")
    found = members(request.body)
    assert set(found) == {".dockerignore", "Dockerfile", "sub", "sub/f"}, "the daemon needs what names itself ignored"
    assert {(member.uid, member.gid) for member in found.values()} == {(0, 0)}
    asked = query(request)
    assert asked["t"] == ["app:1", "b"] and asked["memory"] == [str(64 << 20)]
    assert (asked["target"], asked["nocache"], asked["pull"], asked["networkmode"]) == (["x"], ["1"], ["1"], ["none"])
    assert json.loads(asked["buildargs"][0]) == {"A": "1"} and json.loads(asked["labels"][0]) == {"l": "m"}
    assert asked["extrahosts"] == ["h:10.0.0.1"] and json.loads(asked["ulimits"][0])[0]["Hard"] == 5
    assert asked["platform"] == ["linux/amd64"] and "dockerfile" not in asked


def test_failed_build_prints_its_error(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    daemon.on("GET", "/_ping", answer())
    daemon.on(
        "POST", "/build", chunked([b'{"errorDetail":{"message":"The command failed"},"error":"The command failed"}\n'])
    )
    done = orlop("build", str(tmp_path))
    assert (done.code, done.err) == (1, "orlop: The command failed\n")


def test_quiet_build_prints_only_the_image_id(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    daemon.on("GET", "/_ping", answer())
    daemon.on("POST", "/build", chunked([b'{"stream":"' + IMAGE.encode() + b'\\n"}\n']))
    done = orlop("build", "-q", str(tmp_path))
    assert (done.code, done.out) == (0, f"{IMAGE}\n")
    assert query(daemon.find("POST", "/build"))["q"] == ["1"]


def test_remote_context_is_sent_as_a_parameter(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("GET", "/_ping", answer())
    daemon.on("POST", "/build", chunked(BUILT))
    assert orlop("build", "-f", "D", "https://host/x.git").code == 0
    request = daemon.find("POST", "/build")
    assert query(request)["remote"] == ["https://host/x.git"] and query(request)["dockerfile"] == ["D"]
    assert request.body == b""


def test_stored_credentials_are_sent_with_a_build(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    daemon.on("GET", "/_ping", answer())
    daemon.on("POST", "/build", chunked(BUILT))
    auth = base64.b64encode(b"u:p").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"host:5000": {"auth": auth}}}))
    assert orlop("build", str(tmp_path)).code == 0
    header = daemon.find("POST", "/build").headers["x-registry-config"]
    assert json.loads(base64.urlsafe_b64decode(header)) == {"host:5000": {"username": "u", "password": "p"}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/nosuch/x"], "unable to prepare context: path '/nosuch/x': no such file or directory"),
        (["/etc/passwd"], "context must be a directory"),
        (["-f", "-", "-"], "can't use stdin for both build context and dockerfile"),
        (["-t", "AAA", "/"], "must be lowercase"),
        (["-f", "/nosuch", "/etc"], "unable to prepare context: /nosuch: no such file or directory"),
        ([], "'orlop build' requires 1 argument"),
    ],
)
def test_build_with_invalid_arguments_sends_no_request(
    daemon: RecordedDaemon, orlop: Any, words: list[str], message: str
) -> None:
    done = orlop("build", *words)
    assert done.code in (1, 125) and message in done.err
    assert daemon.requests == []


# --- contexts ---------------------------------------------------------------------------------------------------------


def body(context: contexts.Context) -> bytes:
    assert context.body is not None
    return b"".join(context.body)


def test_dockerfile_outside_the_context_is_added_to_the_sent_archive(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "D").write_text("FROM other\n")
    found = contexts.of_directory(str(tmp_path / "c"), str(tmp_path / "D"))
    assert found.dockerfile.startswith(".dockerfile.")
    with tarfile.open(fileobj=io.BytesIO(body(found))) as archive:
        member = archive.extractfile(found.dockerfile)
        assert member is not None and member.read() == b"FROM other\n"


def test_path_of_a_dockerfile_in_the_context_is_sent_relative_to_the_context(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "D").write_text("FROM x\n")
    assert contexts.of_directory(str(tmp_path), str(tmp_path / "sub" / "D")).dockerfile == "sub/D"
    assert contexts.of_directory(str(tmp_path), "sub/D").dockerfile == "sub/D"


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_standard_input_may_contain_a_dockerfile_or_a_tar_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(b"FROM x\n"))
    assert set(members(body(contexts.of_stdin("")))) == {"Dockerfile"}
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("f"))
    monkeypatch.setattr("sys.stdin", Stdin(made.getvalue()))
    assert body(contexts.of_stdin("D")) == made.getvalue()
    monkeypatch.setattr("sys.stdin", Stdin(b"FROM x\n"))
    with pytest.raises(CliError, match="ambiguous Dockerfile source"):
        contexts.of_stdin("D")


@pytest.mark.parametrize(
    ("patterns", "excluded", "included"),
    [
        ("*.o", ["a.o"], ["sub/a.o", "a.c"]),
        ("**/*.o", ["a.o", "sub/deep/a.o"], ["a.c"]),
        ("sub", ["sub", "sub/x/y"], ["subway"]),
        ("/sub/", ["sub/x"], ["x/sub"]),
        ("*\n!keep", ["x", "keeper"], ["keep", "keep/x"]),
        ("sub\n!sub/a\nsub/a/b", ["sub/x", "sub/a/b"], ["sub/a", "sub/a/c"]),
        ("a?c[0-9]", ["abc1"], ["ac1", "abcx"]),
        ("a[^b]", ["ac"], ["ab"]),
        ("\\*", ["*"], ["x"]),
        ("a/**/b", ["a/b", "a/x/y/b"], ["ab"]),
        ("# comment\n\n  x  \r\n", ["x"], ["# comment"]),
        ("./y/../z", ["z"], ["y"]),
    ],
)
def test_dockerignore_patterns_exclude_files(patterns: str, excluded: list[str], included: list[str]) -> None:
    ignore = Ignore(parse(patterns.encode()))
    assert [path for path in excluded if not ignore.excludes(path)] == []
    assert [path for path in included if ignore.excludes(path)] == []


@pytest.mark.parametrize("pattern", ["!", "a[", "a\\"])
def test_invalid_ignore_pattern_is_refused(tmp_path: Path, pattern: str) -> None:
    (tmp_path / ".dockerignore").write_text(pattern)
    with pytest.raises(CliError, match=r"cannot read \.dockerignore"):
        contexts.of_directory(str(tmp_path), "")


def test_ignored_directory_is_not_read(tmp_path: Path) -> None:
    """An ignored directory is read only if an exception pattern may include one of its files."""
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "f").write_text("x")
    (tmp_path / ".dockerignore").write_text("big\n")
    listed: list[str] = []
    listdir = os.listdir

    def counted(path: Any) -> list[str]:
        listed.append(os.fspath(path))
        return listdir(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "listdir", counted)
        assert set(members(body(contexts.of_directory(str(tmp_path), "")))) == {".dockerignore"}
        assert str(tmp_path / "big") not in listed
        (tmp_path / ".dockerignore").write_text("big\n!big/f\n")
        assert set(members(body(contexts.of_directory(str(tmp_path), "")))) == {".dockerignore", "big/f"}


# --- plugins ----------------------------------------------------------------------------------------------------------


def test_unknown_command_runs_the_cli_plugin_with_the_same_name(tmp_path: Path) -> None:
    plugin(tmp_path, "mine")
    done = called(tmp_path, "-H", "unix:///x.sock", "mine", "-f", "a", "--help", "b")
    path = tmp_path / "cli-plugins" / "docker-mine"
    assert (done.returncode, done.stdout) == (7, f"{path} mine -f a --help b unix:///x.sock unset\n")
    assert called(tmp_path, "other").returncode == 1


def test_plugin_gets_the_selected_docker_context_or_host(tmp_path: Path) -> None:
    plugin(tmp_path, "mine")
    words = ["context", "create", "far", "--docker", "host=unix:///far.sock"]
    assert called(tmp_path, *words).returncode == 0
    assert called(tmp_path, "-c", "far", "mine").stdout.split()[1:] == ["mine", "far"]
    assert called(tmp_path, "mine", DOCKER_CONTEXT="far").stdout.split()[1:] == ["mine", "far"]
    done = called(tmp_path, "mine", DOCKER_CONTEXT="far", DOCKER_HOST="unix:///x")
    assert done.stdout.split()[1:] == ["mine", "unix:///x", "unset"]
    assert "context not found" in called(tmp_path, "-c", "gone", "mine").stderr


def test_build_runs_buildx_if_it_is_installed(tmp_path: Path) -> None:
    plugin(tmp_path, "buildx")
    host = "unix:///x.sock"
    done = called(tmp_path, "build", "-t", "x", ".", ORLOP_HOST=host, DOCKER_CONTEXT="other")
    assert done.stdout.split()[1:] == ["buildx", "build", "-t", "x", ".", host, "unset"]
    assert called(tmp_path, "builder", "prune", ORLOP_HOST=host).stdout.split()[1:] == ["buildx", "prune", host, "unset"]
    assert called(tmp_path, "buildx", "du", ORLOP_HOST=host).stdout.split()[1:] == ["buildx", "du", host, "unset"]
    done = called(tmp_path, "build", "/nosuch", ORLOP_HOST=host, DOCKER_BUILDKIT="0")
    assert "unable to prepare context" in done.stderr


def test_missing_buildx_is_reported_if_buildkit_is_required(orlop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "1")
    done = orlop("build", ".")
    assert done.code == 1 and "docker's buildx plugin is not installed (Debian: docker-buildx)" in done.err
    monkeypatch.setenv("DOCKER_BUILDKIT", "maybe")
    assert "expects boolean value" in orlop("build", ".").err


def test_error_about_a_missing_plugin_contains_its_debian_package(orlop: Any) -> None:
    for name in ("buildx", "compose"):
        done = orlop(name, "x")
        assert done.code == 1 and f"(Debian: docker-{name})" in done.err


def test_plugins_are_found_in_dockers_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(tmp_path, "one")
    (tmp_path / "cli-plugins" / "docker-two").write_text("")  # not executable
    (tmp_path / "cli-plugins" / "docker-Three").write_text("")
    (tmp_path / "cli-plugins" / "docker-four").mkdir()
    assert _plugins.installed() == ["one"]
    assert _plugins.find("../x") is None


def test_plugin_is_not_run_if_tls_files_are_given_by_flags(tmp_path: Path) -> None:
    plugin(tmp_path, "mine")
    done = called(tmp_path, "-H", "tcp://h:1", "--tls", "--tlscacert", "/ca", "mine")
    assert done.returncode == 1 and "DOCKER_CERT_PATH" in done.stderr


def test_builder_prune_works_without_buildx(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("POST", "/build/prune", answer({"CachesDeleted": ["a"], "SpaceReclaimed": 1000}))
    done = orlop("builder", "prune", "-f", "-a", "--keep-storage", "1k")
    assert (done.code, done.out) == (0, "Deleted build cache objects:\na\n\nTotal:\t1kB\n")
    assert query(daemon.find("POST", "/build/prune")) == {"all": ["1"], "keep-storage": ["1024"]}
