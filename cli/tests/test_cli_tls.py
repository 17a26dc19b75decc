"""TLS: the half-close that hijacked streams need, data in both directions at the same time, and untrusted peers."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orlop_cli._errors import CannotConnect, CliError
from orlop_cli.daemon import hosts

if TYPE_CHECKING:
    from orlop_cli.daemon.http import Stream

# A key pair for localhost, which protects nothing. It is valid for a hundred years, so that no test has to create a key
# pair.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUdJrrSAnKr1/Drbm23PL6/RFds9swCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNDEwMTAxNloYDzIxMjYxMDMx
MTAxMDE2WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATLe/oDOpRkQCnqNd8FSkmKiMARgf7+7nZBGyzN7FIU4Q15HqU898LC
fdgFFzVYCVWF1ytbU+0DW9b5b9pv5Ivdo28wbTAdBgNVHQ4EFgQUoG6lTEPSkq9c
+b9q1yEmUYTa0EkwHwYDVR0jBBgwFoAUoG6lTEPSkq9c+b9q1yEmUYTa0EkwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIhAIAs+QyfVcQLuz67Bix4wLIMhthOv1AgD4638NGaTScPAiAf
NXDGgwwDCut4i72vzS5YJEeldfI+vDsif8QfPN3jpw==
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgl7uNGRvSicasz106
9oTOtJd+ejJSc9llltS7/2biW7ehRANCAATLe/oDOpRkQCnqNd8FSkmKiMARgf7+
7nZBGyzN7FIU4Q15HqU898LCfdgFFzVYCVWF1ytbU+0DW9b5b9pv5Ivd
-----END PRIVATE KEY-----
"""
SIZE = 8 << 20


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "cert.pem").write_text(CERTIFICATE)
    (tmp_path / "key.pem").write_text(KEY)
    return str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")


@pytest.fixture
def serve(files: tuple[str, str]) -> Any:
    """Start a TLS server that handles one connection with a function; returns its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    listener = socket.create_server(("0.0.0.0", 0))
    threads: list[threading.Thread] = []

    def start(handle: Callable[[ssl.SSLSocket], None]) -> hosts.Address:
        def run() -> None:
            try:
                raw, _ = listener.accept()
                with raw, context.wrap_socket(raw, server_side=True) as secured:
                    handle(secured)
            except OSError:
                return  # the client refused the certificate, or never connected

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return hosts.parse(f"tcp://localhost:{listener.getsockname()[1]}", tls=True)

    yield start
    listener.close()
    for thread in threads:
        thread.join(5)


def everything(stream: Stream) -> bytes:
    pieces = []
    while piece := stream.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def test_half_close_keeps_the_other_direction_open(serve: Any, files: tuple[str, str]) -> None:
    answer = os.urandom(SIZE)
    got: list[bytes] = []

    def handle(peer: ssl.SSLSocket) -> None:
        while data := peer.recv(1 << 16):
            got.append(data)
        peer.sendall(answer)

    stream = hosts.connect(serve(handle), hosts.Tls(True, files[0], None, None))
    stream.sendall(b"question")
    stream.shutdown(socket.SHUT_WR)
    assert everything(stream) == answer
    assert b"".join(got) == b"question"
    stream.close()


def test_full_buffers_in_both_directions_do_not_deadlock(serve: Any, files: tuple[str, str]) -> None:
    """The peer echoes all data, and stops reading while the client does not read. The client half-closes while the peer's
    data is in transit."""

    def handle(peer: ssl.SSLSocket) -> None:
        while data := peer.recv(1 << 16):
            peer.sendall(data)

    sent = os.urandom(SIZE)
    stream = hosts.connect(serve(handle), hosts.Tls(True, files[0], None, None))

    def send() -> None:
        stream.sendall(sent)
        stream.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    assert everything(stream) == sent
    thread.join(5)
    assert not thread.is_alive()
    stream.close()


def test_untrusted_certificate_is_refused_unless_verification_is_off(serve: Any) -> None:
    with pytest.raises(CannotConnect, match=r"cannot set up TLS with tcp://localhost:.*certificate"):
        hosts.connect(serve(lambda peer: None), hosts.Tls(True, None, None, None))
    stream = hosts.connect(serve(lambda peer: peer.sendall(b"hi")), hosts.Tls(False, None, None, None))
    assert everything(stream) == b"hi"
    stream.close()


def test_wrong_host_name_is_refused(serve: Any, files: tuple[str, str]) -> None:
    address = serve(lambda peer: None)
    address = hosts.Address(address.text, "", "127.0.0.2", address.port)
    with pytest.raises(CannotConnect, match=r"IP address mismatch, certificate is not valid for '127\.0\.0\.2'"):
        hosts.connect(address, hosts.Tls(True, files[0], None, None))


def test_error_about_a_missing_tls_file_contains_its_path(serve: Any) -> None:
    with pytest.raises(CliError, match="cannot read TLS file /nonexistent"):
        hosts.connect(serve(lambda peer: None), hosts.Tls(True, "/nonexistent", None, None))


@pytest.mark.parametrize(
    ("text", "tls", "expected"),
    [
        ("tcp://h", False, ("h", 2375)),
        ("tcp://h", True, ("h", 2376)),
        ("tcp://[::1]:5", True, ("::1", 5)),
        ("h:9", False, ("h", 9)),
        ("tcp://", False, ("127.0.0.1", 2375)),
    ],
)
def test_tcp_addresses_are_parsed(text: str, tls: bool, expected: tuple[str, int]) -> None:
    address = hosts.parse(text, tls)
    assert (address.host, address.port) == expected


@pytest.mark.parametrize("text", ["ssh://", "tcp://h:x", "npipe://y"])
def test_invalid_addresses_are_refused(text: str) -> None:
    with pytest.raises(CliError, match="unable to parse daemon host"):
        hosts.parse(text, tls=False)


def test_unix_addresses_are_parsed() -> None:
    assert hosts.parse("unix:///a/b", tls=True).path == "/a/b"
    assert hosts.parse("unix://", tls=False).path == "/run/orlop.sock"
