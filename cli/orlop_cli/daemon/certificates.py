"""A certificate authority in a directory: the CA, a server's certificate, and a directory for each client.

    ca.pem  ca-key.pem  server-cert.pem  server-key.pem
    CLIENT/ca.pem  CLIENT/cert.pem  CLIENT/key.pem       value of DOCKER_CERT_PATH; copied to the client's machine

Keys are P-256 (FIPS 186-5), which Go, OpenSSL and every curl support. Files are written under temporary names and renamed;
keys have mode 0600. An interrupted run leaves the old files, or a certificate and key that do not match, which the server
refuses.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import re
import socket
from typing import NamedTuple

from orlop_cli._errors import CliError

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
    from cryptography.x509.oid import NameOID
except ModuleNotFoundError:
    raise CliError(
        "making certificates needs the Python package cryptography, which is not installed (Debian: python3-cryptography)"
    ) from None

CA, CA_KEY, SERVER, SERVER_KEY = "ca.pem", "ca-key.pem", "server-cert.pem", "server-key.pem"
_CA_DAYS = 3650
_SLACK = dt.timedelta(hours=1)  # tolerance for clocks that differ
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_NEVER = ("0.0.0.0", "::")


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


# --- names


def general_name(text: str) -> x509.GeneralName:
    """A server name as a subjectAltName: an address, a host name, or `*.` and a host name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        pass
    labels = text.removeprefix("*.").rstrip(".").split(".")
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise CliError(f'invalid name "{text}": neither a host name nor an IP address')
    return x509.DNSName(text.rstrip("."))


def own_names() -> list[str]:
    """Names by which clients may reach this machine: its host names, loopback, and its addresses except link-local
    addresses."""
    host = socket.gethostname()
    found = [host, socket.getfqdn(), "localhost", "127.0.0.1", "::1", *_addresses()]
    return [name for name in dict.fromkeys(found) if name not in _NEVER and _possible(name)]


def _possible(name: str) -> bool:
    try:
        general_name(name)
    except CliError:
        return False
    return True


def _addresses() -> Iterable[str]:
    """The addresses in the kernel's list (proc(5)); none if the list cannot be read."""
    try:
        with open("/proc/net/fib_trie") as file:
            text = file.read()
        with open("/proc/net/if_inet6") as file:
            lines = [line.split() for line in file]
    except OSError:
        return []
    found = sorted(set(re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", text)))
    six = sorted(str(ipaddress.ip_address(bytes.fromhex(fields[0]))) for fields in lines if fields[3] == "00")
    return [name for name in (*found, *six) if not name.startswith("127.")]


def names_of(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


# --- making


def _build(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: Pair | None, days: int, extensions: Sequence[x509.ExtensionType]
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject[:64])])
    signer = issuer.key if issuer else key
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    end = now + dt.timedelta(days=days)
    end = min(end, issuer.certificate.not_valid_after_utc) if issuer else end  # a certificate is useless after the CA's end
    builder = (
        x509.CertificateBuilder(name if issuer is None else issuer.certificate.subject, name, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None if issuer else 0), critical=True)
        .add_extension(_key_usage(ca=issuer is None), critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, hashes.SHA256())


def _key_usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def make_ca(days: int) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    return Pair(_build(f"Orlop CA of {socket.gethostname()}", key, None, max(days, _CA_DAYS), []), key)


def make_server(ca: Pair, names: Sequence[str], days: int) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = x509.SubjectAlternativeName([general_name(name) for name in names])
    return Pair(_build(names[0], key, ca, days, [alternatives, x509.ExtendedKeyUsage([Usage.SERVER_AUTH])]), key)


def make_client(ca: Pair, name: str, days: int) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    return Pair(_build(name, key, ca, days, [x509.ExtendedKeyUsage([Usage.CLIENT_AUTH])]), key)


def check_client(name: str) -> str:
    if not _CLIENT.fullmatch(name):
        raise CliError(f'invalid client name "{name}": letters, digits and "._-@" only, at most 64')
    return name


# --- files


def load(directory: str, certificate: str, key: str) -> Pair:
    """Load an existing pair. Raises `CliError` when it is missing or was not made by this command."""
    try:
        found = x509.load_pem_x509_certificate(_read(os.path.join(directory, certificate)))
        private = serialization.load_pem_private_key(_read(os.path.join(directory, key)), None)
    except (ValueError, TypeError) as error:
        raise CliError(f"cannot use {certificate} and {key} in {directory}: {error}") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != found.public_key():
        raise CliError(f"cannot use {certificate} in {directory}: {key} is not its key, or was not made by orlop")
    return Pair(found, private)


def read_certificate(directory: str, name: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(os.path.join(directory, name)))
    except ValueError as error:
        raise CliError(f"cannot read {os.path.join(directory, name)}: {error}") from None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}") from None


def store(directory: str, pair: Pair, certificate: str, key: str) -> None:
    """Write the key before the certificate, because a server refuses a certificate without its key, whereas a key without a
    certificate is harmless."""
    private = pair.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(os.path.join(directory, key), private, 0o600)
    store_certificate(directory, pair.certificate, certificate)


def store_certificate(directory: str, certificate: x509.Certificate, name: str) -> None:
    _write(os.path.join(directory, name), certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def make_directory(path: str) -> None:
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except OSError as error:
        raise CliError(f"cannot make directory {path}: {error.strerror}; use --dir to name another directory") from None


def _write(path: str, content: bytes, mode: int) -> None:
    temporary = f"{path}.{os.getpid()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            os.fchmod(fd, mode)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise CliError(f"cannot write {path}: {error.strerror}") from None
