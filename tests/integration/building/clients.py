"""The docker client with each of two engines, for tests that compare what it prints."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.integration.engine import Engine, Result, patience, until
from tests.integration.parity import Side

__all__ = ["Client", "Clients", "build_clients", "remove_cgroups"]


class Client:
    """The docker client with one of the engines."""

    def __init__(self, side: Side, env: dict[str, str], directory: Path) -> None:
        self.name, self.directory = side.name, directory
        self.env = {**env, "DOCKER_HOST": f"unix://{side.path}", "BUILDX_CONFIG": f"{directory}.buildx"}

    def run(self, *argv: str, stdin: bytes = b"") -> Result:
        done = subprocess.run(
            ["docker", *argv],
            input=stdin,
            capture_output=True,
            env=self.env,
            cwd=self.directory,
            timeout=patience(120),
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def ok(self, *argv: str, stdin: bytes = b"") -> Result:
        result = self.run(*argv, stdin=stdin)
        assert result.code == 0, f"{self.name}: {argv}\n{result.out}\n{result.err}"
        return result

    def build(self, *argv: str, stdin: bytes = b"") -> Result:
        return self.run("build", "--progress=plain", *argv, stdin=stdin)

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["docker", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.env,
            cwd=self.directory,
        )


class Clients(NamedTuple):
    dockerd: Client
    orlop: Client

    def write(self, name: str, text: str | bytes) -> None:
        for each in self:
            path = each.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode() if isinstance(text, str) else text)

    def same(self, shown: Callable[[Client], object]) -> object:
        """The output of both clients, which must be equal."""
        theirs, ours = (shown(each) for each in self)
        assert ours == theirs, f"orlop: {ours}\ndockerd: {theirs}"
        return ours


@contextmanager
def build_clients(shared: Engine, sides: tuple[Side, Side], directory: Path) -> Iterator[Clients]:
    """Two clients, each with its own directory. Images whose names begin with `tb-` are removed at the end."""
    made = []
    for side in sides:
        own = directory / side.name
        own.mkdir()
        made.append(Client(side, shared.env, own))
    found = Clients(*made)
    yield found
    for each in found:
        each.run("image", "rm", "-f", *(each.run("images", "-q", "--filter", "reference=tb-*").out.split() or ["none"]))


def remove_cgroups(name: str) -> None:
    """Remove the empty cgroups that builds with `--cgroup-parent` have left. The cgroup of a step is removed a little after
    the end of the step."""

    def is_removed(top: Path) -> bool:
        with suppress(OSError):  # a step is ending
            for directory, _, _ in os.walk(top, topdown=False):
                os.rmdir(directory)
        return not top.exists()

    roots = Path("/sys/fs/cgroup")
    for path in (*roots.glob(name), *roots.glob(f"*/{name}")):
        until(partial(is_removed, path), f"{path} has no processes")
