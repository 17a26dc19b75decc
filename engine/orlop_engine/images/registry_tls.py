"""The TLS settings of registries: certificates in `certs.d`, and certificates from `hosts.toml`."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence

from orlop_engine.server_tls import client_context
from orlop_sdk import InvalidParameter

from .endpoints import HostSettings

__all__ = ["CERTS_D", "host_directory", "tls_context"]

CERTS_D = ("/etc/orlop/certs.d", "/etc/docker/certs.d")
_DEFAULT = "_default"
_NONE = HostSettings()


def host_directory(host: str, roots: Sequence[str] = CERTS_D, *, default: bool = False) -> str:
    """The directory of a registry, `HOST_PORT_` (containerd's spelling) or `HOST:PORT`, in the first of `roots` that
    contains such a directory. If no root contains such a directory and `default` is set, the result is the directory
    `_default`. If that does not exist either, the result is ""."""
    name, colon, port = host.rpartition(":")
    spellings = [f"{name}_{port}_", host] if colon and not port.endswith("]") else [host]
    for names in (spellings, [_DEFAULT] if default else []):
        for root in roots:
            for spelling in names:
                if os.path.isdir(directory := os.path.join(root, spelling)):
                    return directory
    return ""


def _load(context: ssl.SSLContext, directory: str) -> None:
    names = sorted(os.listdir(directory))
    for name in names:
        path = os.path.join(directory, name)
        stem, extension = os.path.splitext(path)
        if extension == ".crt":
            context.load_verify_locations(path)
        elif extension == ".cert":
            if os.path.basename(stem) + ".key" not in names:
                raise InvalidParameter(f"missing key {os.path.basename(stem)}.key for client certificate {name}")
            context.load_cert_chain(path, stem + ".key")
        elif extension == ".key" and os.path.basename(stem) + ".cert" not in names:
            raise InvalidParameter(f"missing client certificate {os.path.basename(stem)}.cert for key {name}")


def _load_named(context: ssl.SSLContext, settings: HostSettings) -> None:
    for path in settings.ca:
        try:
            context.load_verify_locations(path)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(f"cannot read ca {path} of {settings.url or 'the registry'}: {error}") from error
    for certificate, key in settings.client:
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            where = f"{certificate} and {key}" if key != certificate else certificate
            raise InvalidParameter(
                f"cannot read the client certificate {where} of {settings.url or 'the registry'}: {error}"
            ) from error


def tls_context(host: str, verify: bool, roots: Sequence[str] = CERTS_D, settings: HostSettings = _NONE) -> ssl.SSLContext:
    """A TLS context that trusts the certificate authorities of the system, of `certs.d/<host>`, and of `settings`. If
    `verify` is false, any server is trusted, but client certificates are still sent."""
    context = client_context(verify=verify)
    if directory := host_directory(host, roots):
        try:
            _load(context, directory)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(f"cannot read certificates in {directory}: {error}") from error
    _load_named(context, settings)
    return context
