"""A daemon with TLS on TCP: accepted and refused clients, renewal of certificates, and the end of streams at a shutdown."""

from __future__ import annotations

import contextlib
import datetime as dt
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.engine import Engine, Result, until

from orlop_cli.daemon import certificates
from orlop_sdk.testing.ports import free_port

pytestmark = pytest.mark.root


def tls(*argv: object) -> None:
    subprocess.run([sys.executable, "-m", "orlop_cli", "tls", *map(str, argv)], check=True, capture_output=True, timeout=30)


def flags(certificates: Path, client: str = "client", ca: Path | None = None) -> list[str]:
    own = certificates / client
    return [
        "--tlsverify",
        f"--tlscacert={(ca or own) / 'ca.pem'}",
        f"--tlscert={own / 'cert.pem'}",
        f"--tlskey={own / 'key.pem'}",
    ]


class Remote(Engine):
    """An engine that also listens on TCP, on all addresses."""

    port = 0
    more: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        return [*super().command, "-H", f"tcp://0.0.0.0:{self.port}", "-H", f"tcp://[::1]:{self.port}", *self.more]

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def by(self, program: str, *argv: str, **env: str) -> Result:
        """Run a client without environment variables that would name another daemon."""
        own = ["docker"] if program == "docker" else [sys.executable, "-m", "orlop_cli"]
        kept = {key: value for key, value in self.env.items() if key != "DOCKER_HOST"}
        done = subprocess.run([*own, *argv], capture_output=True, env={**kept, **env}, timeout=30, check=False)
        return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def remote(tmp_path: Path) -> Callable[..., Remote]:
    with contextlib.ExitStack() as stack:

        def make(*more: str, config: dict[str, object] | None = None) -> Remote:
            engine = Remote(config)
            engine.port, engine.more = free_port(), more
            stack.callback(lambda: _gone(engine))
            return engine

        yield make  # type: ignore[misc]


def _gone(engine: Remote) -> None:
    left = engine.close()
    assert not left, left


