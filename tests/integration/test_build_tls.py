"""Builds by clients that connect by mutual TLS, so that the daemon copies their connections to the builder."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.engine import Result, patience, until
from tests.integration.test_build_clients import nothing_left, processes
from tests.integration.test_tls import Remote, flags, tls

from orlop_sdk.testing.ports import free_port

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

LARGE = 8 << 20  # more than the buffers of all sockets on the way


class Builds:
    def __init__(self, engine: Remote, certificates: Path, directory: Path) -> None:
        self.engine, self.directory = engine, directory
        self._flags = ["-H", engine.url, *flags(certificates)]
        self._env = {key: value for key, value in engine.env.items() if key != "DOCKER_HOST"}

    def argv(self, *argv: str) -> list[str]:
        return ["docker", *self._flags, *argv]

    def run(self, *argv: str, **env: str) -> Result:
        done = subprocess.run(
            self.argv(*argv),
            cwd=self.directory,
            env={**self._env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=patience(120),
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def ok(self, *argv: str, **env: str) -> Result:
        result = self.run(*argv, **env)
        assert result.code == 0, result.err
        return result

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.argv(*argv),
            cwd=self.directory,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builds]:
    certificates = tmp_path_factory.mktemp("tls")
    tls("init", "--dir", certificates, "--name", "127.0.0.1")
    engine = Remote()
    engine.port = free_port()
    engine.configure(
        {
            "tlsverify": True,
            "tlscacert": str(certificates / "ca.pem"),
            "tlscert": str(certificates / "server-cert.pem"),
            "tlskey": str(certificates / "server-key.pem"),
        }
    )
    engine.start()
    engine.load()
    yield Builds(engine, certificates, tmp_path_factory.mktemp("context"))
    assert engine.close() == []


def test_build_over_tls_succeeds(builds: Builds) -> None:
    """The build has a large context, a secret, and a large result that the client receives."""
    data = os.urandom(LARGE)
    (builds.directory / "large").write_bytes(data)
    (builds.directory / "secret").write_text("s3cret")
    (builds.directory / "Dockerfile").write_text(
        "FROM busybox AS made\nCOPY large /large\n"
        "RUN --mount=type=secret,id=s tr a-z A-Z < /run/secrets/s; cat /large /large > /twice\n"
        "FROM scratch\nCOPY --from=made /twice /twice\n"
    )
    result = builds.ok("buildx", "build", "--progress=plain", "--secret", "id=s,src=secret", "-o", "out", ".")
    assert "S3CRET" in result.err
    assert (builds.directory / "out/twice").read_bytes() == data * 2
    builds.ok("build", "-t", "tls:1", "--target", "made", ".")
    assert builds.ok("run", "--rm", "--network=none", "tls:1", "wc", "-c", "/twice").line.split()[0] == str(LARGE * 2)
    classic = builds.ok("build", "-t", "tls:2", "--target", "made", ".", DOCKER_BUILDKIT="0")
    assert "Successfully tagged tls:2" in classic.out
    assert "large" in builds.ok("buildx", "du", "--verbose").out


def test_failing_build_over_tls_reports_its_error(builds: Builds) -> None:
    (builds.directory / "Dockerfile").write_text("FROM busybox\nRUN echo seen; exit 7\n")
    for env in ({}, {"DOCKER_BUILDKIT": "0"}):
        result = builds.run("build", ".", **env)
        assert result.code != 0 and "seen" in result.err + result.out
        assert "7" in result.err.splitlines()[-1]


def test_build_without_a_client_certificate_is_refused(builds: Builds) -> None:
    done = subprocess.run(
        ["docker", "-H", builds.engine.url, "--tls", "build", "."],
        cwd=builds.directory,
        env=builds._env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=patience(60),
        check=False,
    )
    assert done.returncode != 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_build_over_tls_ends_when_its_client_is_interrupted(builds: Builds, sent: signal.Signals) -> None:
    (builds.directory / "Dockerfile").write_text("FROM busybox\nRUN echo started; sleep 41337\n")
    child = builds.start("buildx", "build", "--progress=plain", "--no-cache", ".")
    until(lambda: processes(builds.engine, "41337"), "the step")
    tasks = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    for pid in [*map(int, tasks), child.pid]:
        os.kill(pid, sent)
    child.communicate(timeout=patience(30))
    until(lambda: not processes(builds.engine, "41337"), "the end of the step")
    nothing_left(builds.engine)
