"""Servers from which Dockerfiles fetch: files by HTTP, and a git repository by git's own server program."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from .cases.case import SERVED

__all__ = ["serve"]

_DATE = "Sun, 09 Sep 2001 01:46:40 GMT"
_GIT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "t"), ("EMAIL", "t@x"))},
    **{f"GIT_{who}_DATE": "2001-09-09T01:46:40Z" for who in ("AUTHOR", "COMMITTER")},
}


def _repository(directory: Path) -> None:
    """`repo.git` with the branches main and other."""
    work = directory / "work"

    def git(*words: str) -> None:
        env = {**os.environ, **_GIT}
        subprocess.run(["git", *words], cwd=work, env=env, check=True, stdout=subprocess.DEVNULL)

    (work / "sub").mkdir(parents=True)
    (work / "file").write_text("in main\n")
    (work / "sub" / "x").write_text("below\n")
    (work / "run.sh").write_text("#!/bin/sh\n")
    (work / "run.sh").chmod(0o755)
    (work / "link").symlink_to("file")
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    git("checkout", "-q", "-b", "other")
    (work / "sub" / "y").write_text("in other\n")
    git("add", ".")
    git("commit", "-q", "-m", "two")
    git("checkout", "-q", "main")
    git("clone", "-q", "--bare", ".", "../repo.git")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    directory: Path

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        found = urlsplit(self.path)
        if found.path.startswith("/git/"):
            self._git(found.path.removeprefix("/git"), found.query)
            return
        data = SERVED.get(found.path.lstrip("/"))
        self.send_response(404 if data is None else 200)
        body = b"" if data is None else data
        self.send_header("Content-Length", str(len(body)))
        if data is not None:
            self.send_header("Last-Modified", _DATE)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = _answer

    def _git(self, path: str, query: str) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        env = {
            **os.environ,
            **_GIT,
            "GIT_PROJECT_ROOT": str(self.directory),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(length),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(
            ["git", "http-backend"], input=self.rfile.read(length), env=env, stdout=subprocess.PIPE, check=False
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = [line.decode().partition(": ")[::2] for line in head.split(b"\r\n") if line]
        status = next((value for name, value in headers if name == "Status"), "200")
        self.send_response(int(status.split()[0]))
        for name, value in headers:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serve(directory: Path) -> Iterator[str]:
    """The address of a server on loopback, whose repository is made in `directory`."""
    _repository(directory)
    handler = type("Handler", (_Handler,), {"directory": directory})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
