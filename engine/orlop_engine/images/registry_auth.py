"""Authentication to registries (distribution spec, token authentication; RFC 7235 challenges). This module does no I/O."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit, urlunsplit

import msgspec

__all__ = [
    "ANONYMOUS",
    "Challenge",
    "Credentials",
    "Token",
    "challenges",
    "credentials",
    "credentials_of",
    "new_token",
    "read_token",
    "token_form",
    "token_url",
]

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]*)(?:\s+|$)")
_PARAMETER = re.compile(r'\s*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))\s*(?:,|$)')
_MIN_LIFETIME = 60.0  # Docker's minimum, also used if the registry's answer contains no lifetime


class _AuthConfig(msgspec.Struct):
    username: str = ""
    password: str = ""
    auth: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class _TokenAnswer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


Ask = Callable[[str, str, list[str]], Awaitable["Token | Credentials"]]


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials that a client sent in `X-Registry-Auth`. The `repr` contains no secret, so it may be logged."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    server: str = ""
    """The registry that the credentials are for, as the client spells it."""
    ask: Ask | None = field(default=None, repr=False, compare=False)
    """If no other field is set, this function asks the client for a token or for credentials. With a realm, it asks for a
    token for this realm, service and scopes; without a realm, for user and password. Returns the token or the credentials.
    Raises `OrlopError`."""

    @property
    def basic(self) -> str:
        """The value of an Authorization header; "" without user and password."""
        if not self.username and not self.password:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


ANONYMOUS = Credentials()


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a `WWW-Authenticate` header. The names of parameters are in lower case."""

    scheme: str
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True)
class Token:
    value: str = field(repr=False)
    lifetime: float


def credentials(header: str) -> Credentials:
    """Decode the header `X-Registry-Auth`: base64url of JSON, padding optional. As in Docker, an invalid header means
    anonymous access, and only the first of several values is used."""
    try:
        text = header.partition(",")[0].rstrip("=")
        return credentials_of(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError:
        return ANONYMOUS


def credentials_of(data: bytes) -> Credentials:
    """Decode the content of `X-Registry-Auth`. A push may send the same content as its body. Raises `ValueError` if it is
    invalid."""
    found = msgspec.json.decode(data, type=_AuthConfig)
    if found.auth and not found.username:
        user, _, secret = base64.b64decode(found.auth).decode().partition(":")
        found.username, found.password = user, secret
    return Credentials(found.username, found.password, found.identitytoken, found.registrytoken, found.serveraddress)


def challenges(header: str) -> list[Challenge]:
    """The challenges of a `WWW-Authenticate` header. Invalid challenges are skipped."""
    result: list[Challenge] = []
    rest = header[:8192]
    while match := _SCHEME.match(rest):
        rest = rest[match.end() :]
        parameters: dict[str, str] = {}
        while pair := _PARAMETER.match(rest):
            name, quoted, plain = pair.groups()
            parameters[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            rest = rest[pair.end() :]
        result.append(Challenge(match[1].lower(), parameters))
        rest = rest.lstrip(", ")
    return result


def token_url(realm: str, service: str, scopes: list[str], account: str) -> str:
    """The URL for a GET request that returns a token."""
    query = [("account", account)] if account else []
    query += [("scope", scope) for scope in scopes]
    query += [("service", service)] if service else []
    parts = urlsplit(realm)
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, urlencode(query))))))


def token_form(service: str, scopes: list[str], refresh_token: str) -> bytes:
    """The body of a POST that exchanges an identity token for an access token."""
    return urlencode(
        [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token),
            ("service", service),
            ("scope", " ".join(scopes)),
            ("client_id", "docker"),
        ]
    ).encode()


def read_token(body: bytes) -> Token | None:
    """Parse the answer of a token service; None if it contains no token."""
    try:
        answer = msgspec.json.decode(body, type=_TokenAnswer)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return new_token(answer.token or answer.access_token, answer.expires_in or 0)


def new_token(value: str, lifetime: float) -> Token | None:
    """A token that is valid for `lifetime` seconds (0: unknown). None if its text is not allowed in a header."""
    if not value or not value.isascii() or not value.isprintable():
        return None
    return Token(value, max(lifetime, _MIN_LIFETIME))
