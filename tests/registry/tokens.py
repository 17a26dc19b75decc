"""A token service for docker-registry (distribution spec, token authentication), and registries that ask for credentials."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from .server import Registry, running

__all__ = ["PASSWORD", "USER", "TokenService", "with_password", "with_tokens"]

USER, PASSWORD = "someone", "U*U"
_HASH = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"  # a test vector of bcrypt


@contextmanager
def with_password(home: Path) -> Iterator[Registry]:
    """A registry that asks for `USER` and `PASSWORD` with each request."""
    (home / "htpasswd").write_text(f"{USER}:{_HASH}\n")
    with running(extra=f"auth:\n  htpasswd:\n    realm: test\n    path: {home}/htpasswd\n") as registry:
        yield registry


class TokenService:
    """Gives tokens to `USER`; other users get tokens only for reading `public/...`. `asked`: user and scopes of each
    request; `agents`: the programs that sent the requests."""

    def __init__(self, home: Path) -> None:
        self.key, self.certificate = home / "key.pem", home / "cert.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "2"),
                *("-keyout", str(self.key), "-out", str(self.certificate)),
            ],
            check=True,
            capture_output=True,
        )
        self.asked: list[tuple[str, list[str]]] = []
        self.agents: list[str] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                service.answer(self, query, self._user())

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                user = form.get("username", [""])[0] if form.get("password") == [PASSWORD] else ""
                service.answer(self, form, user)

            def _user(self) -> str:
                text = self.headers.get("Authorization", "").removeprefix("Basic ")
                user, _, password = base64.b64decode(text).decode().partition(":")
                return user if password == PASSWORD else ""

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/token"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def answer(self, handler: BaseHTTPRequestHandler, query: dict[str, list[str]], user: str) -> None:
        scopes = [scope for text in query.get("scope", []) for scope in text.split()]
        self.asked.append((user, scopes))
        self.agents.append(handler.headers.get("User-Agent", ""))
        body = json.dumps({"token": self._token(scopes, user), "access_token": self._token(scopes, user)}).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _token(self, scopes: list[str], user: str) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            allowed = actions.split(",") if user == USER else ["pull"] if name.startswith("public/") else []
            access.append({"type": kind, "name": name, "actions": allowed})
        now = int(time.time())
        pem = "".join(line for line in self.certificate.read_text().splitlines() if "CERTIFICATE" not in line)
        claims = {"iss": "test", "aud": "registry", "sub": user, "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1"}
        head = _encoded({"typ": "JWT", "alg": "RS256", "x5c": [pem]}) + b"." + _encoded({**claims, "access": access})
        signed = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self.key)], input=head, check=True, capture_output=True
        )
        return (head + b"." + _base64(signed.stdout)).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _encoded(value: object) -> bytes:
    return _base64(json.dumps(value).encode())


@contextmanager
def with_tokens(home: Path) -> Iterator[tuple[Registry, TokenService]]:
    """A registry that asks for tokens of a service."""
    service = TokenService(home)
    service.thread.start()
    auth = {"realm": service.address, "service": "registry", "issuer": "test", "rootcertbundle": str(service.certificate)}
    lines = "".join(f"    {key}: {value}\n" for key, value in auth.items())
    try:
        with running(extra=f"auth:\n  token:\n{lines}") as registry:
            yield registry, service
    finally:
        service.server.shutdown()
        service.thread.join()
        service.server.server_close()
