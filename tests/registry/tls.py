"""Certificates for registries of tests, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


def certificate(directory: Path) -> None:
    """Make ca.pem, and server.pem with server.key, which is a certificate for 127.0.0.1 that this CA has signed."""
    commands = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=test-ca"
        " -keyout ca.key -out ca.pem",
        "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -keyout server.key -out server.csr",
        "openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile san -out server.pem",
    )
    (directory / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost.localdomain\nbasicConstraints=CA:FALSE\n")
    for command in commands:
        subprocess.run(command.split(), cwd=directory, check=True, capture_output=True)
