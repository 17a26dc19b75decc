"""`orlop tls`: the created files. The daemon: accepted and refused TLS files, and addresses that require TLS."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import ipaddress
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from msgspec.structs import replace

from orlop_cli.__main__ import _guarded
from orlop_cli.daemon import certificates
from orlop_kernel.boot import exposure, listen, tls
from orlop_kernel.config import Config, ConfigError, Listener, load_all, parse
from orlop_sdk.testing.ports import free_port


def orlop(*argv: object) -> subprocess.CompletedProcess[str]:
    """Run `orlop tls ARGV` in this process, because the start of a process takes most of the time."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _guarded(["tls", *map(str, argv)])
    return subprocess.CompletedProcess([], code, out.getvalue(), err.getvalue())


def complaint(*argv: object) -> str:
    done = orlop(*argv)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def made(directory: Path, *argv: object) -> str:
    done = orlop("init", "--dir", directory, *argv)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of files, which is shared by the tests that do not change the files."""
    directory = tmp_path_factory.mktemp("tls") / "of" / "orlop"
    made(directory, "--name", "build.example.org", "--name", "192.0.2.7", "--days", "30")
    return directory


def config(directory: Path, **more: Any) -> Config:
    files = {"tlscacert": "ca.pem", "tlscert": "server-cert.pem", "tlskey": "server-key.pem"}
    return Config(**{"tlsverify": True, **{key: str(directory / name) for key, name in files.items()}, **more})


def copied(ready: Path, tmp_path: Path) -> Path:
    for path in (certificates.CA, certificates.CA_KEY, certificates.SERVER, certificates.SERVER_KEY):
        (tmp_path / path).write_bytes((ready / path).read_bytes())
        (tmp_path / path).chmod(0o600)
    return tmp_path


def outdated(monkeypatch: pytest.MonkeyPatch) -> None:
    """After this fixture, `days=-1` makes certificates that expired yesterday."""
    monkeypatch.setattr(certificates, "_SLACK", dt.timedelta(days=9))


# --- orlop tls


def test_tls_init_creates_three_certificates_with_keys_that_only_the_owner_can_read(ready: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in ready.iterdir()}
    assert modes == {
        "ca.pem": 0o644,
        "ca-key.pem": 0o600,
        "server-cert.pem": 0o644,
        "server-key.pem": 0o600,
        "client": 0o700,
    }
    assert stat.S_IMODE((ready / "client" / "key.pem").stat().st_mode) == 0o600
    assert (ready / "client" / "ca.pem").read_bytes() == (ready / "ca.pem").read_bytes()


def test_server_certificate_contains_the_names_of_the_host_and_the_given_names(ready: Path) -> None:
    certificate = certificates.read_certificate(str(ready), "server-cert.pem")
    names = certificates.names_of(certificate)
    assert names[:2] == ["build.example.org", "192.0.2.7"]
    assert {socket.gethostname(), "localhost", "127.0.0.1", "::1"} <= set(names)
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ipaddress.ip_address("192.0.2.7") in alternatives.get_values_for_type(x509.IPAddress)
    assert certificate.not_valid_after_utc - dt.datetime.now(dt.UTC) < dt.timedelta(days=30)


def test_openssl_in_strict_mode_accepts_the_certificates(ready: Path) -> None:
    names = ["server-cert.pem", "client/cert.pem"]
    command = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.pem", *names]
    done = subprocess.run(command, cwd=ready, capture_output=True, text=True, check=False)
    assert done.stdout == "".join(f"{name}: OK\n" for name in names)


def test_tls_init_prints_keys_of_daemon_json_and_environment_variables_of_clients(tmp_path: Path) -> None:
    text = made(tmp_path, "--name", "2001:db8::1")
    assert f'"tlscert": "{tmp_path}/server-cert.pem"' in text
    assert f"DOCKER_HOST=tcp://[2001:db8::1]:2376 DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH={tmp_path}/client" in text


def test_tls_init_overwrites_existing_files_only_with_force(ready: Path, tmp_path: Path) -> None:
    here = copied(ready, tmp_path)
    before = (here / "ca.pem").read_bytes()
    assert "has ca.pem, ca-key.pem, server-cert.pem, server-key.pem already" in complaint("init", "--dir", here)
    assert (here / "ca.pem").read_bytes() == before
    made(here, "--force")
    assert (here / "ca.pem").read_bytes() != before


def test_tls_init_with_client_uses_the_existing_ca(ready: Path, tmp_path: Path) -> None:
    here = copied(ready, tmp_path)
    assert f"DOCKER_CERT_PATH={here}/anna" in made(here, "--client", "anna")
    anna = certificates.read_certificate(str(here / "anna"), "cert.pem")
    anna.verify_directly_issued_by(certificates.read_certificate(str(here), "ca.pem"))
    assert anna.subject.rfc4514_string() == "CN=anna"
    assert "has a certificate already" in complaint("init", "--dir", here, "--client", "anna")
    made(here, "--client", "anna", "--force")


def test_renewed_certificate_has_the_same_ca_and_names(ready: Path, tmp_path: Path) -> None:
    here = copied(ready, tmp_path)
    old = certificates.read_certificate(str(here), "server-cert.pem")
    done = orlop("renew", "--dir", here, "--days", "9000")
    assert done.returncode == 0, done.stderr
    new, ca = (certificates.read_certificate(str(here), name) for name in ("server-cert.pem", "ca.pem"))
    assert new.serial_number != old.serial_number
    assert certificates.names_of(new) == certificates.names_of(old)
    assert new.not_valid_after_utc == ca.not_valid_after_utc  # the certificate ends no later than its CA
    assert (here / "ca.pem").read_bytes() == (ready / "ca.pem").read_bytes()
    tls.server_context(config(here))


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["init", "--name", "a b"], 'invalid name "a b"'),
        (["init", "--name", "-x.org"], 'invalid name "-x.org"'),
        (["init", "--days", "0"], "invalid --days 0: 1 to 36500"),
        (["init", "--client", "../x"], 'invalid client name "../x"'),
        (["init", "--client", "x"], "ca.pem: No such file or directory"),
        (["init", "--client", "x", "--name", "y"], "--client makes only a client's certificate"),
        (["renew"], "ca.pem: No such file or directory"),
    ],
)
def test_orlop_tls_refuses_invalid_arguments(tmp_path: Path, argv: list[str], text: str) -> None:
    assert text in complaint(*argv, "--dir", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_key_that_does_not_match_the_ca_is_refused(ready: Path, tmp_path: Path) -> None:
    here = copied(ready, tmp_path)
    (here / "ca-key.pem").write_bytes((here / "server-key.pem").read_bytes())
    assert "ca-key.pem is not its key" in complaint("init", "--dir", here, "--client", "x")


# --- how the daemon reads the files


def test_valid_tls_files_give_no_warning(ready: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = tls.server_context(config(ready))
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert tls.server_context(config(ready, tlsverify=None, tls=True)).verify_mode == ssl.CERT_REQUIRED
    assert not caplog.records


def test_tls_without_client_verification_needs_no_ca(ready: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert tls.server_context(config(ready, tlsverify=False, tlscacert="")).verify_mode == ssl.CERT_NONE
    assert "tlsverify is off: clients need no certificate" in caplog.text


def refused(found: Config) -> str:
    with pytest.raises(ConfigError, match=r"^invalid TLS configuration: ") as caught:
        tls.server_context(found)
    return str(caught.value)


def test_error_for_an_unusable_tls_file_shows_the_path(ready: Path, tmp_path: Path) -> None:
    here = copied(ready, tmp_path)
    assert "cannot read tlscacert /no/ca: No such file" in refused(config(here, tlscacert="/no/ca"))
    assert "cannot read tlskey" in refused(config(here, tlskey=str(here)))
    assert f"tlscert {here}/ca-key.pem holds no certificate in PEM form" in refused(
        config(here, tlscert=str(here / "ca-key.pem"))
    )
    assert f"tlskey {here}/ca.pem holds no private key" in refused(config(here, tlskey=str(here / "ca.pem")))
    (here / "torn.pem").write_bytes((here / "server-cert.pem").read_bytes()[:-100])
    assert f"cannot use tlscert {here}/torn.pem" in refused(config(here, tlscert=str(here / "torn.pem")))
    wrong = refused(config(here, tlskey=str(here / "ca-key.pem")))
    assert f"tlskey {here}/ca-key.pem is not the key of the certificate in tlscert {here}/server-cert.pem" in wrong


def test_daemon_refuses_a_client_certificate_as_its_server_certificate(ready: Path) -> None:
    own = ready / "client"
    found = refused(config(ready, tlscert=str(own / "cert.pem"), tlskey=str(own / "key.pem")))
    assert f"clients would refuse tlscert {own}/cert.pem: " in found
    assert "purpose" in found


def test_encrypted_key_is_refused_without_asking_for_its_password(ready: Path, tmp_path: Path) -> None:
    key = serialization.load_pem_private_key((ready / "server-key.pem").read_bytes(), None)
    form = serialization.BestAvailableEncryption(b"secret")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, form)
    (tmp_path / "key.pem").write_bytes(pem)
    assert "tlskey is encrypted" in refused(config(ready, tlskey=str(tmp_path / "key.pem")))


def test_error_for_an_expired_certificate_shows_path_and_date(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = copied(ready, tmp_path)
    ca = certificates.load(str(here), "ca.pem", "ca-key.pem")
    outdated(monkeypatch)
    certificates.store(str(here), certificates.make_server(ca, ["localhost"], -1), "old.pem", "old-key.pem")
    old = config(here, tlscert=str(here / "old.pem"), tlskey=str(here / "old-key.pem"))
    assert f"the certificate in tlscert {here}/old.pem expired on " in refused(old)
    monkeypatch.setattr(certificates, "_CA_DAYS", -1)
    certificates.store(str(here), certificates.make_ca(-1), "old-ca.pem", "old-ca-key.pem")
    assert "old-ca.pem expired on " in refused(config(here, tlscacert=str(here / "old-ca.pem")))
    monkeypatch.setattr(certificates, "_SLACK", dt.timedelta(days=-9))
    certificates.store(str(here), certificates.make_server(ca, ["localhost"], 20), "new.pem", "new-key.pem")
    new = config(here, tlscert=str(here / "new.pem"), tlskey=str(here / "new-key.pem"))
    assert "is not valid before " in refused(new)


def test_certificate_that_expires_soon_and_key_readable_by_others_give_warnings(
    ready: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = copied(ready, tmp_path)
    ca = certificates.load(str(here), "ca.pem", "ca-key.pem")
    certificates.store(str(here), certificates.make_server(ca, ["localhost"], 3), "server-cert.pem", "server-key.pem")
    (here / "server-key.pem").chmod(0o644)
    tls.server_context(config(here))
    assert "expires in 2 days" in caplog.text
    assert f"chmod 600 {here}/server-key.pem" in caplog.text


def test_option_validate_shows_problems_of_tls_files(ready: Path, tmp_path: Path) -> None:
    here = copied(ready, tmp_path)
    files = ["--tlscacert", here / "ca.pem", "--tlscert", here / "server-cert.pem", "--tlskey", here / "server-key.pem"]

    def validate(*argv: object) -> subprocess.CompletedProcess[str]:
        empty = tmp_path / "empty.json"
        empty.write_text("{}")
        command = [sys.executable, "-m", "orlop_kernel", "--validate", "--config-file", empty, *argv]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=30)

    good = validate("--tls", "-H", "tcp://0.0.0.0", *files)
    assert (good.returncode, good.stderr) == (0, "configuration OK\n")
    open_to_all = validate("--tls", "--tlsverify=false", "-H", "tcp://0.0.0.0", *files)
    assert open_to_all.returncode == 1
    assert "cannot listen on tcp://0.0.0.0: without client certificates (tlsverify is off)" in open_to_all.stderr
    (here / "server-key.pem").write_bytes((here / "ca-key.pem").read_bytes())
    bad = validate("--tlsverify", *files)
    assert bad.returncode == 1
    assert "is not the key of the certificate" in bad.stderr


# --- one daemon, several CAs


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second CA, for the clients of a listener."""
    directory = tmp_path_factory.mktemp("readers")
    made(directory)
    return directory


