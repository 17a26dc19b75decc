"""TLS verification of servers: registries, web servers, authorization plugins. The rules are the same for all of these
servers, and the same as Go's.

The daemon's own TLS listeners are in `orlop_kernel.boot.tls`.
"""

from __future__ import annotations

import os
import ssl
from contextlib import suppress

__all__ = ["client_context"]


def client_context(*, verify: bool = True, ca: str = "") -> ssl.SSLContext:
    """A context that trusts the system's certificate authorities, or only the authorities in the file `ca`. Without
    `verify`, it trusts any server.

    SSL_CERT_FILE and SSL_CERT_DIR replace the system's paths, as for any program that uses OpenSSL or Go. Raises OSError and
    ssl.SSLError."""
    if not verify:  # certificate authorities are not needed, and reading them takes 7 ms
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    context = ssl.create_default_context(cafile=ca or None)
    # By default, Python 3.13 enforces RFC 5280 strictly, and refuses a CA without keyUsage, such as a CA made by `openssl
    # req -x509`. OpenSSL, curl and Go accept such a CA
    context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    if not ca:
        _load_directories(context)
    return context


def _load_directories(context: ssl.SSLContext) -> None:
    """Load every file in SSL_CERT_DIR, as Go does. OpenSSL only reads files with names made by `openssl rehash`."""
    for directory in filter(None, os.environ.get("SSL_CERT_DIR", "").split(":")):
        if os.path.realpath(directory) == os.path.realpath(ssl.get_default_verify_paths().openssl_capath):
            continue  # skipped, because the distribution has already run `openssl rehash` in this directory
        with suppress(OSError):
            for entry in os.scandir(directory):
                with suppress(OSError, ssl.SSLError):  # the file may not be a certificate
                    context.load_verify_locations(entry.path)
