"""Reads the TLS files of the configuration and tests them with a handshake before any client connects.

Imports ssl but not trio, because `--validate` uses this module. Writes nothing. For a renewed certificate, a new context is
made.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
import time
from typing import Any, NoReturn

from msgspec.structs import replace

from orlop_kernel.config import Config, ConfigError, Listener

__all__ = ["contexts", "same", "server_context", "warnings"]

_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)  # X509_V_FLAG_NO_CHECK_TIME: `_check_dates` checks and reports dates
_SOON = 14 * 86400.0
_FLIGHTS = 4  # rounds of messages; an in-memory handshake needs two
_PEM = {
    "tlscert": b"-----BEGIN CERTIFICATE-----",
    "tlskey": b" PRIVATE KEY-----",
    "tlscacert": b"-----BEGIN CERTIFICATE-----",
}
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

_log = logging.getLogger("orlop.daemon")


def _refuse(text: str) -> NoReturn:
    raise ConfigError(f"invalid TLS configuration: {text}")


def _check_form(key: str, path: str) -> None:
    """Check the form of a PEM file, because OpenSSL's errors name neither the file nor the mistake in it."""
    try:
        with open(path, "rb") as file:
            content = file.read(1 << 20)
    except OSError as error:
        _refuse(f"cannot read {key} {path}: {error.strerror}")
    if _PEM[key] not in content:
        _refuse(f"{key} {path} holds no {'private key' if key == 'tlskey' else 'certificate'} in PEM form")


def _no_passphrase() -> NoReturn:
    _refuse("tlskey is encrypted, and the daemon cannot ask for its passphrase: use a key without a passphrase")


def _load_pair(context: ssl.SSLContext, config: Config) -> None:
    try:
        context.load_cert_chain(config.tlscert, config.tlskey, _no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            _refuse(f"tlskey {config.tlskey} is not the key of the certificate in tlscert {config.tlscert}")
        _refuse(f"cannot use tlscert {config.tlscert} with tlskey {config.tlskey}: {_reason(error)}")


def _reason(error: ssl.SSLError) -> str:
    return getattr(error, "verify_message", "") or (error.reason or str(error)).replace("_", " ").lower()


def _check_dates(what: str, certificate: dict[str, Any]) -> None:
    now = time.time()
    if now < ssl.cert_time_to_seconds(certificate["notBefore"]):
        _refuse(f"{what} is not valid before {certificate['notBefore']}")
    if now > ssl.cert_time_to_seconds(certificate["notAfter"]):
        _refuse(f"{what} expired on {certificate['notAfter']}")


def _test_handshake(context: ssl.SSLContext, config: Config) -> dict[str, Any]:
    """Do a handshake in memory with a client that trusts only this certificate, and return the certificate that the server
    presents. It fails, as with a real client, if the key does not match or the certificate is not for servers."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False  # the names by which clients reach this daemon are unknown
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    trusting.load_verify_locations(config.tlscert)
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(one, other)
    server = context.wrap_bio(other, one, server_side=True)
    try:
        for _ in range(_FLIGHTS):
            for side in (client, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLError as error:
        _refuse(f"clients would refuse tlscert {config.tlscert}: {_reason(error)}")
    return client.getpeercert() or {}


def _load_authority(context: ssl.SSLContext, config: Config) -> None:
    _check_form("tlscacert", config.tlscacert)
    try:
        context.load_verify_locations(config.tlscacert)
    except ssl.SSLError as error:
        _refuse(f"cannot use tlscacert {config.tlscacert}: {_reason(error)}")
    found = context.get_ca_certs()
    now = time.time()
    if found and not any(now <= ssl.cert_time_to_seconds(str(each["notAfter"])) for each in found):
        _check_dates(f"the CA in tlscacert {config.tlscacert}", found[0])


def server_context(config: Config) -> ssl.SSLContext:
    """The TLS context of new connections. Raises `ConfigError`, which names the file, if no client could connect."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _check_form("tlscert", config.tlscert)
    _check_form("tlskey", config.tlskey)
    _load_pair(context, config)
    shown = _test_handshake(context, config)
    _check_dates(f"the certificate in tlscert {config.tlscert}", shown)
    if config.verifies_clients:
        _load_authority(context, config)
        context.verify_mode = ssl.CERT_REQUIRED
    for warning in warnings(config, shown):
        _log.warning("%s", warning)
    return context


def contexts(config: Config, hosts_by_tcp: bool) -> dict[str, ssl.SSLContext]:
    """Maps each CA that issues certificates of clients (the CA of `hosts`, and the CAs of `listeners`) to a
    `server_context`. Raises `ConfigError` also when a client certificate for one address would be accepted at an address
    with other rights."""
    if not config.uses_tls:
        return {}
    made = {config.tlscacert: server_context(config)}
    for entry in config.listeners:
        if entry.tlscacert and entry.tlscacert not in made:
            made[entry.tlscacert] = server_context(replace(config, tlscacert=entry.tlscacert))
    _check_rights(config, hosts_by_tcp)
    return made


def _check_rights(config: Config, hosts_by_tcp: bool) -> None:
    """Refuse two addresses with one CA and different rights: an address accepts every certificate that its CA signed."""
    entries = [entry for entry in config.listeners if entry.host.startswith("tcp:")]
    if hosts_by_tcp:
        entries.insert(0, Listener(host="hosts", role="full"))
    seen: list[tuple[Listener, set[bytes]]] = []
    for entry in entries:
        trusted = _certificates(entry.tlscacert or config.tlscacert)
        for other, theirs in seen:
            if _rights(entry) != _rights(other) and trusted & theirs:
                _refuse(
                    f"{entry.host} (role {entry.role}) and {other.host} (role {other.role}) trust the same CA, but give "
                    f"different rights: clients of one could use the other; in listeners, give {entry.host} a tlscacert of "
                    "its own (`orlop tls init --dir DIR` makes one), or remove the tcp addresses from hosts"
                )
        seen.append((entry, trusted))


def _rights(entry: Listener) -> object:
    """What clients of an entry may do. Entries with different rights must not trust the same CA."""
    return entry.role, frozenset(entry.labels), entry.shared_images, entry.show_env, frozenset(entry.image_names)


def _certificates(path: str) -> set[bytes]:
    """The certificates in a checked file. CAs are compared by content, because two files may contain the same CA."""
    with open(path, encoding="ascii", errors="replace") as file:
        return {ssl.PEM_cert_to_DER_cert(text) for text in _CERTIFICATE.findall(file.read())}


def same(one: Config, other: Config) -> bool:
    """Whether both configurations use the same files and have the same requirements for clients."""
    keys = ("uses_tls", "verifies_clients", "tlscacert", "tlscert", "tlskey", "listeners", "effective_hosts")
    return all(getattr(one, key) == getattr(other, key) for key in keys)


def warnings(config: Config, certificate: dict[str, Any]) -> list[str]:
    """Settings that work but should be changed."""
    found = []
    left = ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()
    if left < _SOON:
        found.append(f"the certificate in tlscert {config.tlscert} expires in {int(left // 86400)} days")
    if os.stat(config.tlskey).st_mode & 0o007:
        found.append(f"tlskey {config.tlskey} can be read by every user of this machine: chmod 600 {config.tlskey}")
    if not config.verifies_clients:
        found.append("tlsverify is off: clients need no certificate, so anyone who can reach it can become root")
    return found