def listener(port: int, role: str = "read-only", **more: Any) -> Listener:
    return Listener(host=f"tcp://127.0.0.1:{port}", role=role, **more)


def test_listeners_with_different_rights_must_not_trust_the_same_ca(ready: Path, readers: Path, tmp_path: Path) -> None:
    own = str(readers / "ca.pem")
    both = tmp_path / "both.pem"
    both.write_bytes((readers / "ca.pem").read_bytes() + (ready / "ca.pem").read_bytes())
    full, alone, socket_only = ("tcp://127.0.0.1:1",), (), ("unix:///run/x",)
    one, other = listener(2), listener(3, labels=("a=b",))

    def answers(hosts: tuple[str, ...], *listeners: Listener) -> str:
        found = config(ready, hosts=hosts, listeners=listeners)
        try:
            made = tls.contexts(found, bool(exposure.by_tcp(found)))
        except ConfigError as error:
            return str(error)
        assert made.keys() == {found.tlscacert, *(each.tlscacert for each in listeners if each.tlscacert)}
        return ""

    wrong = answers(full, one)
    assert "tcp://127.0.0.1:2 (role read-only) and hosts (role full) trust the same CA, but give different rights" in wrong
    assert "give tcp://127.0.0.1:2 a tlscacert of its own (`orlop tls init --dir DIR` makes one)" in wrong
    assert answers(alone, one)  # with TLS, tcp://localhost:2376 is a default of `hosts`
    assert answers(full, replace(one, tlscacert=str(both)))  # compared by content
    assert "tcp://127.0.0.1:3 (role read-only) and tcp://127.0.0.1:2" in answers(socket_only, one, other)
    assert answers(full, replace(one, tlscacert=own), replace(other, tlscacert=own))
    assert answers(full, replace(one, tlscacert=own)) == ""
    assert answers(full, listener(2, "full")) == ""
    assert answers(socket_only, one, replace(one, host="tcp://127.0.0.1:4")) == ""
    assert answers(socket_only, one, replace(other, tlscacert=own)) == ""
    ci = listener(2, "no-exec")
    assert "give different rights" in answers(socket_only, ci, replace(ci, host="tcp://127.0.0.1:3", image_names=("ci/*",)))
    assert "cannot read tlscacert /no/ca" in answers(full, replace(one, tlscacert="/no/ca"))


