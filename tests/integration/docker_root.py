"""A Docker root made by a real dockerd, for the tests of its adoption. The dockerd has its own roots, socket, pid file and
bridge.

`Dockerd` may be started and stopped any number of times on the same root. `fill` makes images, containers, volumes and
networks of every kind that an adoption treats differently.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tests.integration.engine import BUSYBOX, archive, free_subnets, until
from tests.registry import Blob, Image, busybox, docker_archive, image, layer

__all__ = ["APP", "MAC", "Dockerd", "app", "differences", "snapshot"]

APP = "reg.example/app:1"
MAC = "02:42:0a:00:00:99"
_SLEEP = ("sleep", "1000")
_HEALTH = ("--health-cmd", "true", "--health-interval", "1h")


@cache
def _layers() -> tuple[Blob, Blob, Blob]:
    """Layers with whiteouts, hard links and symlinks."""
    one = layer({"d": None, "d/file": b"1" * 5000, "d/hard": ("hard", "d/file"), "d/link": "file"})
    return layer(busybox()), one, layer({"d/.wh.file": b"", "d/new": b"new"})


def app() -> Image:
    """The image `APP`."""
    config = {"Labels": {"k": "v"}, "Volumes": {"/vol": {}}, "ExposedPorts": {"80/tcp": {}}, "WorkingDir": "/d"}
    return image(_layers(), config=config)


def _images() -> bytes:
    """Two images that share layers."""
    return docker_archive({APP: app(), "other:1": image(_layers()[:2])})


class Dockerd:
    """`containerd`: use the containerd image store. The bridge of this dockerd exists until the object is closed."""

    def __init__(self, home: Path, *, containerd: bool) -> None:
        self.home, self.root, self.socket = home, home / "data", str(home / "s")
        # containerd refuses sockets with paths of more than 104 bytes
        self._exec_root = tempfile.mkdtemp(prefix="otx-", dir="/tmp")
        self._bridge = f"oad{os.getpid() % 100000}{'c' if containerd else 'o'}"
        default, self.subnet = free_subnets(2)
        (home / "daemon.json").write_text(json.dumps({"features": {"containerd-snapshotter": containerd}}))
        subprocess.run(["ip", "link", "add", self._bridge, "type", "bridge"], check=True)
        subprocess.run(["ip", "addr", "add", f"{default}.1/24", "dev", self._bridge], check=True)
        subprocess.run(["ip", "link", "set", self._bridge, "up"], check=True)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        own = [f"--config-file={self.home}/daemon.json", f"--data-root={self.root}", f"--exec-root={self._exec_root}"]
        quiet = [f"--pidfile={self.home}/pid", f"--bridge={self._bridge}", "--iptables=false", "--ip6tables=false"]
        with (self.home / "log").open("ab") as log:
            argv = ["dockerd", "-H", f"unix://{self.socket}", *own, *quiet]
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        until(self._answers, "dockerd answers", 60)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"dockerd ended:\n{(self.home / 'log').read_text()[-3000:]}"
        return self.run("version").returncode == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def close(self) -> None:
        self.stop()
        subprocess.run(["ip", "link", "del", self._bridge], check=True)
        for name in os.listdir("/sys/class/net"):
            if name.startswith("br-") and name in self._bridges:
                subprocess.run(["ip", "link", "del", name], check=False)
        mounts = Path("/proc/self/mountinfo").read_text()
        for home in (str(self.home), self._exec_root):
            for place in re.findall(rf"^\S+ \S+ \S+ \S+ ({re.escape(home)}\S*)", mounts, re.MULTILINE):
                subprocess.run(["umount", "-l", place], check=False)
        shutil.rmtree(self._exec_root, ignore_errors=True)

    _bridges: tuple[str, ...] = ()

    def run(self, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["docker", "-H", f"unix://{self.socket}", *argv], input=stdin, capture_output=True, check=False
        )

    def ok(self, *argv: str, stdin: bytes = b"") -> str:
        done = self.run(*argv, stdin=stdin)
        assert done.returncode == 0, f"docker {argv}: {done.stderr.decode()}"
        return done.stdout.decode().strip()

    def fill(self) -> None:
        """Fill the root. Call this method only once. The containers run until dockerd is stopped."""
        for data in (archive(), _images()):
            self.ok("load", "-q", stdin=data)
        self.ok("tag", BUSYBOX, "reg.example/x/tagged:2")
        self.ok("volume", "create", "--label", "a=b", "named")
        self.ok("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m", "memory")
        self.ok("network", "create", "--subnet", f"{self.subnet}.0/24", "--label", "n=1", "fixed")
        self.ok("network", "create", "chosen")
        quick = ("--stop-signal", "KILL")
        made: list[tuple[str, ...]] = [
            ("-d", "--name", "plain", "--restart", "always", "-v", "named:/data", *quick, BUSYBOX, *_SLEEP),
            (
                *("-d", "--name", "fixed", "--network", "fixed", "--ip", f"{self.subnet}.7", "-p", "127.0.0.1::80"),
                *("--restart", "unless-stopped", *_HEALTH, *quick, APP, "sh", "-c", "echo started; sleep 1000"),
            ),
            ("-d", "--name", "linked", "--link", "plain:db", *quick, BUSYBOX, *_SLEEP),
            (
                *("-d", "--name", "two", "--network", "chosen", "--network-alias", "al", "--mac-address", MAC, "-l", "x=y"),
                *(*quick, APP, *_SLEEP),
            ),
            (
                *(
                    "-d",
                    "--name",
                    "limited",
                    "-m",
                    "64m",
                    "--cpus",
                    ".5",
                    "--pids-limit",
                    "50",
                    "--ulimit",
                    "nofile=100:200",
                ),
                *("--log-opt", "max-size=10k", *quick, BUSYBOX, *_SLEEP),
            ),
            ("-d", "--name", "stopped", "--restart", "unless-stopped", *quick, BUSYBOX, *_SLEEP),
            ("-d", "--name", "joined", "--network", "container:plain", *quick, BUSYBOX, *_SLEEP),
        ]
        for argv in made:
            self.ok("run", *argv)
        self.run("run", "--name", "exited", "-e", "X=y", BUSYBOX, "sh", "-c", "echo first; echo written > /file; exit 3")
        self.ok("create", "--name", "created", "--tmpfs", "/t", "-v", "/usr/share:/b:ro", BUSYBOX, "true")
        self.ok("network", "connect", "fixed", "two")
        self.ok("stop", "stopped")
        self.ok("exec", "plain", "sh", "-c", "echo volume > /data/f; echo upper > /up")
        self.ok("commit", "plain", "committed:1")
        self.note_bridges()

    def note_bridges(self) -> None:
        """Make `close` remove the bridges of the networks that exist now."""
        self._bridges = tuple(f"br-{id[:12]}" for id in self.ok("network", "ls", "-q", "--no-trunc").split())

    def inspect(self) -> dict[str, dict[str, Any]]:
        """The inspect of every object, by kind and name."""
        return {kind: dict(self._inspect(kind)) for kind in ("container", "image", "network", "volume")}

    def _inspect(self, kind: str) -> Iterator[tuple[str, Any]]:
        listed = {"container": ("ps", "-aq"), "image": ("images", "-q"), "network": ("network", "ls", "-q")}
        names = self.ok(*listed.get(kind, ("volume", "ls", "-q"))).split()
        for found in json.loads(self.ok(kind, "inspect", *dict.fromkeys(names))):
            yield (found["RepoTags"][0] if kind == "image" else found["Name"].strip("/")), found


def snapshot(root: Path) -> dict[str, tuple[int, int, int, int]]:
    """Every file below the directory, with mode, size, mtime and inode number. A new link to a file changes none of these
    values."""
    found = {}
    for top, directories, files in os.walk(root):
        for name in (*directories, *files):
            info = os.lstat(path := os.path.join(top, name))
            found[os.path.relpath(path, root)] = info.st_mode, info.st_size, info.st_mtime_ns, info.st_ino
    return found


def differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Where two documents differ. Null, an absent field, zero and an empty value are the same."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from differences(before.get(key), after.get(key), f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, f"{path}[{index}]")
    elif (before or None) != (after or None):
        yield f"{path}: {before!r} before, {after!r} after"
