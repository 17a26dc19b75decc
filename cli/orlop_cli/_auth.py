"""Reads the registry credentials that `docker login` has stored in config.json or in credential helpers."""

from __future__ import annotations

import base64
import json

from orlop_cli import _config
from orlop_cli._errors import CliError
from orlop_cli.values.references import HUB, HUB_KEY

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any


NOT_FOUND = "credentials not found in native keychain"


def header(domain: str) -> dict[str, str]:
    """The X-Registry-Auth header for a registry; empty if no credentials are stored."""
    key = HUB_KEY if domain == HUB else domain
    found = _lookup(key)
    if not found:
        return {}
    encoded = base64.urlsafe_b64encode(json.dumps({**found, "serveraddress": key}).encode()).decode()
    return {"X-Registry-Auth": encoded}


def _lookup(key: str) -> dict[str, str] | None:
    helper = _config.member(_config.table("credHelpers"), key, str) or _config.text("credsStore")
    if helper:
        return _ask(helper, key)
    return _stored(_config.member(_config.table("auths"), key, dict))


def _stored(entry: dict[str, Any]) -> dict[str, str] | None:
    token, auth = _config.member(entry, "identitytoken", str), _config.member(entry, "auth", str)
    if token:
        return {"identitytoken": token}
    if not auth:
        return None
    try:
        user, _, password = base64.b64decode(auth).decode().partition(":")
    except ValueError:
        raise CliError("cannot read credentials in config.json: auth is not base64") from None
    return {"username": user, "password": password.rstrip("\0")}


def _ask(helper: str, key: str) -> dict[str, str] | None:
    """Run `docker-credential-HELPER get`. A helper without credentials prints exactly these words and exits 1."""
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, "get"], input=key, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise CliError(f"cannot get credentials for {key}: {program}: {error}") from None
    if done.returncode:
        if NOT_FOUND in done.stdout:
            return None
        raise CliError(f"cannot get credentials for {key}: {program}: {(done.stdout or done.stderr).strip()}")
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, LookupError, TypeError):
        raise CliError(f"cannot get credentials for {key}: {program}: its answer has no Username and Secret") from None
    return {"identitytoken": secret} if user == "<token>" else {"username": user, "password": secret}


def all_registries() -> dict[str, dict[str, str]]:
    """The stored credentials of all registries, for a build that may pull from any of them. A registry is omitted if its
    helper has no credentials."""
    keys = {*_config.table("auths"), *_config.table("credHelpers")}
    found = {}
    for key in sorted(keys):
        entry = _lookup(key)
        if entry:
            found[key] = entry
    return found