def test_orlopd_refuses_a_ca_shared_by_unequal_listeners_at_validation_and_start(ready: Path, tmp_path: Path) -> None:
    path, port = tmp_path / "d.json", free_port()
    found = config(ready, hosts=("unix:///run/x", f"tcp://127.0.0.1:{free_port()}"), listeners=(listener(port),))
    keys = {key: getattr(found, key) for key in ("hosts", "tlsverify", "tlscacert", "tlscert", "tlskey")}
    path.write_text(json.dumps({**keys, "listeners": [{"host": f"tcp://127.0.0.1:{port}", "role": "read-only"}]}))
    command = [sys.executable, "-m", "orlop_kernel", "--validate", "--config-file", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, "trust the same CA" in done.stderr) == (1, True)

    async def start() -> None:
        async with listen.opened(replace(found, hosts=found.hosts[1:]), {}) as hosts, listen.opened_entries(found, hosts):
            pass

    with pytest.raises(ConfigError, match="trust the same CA"):
        trio.run(start)


def test_listener_accepts_only_clients_with_certificates_of_its_own_ca(ready: Path, readers: Path) -> None:
    found = config(
        ready, hosts=("tcp://127.0.0.1:0",), listeners=(listener(free_port(), tlscacert=str(readers / "ca.pem")),)
    )

    async def accepted(policy: Any, client: Path) -> bool:
        context = ssl.create_default_context(cafile=str(ready / "ca.pem"))  # all listeners have the same certificate
        context.load_cert_chain(client / "client" / "cert.pem", client / "client" / "key.pem")
        ours = await trio.open_tcp_stream("127.0.0.1", policy._listener.socket.getsockname()[1])
        theirs = await policy.accept()
        stream = trio.SSLStream(ours, context, server_hostname="127.0.0.1")
        good = True

        async def serve() -> None:
            nonlocal good
            try:
                await theirs.do_handshake()
            except trio.BrokenResourceError:
                good = False

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.do_handshake()
        finally:
            for each in (ours, theirs):
                await trio.aclose_forcefully(each)
        return good

    async def main() -> list[bool]:
        async with listen.opened(found, {}) as hosts, listen.opened_entries(found, hosts) as entries:
            policies = [*hosts, *(each for _, own in entries for each in own)]
            return [await accepted(policy, client) for policy in policies for client in (ready, readers)]

    assert trio.run(main) == [True, False, False, True]