def test_clients_need_a_certificate_from_the_configured_ca(
    remote: Callable[..., Remote], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in dockerd, `tls` without `tlsverify` requires certificates, too."""
    own, other = tmp_path / "own", tmp_path / "other"
    tls("init", "--dir", own)
    tls("init", "--dir", other)
    files = {"tlscacert": "ca.pem", "tlscert": "server-cert.pem", "tlskey": "server-key.pem"}
    engine = remote(config={"tls": True, **{name: str(own / file) for name, file in files.items()}})
    engine.start()
    show = ["version", "--format", "{{.Server.Version}}"]
    environment = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(own / "client")}
    for program in ("docker", "orlop"):
        for url in (engine.url, f"tcp://[::1]:{engine.port}"):
            assert engine.by(program, *flags(own), "-H", url, *show).code == 0
        assert engine.by(program, *show, DOCKER_HOST=engine.url, **environment).code == 0

    ca = certificates.load(str(own), "ca.pem", "ca-key.pem")
    monkeypatch.setattr(certificates, "_SLACK", dt.timedelta(days=9))
    (own / "late").mkdir()
    certificates.store(str(own / "late"), certificates.make_client(ca, "late", -1), "cert.pem", "key.pem")
    stranger = engine.by("docker", *flags(other, ca=own), "-H", engine.url, *show)
    assert (stranger.code, "tls: unknown certificate authority" in stranger.err) == (1, True)
    late = engine.by("docker", *flags(own, "late", ca=own), "-H", engine.url, *show)
    assert (late.code, "tls: expired certificate" in late.err) == (1, True)
    deceived = engine.by("docker", *flags(other), "-H", engine.url, *show)
    assert (deceived.code, "x509: certificate signed by unknown authority" in deceived.err) == (1, True)
    nobody = engine.by("orlop", "--tls", "-H", engine.url, "ps")
    assert (nobody.code, "the daemon refused the TLS connection: certificate required" in nobody.err) == (1, True)
    plain = engine.by("docker", "-H", engine.url, "ps")
    assert "Client sent an HTTP request to an HTTPS server." in plain.err


def test_listener_refuses_clients_whose_certificate_is_from_another_listeners_ca(
    remote: Callable[..., Remote], tmp_path: Path
) -> None:
    """A reload reads all files again; afterwards, the listeners refuse the same clients."""
    own, readers, port = tmp_path / "own", tmp_path / "readers", free_port()
    for directory in (own, readers):
        tls("init", "--dir", directory)
    files = {"tlscacert": "ca.pem", "tlscert": "server-cert.pem", "tlskey": "server-key.pem"}
    policy = {"host": f"tcp://127.0.0.1:{port}", "role": "read-only", "tlscacert": str(readers / "ca.pem")}
    engine = remote(config={"tls": True, **{key: str(own / file) for key, file in files.items()}, "listeners": [policy]})
    engine.start()

    def let_in() -> list[bool]:
        urls = (engine.url, f"tcp://127.0.0.1:{port}")
        return [
            engine.by("docker", *flags(client, ca=own), "-H", url, "ps").code == 0
            for url in urls
            for client in (own, readers)
        ]

    assert let_in() == [True, False, False, True]
    assert engine.process
    engine.process.send_signal(signal.SIGHUP)
    until(lambda: "configuration reloaded" in engine.log())
    assert let_in() == [True, False, False, True]


def test_renewal_of_certificates_keeps_connections_and_shutdown_ends_streams(
    remote: Callable[..., Remote], tmp_path: Path
) -> None:
    tls("init", "--dir", tmp_path)
    files = [
        f"--tlscacert={tmp_path}/ca.pem",
        f"--tlscert={tmp_path}/server-cert.pem",
        f"--tlskey={tmp_path}/server-key.pem",
    ]
    engine = remote("--tlsverify", *files)
    engine.start()
    streams = [
        subprocess.Popen(
            [*program, *flags(tmp_path), "-H", engine.url, "events"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for program in (["docker"], [sys.executable, "-m", "orlop_cli"])
    ]
    until(lambda: engine.api("GET", "/info")[1]["NEventsListener"] == 2, "both listen")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    trusting.load_cert_chain(tmp_path / "client" / "cert.pem", tmp_path / "client" / "key.pem")

    def serial() -> int:
        with (
            socket.create_connection(("127.0.0.1", engine.port), 10) as sock,
            trusting.wrap_socket(sock, server_hostname="127.0.0.1") as secured,
        ):
            return int(str((secured.getpeercert() or {})["serialNumber"]), 16)

    def on_disk() -> int:
        return certificates.read_certificate(str(tmp_path), "server-cert.pem").serial_number

    assert serial() == on_disk()
    tls("renew", "--dir", tmp_path)
    assert serial() != on_disk()
    assert engine.process is not None
    engine.process.send_signal(signal.SIGHUP)
    until(lambda: serial() == on_disk(), "the new certificate")
    good = (tmp_path / "server-key.pem").read_bytes()
    (tmp_path / "server-key.pem").write_bytes((tmp_path / "ca-key.pem").read_bytes())
    engine.process.send_signal(signal.SIGHUP)
    until(lambda: "is not the key of the certificate" in engine.log(), "a complaint")
    assert serial() == on_disk()
    (tmp_path / "server-key.pem").write_bytes(good)

    half = socket.create_connection(("127.0.0.1", engine.port), 10)
    half.sendall(b"\x16\x03\x01\x02\x00")  # an unfinished handshake does not delay a shutdown
    assert engine.stop() == 0
    half.close()
    for stream in streams:
        out, err = stream.communicate(timeout=10)
        assert (stream.returncode, err) == (0, b"")
        assert b" daemon reload " in out


def test_tcp_without_client_certificates_needs_allow_insecure_tcp(remote: Callable[..., Remote], tmp_path: Path) -> None:
    tls("init", "--dir", tmp_path)
    files = [f"--tlscert={tmp_path}/server-cert.pem", f"--tlskey={tmp_path}/server-key.pem"]
    engine = remote("--tlsverify=false", *files)
    with pytest.raises(AssertionError, match=r"without client certificates .* can become root"):
        engine.start()
    engine.process = None
    engine.more = (*engine.more, "--allow-insecure-tcp")
    engine.start()
    assert engine.by("orlop", "--tls", "-H", engine.url, "ps").code == 0
    told = engine.api("GET", "/info")[1]["Warnings"]
    assert any(
        f"API is accessible on https://0.0.0.0:{engine.port} without TLS client verification" in line for line in told
    )
