"""A volume plugin with Docker's protocol, for tests: `python volume_plugin.py SOCKET HOME`.

A volume is a directory in HOME/volumes. At the first Mount of a volume, the plugin mounts this directory at HOME/mnt/NAME;
after the last Unmount, the plugin unmounts it. So a test sees a missing call as a mount that is left.

The plugin appends each request to HOME/calls as a line of JSON. HOME/faults may contain a JSON object that maps a method,
for example "VolumeDriver.Mount", to a fault (see `_FAULTS`) or to an object, which the plugin sends as its answer.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socketserver
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


class Refused(Exception):
    """An error that the plugin sends as `Err`."""


class Volumes:
    def __init__(self, home: Path) -> None:
        self._home = home
        self._users: dict[str, set[str]] = {}
        self._options: dict[str, dict[str, str]] = {}
        for name in ("volumes", "mnt"):
            (home / name).mkdir(exist_ok=True)

    def _volume(self, name: str) -> Path:
        path = self._home / "volumes" / name
        if not path.is_dir():
            raise Refused(f"no volume {name} here")
        return path

    def _mountpoint(self, name: str) -> str:
        return str(self._home / "mnt" / name) if self._users.get(name) else ""

    def create(self, body: Answer) -> Answer:
        options = body.get("Opts") or {}
        if options.get("bad"):
            raise Refused("the option bad is not allowed")
        (self._home / "volumes" / body["Name"]).mkdir(exist_ok=True)
        self._options[body["Name"]] = options
        return {}

    def remove(self, body: Answer) -> Answer:
        if self._users.get(body["Name"]):
            raise Refused("the volume is mounted")
        shutil.rmtree(self._volume(body["Name"]))
        return {}

    def mount(self, body: Answer) -> Answer:
        name, source = body["Name"], self._volume(body["Name"])
        users = self._users.setdefault(name, set())
        if not users:
            target = self._home / "mnt" / name
            target.mkdir(exist_ok=True)
            subprocess.run(["mount", "--bind", source, target], check=True)
        users.add(body["ID"])
        return {"Mountpoint": self._mountpoint(name)}

    def unmount(self, body: Answer) -> Answer:
        users = self._users.get(body["Name"], set())
        if body["ID"] not in users:
            raise Refused(f"{body['ID']} does not use {body['Name']}")
        users.discard(body["ID"])
        if not users:
            target = self._home / "mnt" / body["Name"]
            subprocess.run(["umount", target], check=True)
            target.rmdir()
        return {}

    def path(self, body: Answer) -> Answer:
        self._volume(body["Name"])
        return {"Mountpoint": self._mountpoint(body["Name"])}

    def _show(self, name: str) -> Answer:
        self._volume(name)
        return {"Name": name, "Mountpoint": self._mountpoint(name), "Status": {"users": len(self._users.get(name, ()))}}

    def get(self, body: Answer) -> Answer:
        return {"Volume": self._show(body["Name"])}

    def list(self, _: Answer) -> Answer:
        return {"Volumes": [self._show(name) for name in sorted(os.listdir(self._home / "volumes"))]}

    def capabilities(self, _: Answer) -> Answer:
        return {"Capabilities": {"Scope": "global"}}

    def activate(self, _: Answer) -> Answer:
        return {"Implements": ["VolumeDriver"]}


def _hang(_: Handler) -> None:
    time.sleep(3600)


def _huge(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" " * (1 << 20))


def _drip(handler: Handler) -> None:
    """Send a byte each tenth of a second, so that no single read is slow."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(36000):
        handler.wfile.write(b" ")
        time.sleep(0.1)


def _garbage(handler: Handler) -> None:
    handler.wfile.write(b"\x00\xff this is not HTTP\r\n\r\n")


def _text(handler: Handler) -> None:
    handler.answer(200, b"[this is not JSON")


def _close(_: Handler) -> None:
    pass


def _cut(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"Mount')


_FAULTS: dict[str, Callable[[Handler], None]] = {
    "hang": _hang,
    "huge": _huge,
    "drip": _drip,
    "garbage": _garbage,
    "text": _text,
    "close": _close,
    "cut": _cut,
}


class Handler(BaseHTTPRequestHandler):
    home: Path
    volumes: Volumes

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.docker.plugins.v1.2+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        method = self.path.strip("/")
        with open(self.home / "calls", "a") as file:
            file.write(json.dumps({"method": method, "body": data.decode(), "accept": self.headers["Accept"]}) + "\n")
        try:
            faults = json.loads((self.home / "faults").read_text())
        except FileNotFoundError:
            faults = {}
        fault = faults.get(method)
        if isinstance(fault, str):
            self.close_connection = True
            _FAULTS[fault](self)
        elif fault is not None:
            self.answer(500 if fault.get("Err") else 200, json.dumps(fault).encode())
        else:
            self._serve(method, json.loads(data) if data else {})

    def _serve(self, method: str, body: Answer) -> None:
        try:
            found = getattr(self.volumes, method.rpartition(".")[2].lower())(body)
        except Refused as error:
            self.answer(500, json.dumps({"Err": str(error)}).encode())
        except AttributeError:
            self.answer(404, b"404 page not found\n")
        else:
            self.answer(200, json.dumps({**found, "Err": ""}).encode())


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that has given up


def main(socket: str, home: str) -> None:
    Handler.home, Handler.volumes = Path(home), Volumes(Path(home))
    with Server(socket, Handler) as server:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