# --- where to listen, and conflicting options


def test_default_paths_of_tls_files_are_the_same_as_in_dockerd(ready: Path, tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text("{}")
    own = ready / "client"

    def configured(*argv: str, **environ: str) -> Config:
        return load_all(parse(["--config-file", str(tmp_path / "d.json"), *argv]), environ).config

    found = configured("--tls", DOCKER_CERT_PATH=str(own))
    assert (found.tlscacert, found.tlscert, found.tlskey) == tuple(
        str(own / f"{name}.pem") for name in ("ca", "cert", "key")
    )
    assert found.effective_hosts == ("unix:///run/orlop.sock", "tcp://localhost:2376")
    named = configured("--tlsverify", "--tlskey", "/k", DOCKER_CONFIG=str(own))
    assert (named.tlscert, named.tlskey) == (str(own / "cert.pem"), "/k")
    assert configured(DOCKER_CERT_PATH=str(own)).tlscert == ""
    with pytest.raises(ConfigError, match="tlscert and tlskey are needed"):
        configured("--tls", DOCKER_CERT_PATH=str(tmp_path))


def test_tlsverify_false_enables_tls_without_client_certificates() -> None:
    assert [(c.uses_tls, c.verifies_clients) for c in (Config(), Config(tls=True), Config(tlsverify=True))] == [
        (False, False),
        (True, True),
        (True, True),
    ]
    off = Config(tlsverify=False)
    assert (off.uses_tls, off.verifies_clients) == (True, False)


@pytest.mark.parametrize("more", [{}, {"tls": True, "tlsverify": False}])
def test_tcp_listener_outside_loopback_needs_tls_or_allow_insecure_tcp(
    more: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=r"anyone who can reach this address can become root .*--allow-insecure-tcp"):
        exposure.check("tcp://0.0.0.0:1", "0.0.0.0", Config(**more))
    exposure.check("tcp://0.0.0.0:1", "0.0.0.0", Config(allow_insecure_tcp=True, **more))
    assert caplog.messages == [
        message for message in caplog.messages if "anyone who can reach this address can become root" in message
    ]
    assert len(caplog.messages) == 1


def test_tcp_socket_from_systemd_must_also_have_tls(ready: Path) -> None:
    async def opened(found: Config) -> list[str]:
        with socket.create_server(("0.0.0.0", 0)) as sock:
            async with listen.opened(found, {os.dup(sock.fileno()): ""}) as listeners:
                return [type(each).__name__ for each in listeners]

    with pytest.raises(ConfigError, match="without TLS, anyone who can reach this address"):
        trio.run(opened, Config(hosts=("fd://",)))
    assert trio.run(opened, config(ready, hosts=("fd://",))) == ["TlsListener"]


def test_renewed_certificate_is_used_for_the_next_connection(ready: Path, tmp_path: Path) -> None:
    here = copied(ready, tmp_path)
    found = config(here, hosts=("tcp://127.0.0.1:0",))
    trusting = ssl.create_default_context(cafile=str(here / "ca.pem"))
    trusting.load_cert_chain(ready / "client" / "cert.pem", ready / "client" / "key.pem")

    async def shown(listener: Any) -> int:
        """The serial number of the certificate that a new connection gets."""
        ours, theirs = await trio.open_tcp_stream("127.0.0.1", listener._listener.socket.getsockname()[1]), None
        client = trio.SSLStream(ours, trusting, server_hostname="127.0.0.1")
        theirs = await listener.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.do_handshake)
            nursery.start_soon(client.do_handshake)
        number = int(str(client.getpeercert()["serialNumber"]), 16)
        for stream in (ours, theirs):
            await trio.aclose_forcefully(stream)
        return number

    async def main() -> None:
        async with listen.opened(found, {}) as listeners:
            (listener,) = listeners
            first = await shown(listener)
            assert orlop("renew", "--dir", here).returncode == 0
            assert await shown(listener) == first
            listen.renew(listeners, tls.server_context(found))
            second = await shown(listener)
            assert second == certificates.read_certificate(str(here), "server-cert.pem").serial_number != first

    trio.run(main)


def test_connection_with_an_unfinished_tls_handshake_is_closed(ready: Path) -> None:
    from trio.testing import MockClock, memory_stream_pair

    from orlop_kernel.http import identify as module

    async def main() -> None:
        one, other = memory_stream_pair()
        stream = trio.SSLStream(one, tls.server_context(config(ready)), server_side=True)
        await other.send_all(b"\x16\x03\x01\x02\x00\x01")  # only the start of a ClientHello

        async def known(_stream: object) -> module.Peer:
            return module.Peer("tcp")

        original, module.identify = module.identify, known  # type: ignore[assignment]
        try:
            with pytest.raises(trio.BrokenResourceError, match="no TLS handshake in time"):
                await module._tls_peer(stream)  # type: ignore[arg-type]
        finally:
            module.identify = original
        assert trio.current_time() == pytest.approx(module._HANDSHAKE_TIMEOUT, abs=1)

    trio.run(main, clock=MockClock(rate=0, autojump_threshold=0), strict_exception_groups=True)
