"""Files by HTTP and git repositories, from servers on this machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio

from orlop_build_dockerfile.contracts import BuildFailed, Settings
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.solver import open_solver
from orlop_build_dockerfile.solver.service import LLBSolver
from orlop_build_dockerfile.testing import FakeBackend, FakeBuild, FakeSession, Llb
from orlop_sdk import StorageContext
from orlop_sdk.testing import FakeStorage


class Server(ThreadingHTTPServer):
    content = b"hello"
    answers: list[int]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        etag = hashlib.sha256(self.server.content).hexdigest()
        status = 404 if self.path == "/none" else 304 if self.headers.get("If-None-Match") == etag else 200
        self.server.answers.append(status)
        self.send_response(status)
        self.send_header("ETag", etag)
        self.send_header("Last-Modified", "Sun, 09 Sep 2001 01:46:40 GMT")
        self.send_header("Content-Length", str(len(self.server.content) if status == 200 else 0))
        self.end_headers()
        if status == 200:
            self.wfile.write(self.server.content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def solve(tmp_path: Path, test: Callable[[LLBSolver, FakeSession], Awaitable[None]]) -> None:
    async def main() -> None:
        backend = FakeBackend(FakeStorage(StorageContext(str(tmp_path / "storage"))))
        async with open_solver(backend, Settings(root=str(tmp_path / "build"), version="1")) as solver:
            await test(solver, FakeSession({}))
        assert not [name for name in os.listdir(tmp_path / "build") if name.startswith("unpack-")]

    for name in ("storage", "build"):
        (tmp_path / name).mkdir()
    trio.run(main)


async def fetch(solver: LLBSolver, session: FakeSession, identifier: str, path: str, **attrs: str) -> Any:
    llb = Llb()
    named = {name.replace("_", "."): value for name, value in attrs.items()}
    output = llb.add(ops_pb2.Op(source=ops_pb2.SourceOp(identifier=identifier, attrs=named)), name="source"), 0
    build = FakeBuild(session)
    async with solver.open(build) as job:
        ref = job.define(llb.define(output))
        stat = await job.stat(ref, path)
        return (await job.read_file(ref, path), stat, build.progress.cached()["source"])


def test_http_source_is_revalidated_by_etag(tmp_path: Path, server: Server) -> None:
    async def test(solver: LLBSolver, session: FakeSession) -> None:
        content, stat, cached = await fetch(solver, session, f"{server.url}/dir/name.txt?x=1", "/name.txt")
        assert (content, stat.mode, stat.modTime, cached) == (b"hello", 0o600, 1_000_000_000 * 10**9, False)
        assert (await fetch(solver, session, f"{server.url}/dir/name.txt?x=1", "/name.txt"))[2]
        assert server.answers == [200, 304]
        server.content = b"changed"
        assert (await fetch(solver, session, f"{server.url}/dir/name.txt?x=1", "/name.txt"))[0] == b"changed"
        server.content = b"hello"
        await fetch(solver, session, f"{server.url}/dir/name.txt?x=1", "/name.txt")
        assert len([record for record in await solver.usage(()) if record.kind == "regular"]) == 2

    solve(tmp_path, test)


def test_http_source_with_checksum_is_verified_and_not_requested_again(tmp_path: Path, server: Server) -> None:
    async def test(solver: LLBSolver, session: FakeSession) -> None:
        checksum = "sha256:" + hashlib.sha256(b"hello").hexdigest()
        options = {"http_checksum": checksum, "http_filename": "f", "http_perm": "0755"}
        content, stat, _ = await fetch(solver, session, f"{server.url}/x", "/f", **options)
        assert content == b"hello" and stat.mode == 0o755
        assert (await fetch(solver, session, f"{server.url}/x", "/f", **options))[2]
        assert server.answers == [200]
        with pytest.raises(BuildFailed, match="digest mismatch"):
            await fetch(solver, session, f"{server.url}/x", "/f", http_checksum="sha256:" + "0" * 64)
        with pytest.raises(BuildFailed, match="invalid response status 404"):
            await fetch(solver, session, f"{server.url}/none", "/f")

    solve(tmp_path, test)


def test_uploaded_contexts_are_not_shared_between_clients(tmp_path: Path) -> None:
    """Each build gets the context that its client sends, although the address is the same."""

    async def test(solver: LLBSolver, session: FakeSession) -> None:
        for content in (b"one" * 1000, b"two", b"one" * 1000):
            session.uploads["context"] = content
            found, _, _ = await fetch(solver, session, "http://buildkit-session/context", "/context")
            assert found == content
        assert len([record for record in await solver.usage(()) if record.kind == "regular"]) == 2, "by content"
        with pytest.raises(BuildFailed, match="nothing to upload"):
            await fetch(solver, session, "http://buildkit-session/other", "/other")

    solve(tmp_path, test)


@contextmanager
def repository(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A repository and its address, served by git's own daemon."""
    work = tmp_path / "served" / "repo"
    work.mkdir(parents=True)
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.c"}
    env |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b.c"}

    def run(*words: str) -> None:
        subprocess.run(["git", *words], cwd=work, check=True, env=env, capture_output=True)

    run("init", "-q", "-b", "main")
    (work / "sub").mkdir()
    (work / "sub" / "f").write_text("one")
    run("add", ".")
    run("commit", "-qm", "one")
    run("tag", "-a", "v1", "-m", "v1")
    (work / "sub" / "f").write_text("two")
    run("commit", "-qam", "two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--reuseaddr", "--export-all", "--listen=127.0.0.1", f"--port={port}", f"--base-path={tmp_path}/served"]
    process = subprocess.Popen(["git", "daemon", *options], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(1000):
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield f"git://127.0.0.1:{port}/repo", work
    finally:
        os.killpg(process.pid, 15)
        process.wait()


@pytest.mark.skipif(not shutil.which("git"), reason="no git")
def test_git_source_checks_out_branches_tags_and_commits(tmp_path: Path) -> None:
    async def test(solver: LLBSolver, session: FakeSession) -> None:
        name = remote.partition("://")[2]

        async def get(fragment: str, path: str, **attrs: str) -> Any:
            return await fetch(solver, session, f"git://{name}{fragment}", path, git_fullurl=remote, **attrs)

        content, _, cached = await get("", "/sub/f")
        assert content == b"two" and not cached
        assert (await get("#main", "/sub/f"))[2]  # the same commit
        assert (await get("#v1:sub", "/f"))[0] == b"one"
        with pytest.raises(BuildFailed, match="no such file"):
            await get("", "/.git/HEAD")
        assert await get("", "/.git/HEAD", git_keepgitdir="true")
        with pytest.raises(BuildFailed, match="does not contain ref nothing"):
            await get("#nothing", "/f")
        with pytest.raises(BuildFailed, match="subdir none does not exist"):
            await get("#main:none", "/f")
        for bad in (f"file://{work}", str(work), "ext::sh -c true", "--upload-pack=x"):
            with pytest.raises(BuildFailed, match="invalid git source"):
                await fetch(solver, session, f"git://{name}", "/f", git_fullurl=bad)
        with pytest.raises(BuildFailed, match="invalid git source"):
            await get("#--upload-pack=x", "/f")

    with repository(tmp_path) as (remote, work):
        solve(tmp_path, test)
