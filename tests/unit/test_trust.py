"""A private CA from `openssl req -x509` is trusted for every TLS connection if it is configured, and not otherwise."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from tests.registry.build import tar
from tests.registry.fakes import drain, open_images
from tests.registry.hostile import replace, serving

from orlop_cli.daemon import tls as client_tls
from orlop_engine.images.imports import ImportRequest
from orlop_engine.images.registry_tls import tls_context
from orlop_guard_listeners import authz_find
from orlop_sdk import DriverError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, which has no keyUsage, and server.pem, signed by it."""
    directory = tmp_path_factory.mktemp("ca")
    (directory / "plain.cnf").write_text(
        "[req]\ndistinguished_name=dn\nx509_extensions=v3\n[dn]\n[v3]\nbasicConstraints=CA:TRUE\n"
    )
    (directory / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -config plain.cnf"
    commands = (
        f"openssl req -x509 {key} -days 30 -subj /CN=private-ca -keyout ca.key -out ca.pem",
        f"openssl req {key} -subj /CN=x -keyout server.key -out server.csr",
        "openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile san -out server.pem",
    )
    for command in commands:
        subprocess.run(command.split(), cwd=directory, check=True, capture_output=True)
    return directory


def server_context(made: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made / "server.pem", made / "server.key")
    return context


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(one, other, server_hostname="localhost"),
        server.wrap_bio(other, one, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


def by_certs_d(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    (tmp_path / "reg:5000").mkdir()
    (tmp_path / "reg:5000" / "ca.crt").write_bytes((made / "ca.pem").read_bytes())
    return tls_context("reg:5000", True, [str(tmp_path)])


def by_file(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    monkeypatch.setenv("SSL_CERT_FILE", str(made / "ca.pem"))
    return tls_context("reg:5000", True, [])


def by_directory(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A CA directory that is second in the list, is not rehashed, and contains other files."""
    (tmp_path / "any name").write_bytes((made / "ca.pem").read_bytes())
    (tmp_path / "README").write_text("no certificate")
    (tmp_path / "broken").symlink_to("nowhere")
    monkeypatch.setenv("SSL_CERT_DIR", f"/nosuch:{tmp_path}")
    return tls_context("reg:5000", True, [])


def by_plugin(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    spec = {"Addr": "https://localhost:99", "TLSConfig": {"CAFile": str(made / "ca.pem")}}
    (tmp_path / "p.json").write_text(json.dumps(spec))
    context = authz_find.find("p", "/nosuch", (str(tmp_path),)).context
    assert context is not None
    return context


def by_client(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    return client_tls.context(str(made / "ca.pem"), None, None, True)


def by_client_and_file(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    monkeypatch.setenv("SSL_CERT_FILE", str(made / "ca.pem"))
    return client_tls.context(None, None, None, True)


@pytest.mark.parametrize("way", [by_certs_d, by_file, by_directory, by_plugin, by_client, by_client_and_file])
def test_private_ca_without_key_usage_is_accepted(
    way: Callable[[Path, Path, pytest.MonkeyPatch], ssl.SSLContext],
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    server = server_context(made)
    shake_hands(way(made, tmp_path, monkeypatch), server)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tls_context("other:5000", True, [str(tmp_path)]), server)
    shake_hands(tls_context("other:5000", False, []), server)


def test_image_import_and_search_use_the_certificates_configured_for_a_registry(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        with serving(server_context(made)) as server, trio.fail_after(30):
            certs = tmp_path / "certs.d" / server.host
            async with open_images(str(tmp_path), certificates=(str(tmp_path / "certs.d"),)) as containers:

                async def fetch() -> None:
                    server.misbehave("x.tar", replace(tar({"hi": b"there"})))
                    await drain(await containers.images.import_image(ImportRequest(f"https://{server.host}/x.tar"), None))  # type: ignore[arg-type]

                async def find() -> None:
                    server.misbehave("search", replace(b'{"results":[{"name":"it"}]}'))
                    assert [found.name for found in await containers.images.search(f"{server.host}/it", 0, {})] == ["it"]

                for ask in (fetch, find):
                    with pytest.raises(DriverError, match="x509: certificate signed by unknown authority"):
                        await ask()
                os.makedirs(certs)
                (certs / "ca.crt").write_bytes((made / "ca.pem").read_bytes())
                for ask in (fetch, find):
                    await ask()
                (certs / "ca.crt").unlink()
                monkeypatch.setenv("SSL_CERT_FILE", str(made / "ca.pem"))
                for ask in (fetch, find):
                    await ask()

    trio.run(main)
