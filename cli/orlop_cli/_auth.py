"""Registry credentials of `login`: config.json and credential helpers."""

from __future__ import annotations

import base64
import json
import sys

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
    if helper_of(key) and not _is_installed(helper_of(key)):
        print(f"WARNING: {_program(helper_of(key))} is not installed: no credentials for {key}", file=sys.stderr)
        return {}
    found = lookup(key)
    if not found:
        return {}
    encoded = base64.urlsafe_b64encode(json.dumps({**found, "serveraddress": key}).encode()).decode()
    return {"X-Registry-Auth": encoded}


def helper_of(key: str) -> str:
    """The credential helper for a registry; "" for config.json itself."""
    return _config.member(_config.table("credHelpers"), key, str) or _config.text("credsStore")


def lookup(key: str, missing_helper_ok: bool = False) -> dict[str, str] | None:
    """The stored credentials of a registry. If the helper is not installed, this is an error, unless `missing_helper_ok` is
    set: then the registry has no stored credentials."""
    helper = helper_of(key)
    if not helper:
        return _stored(_config.member(_config.table("auths"), key, dict))
    if missing_helper_ok and not _is_installed(helper):
        return None
    return _ask(helper, key)


def store(key: str, credentials: dict[str, str]) -> None:
    """Store credentials: `username` with `password` or `identitytoken`. Raises CliError."""
    helper, entry = helper_of(key), {}
    if helper:
        token = credentials.get("identitytoken", "")
        user, secret = ("<token>", token) if token else (credentials["username"], credentials["password"])
        document = {"ServerURL": key, "Username": user, "Secret": secret}
        try:
            _run(helper, "store", json.dumps(document, separators=(",", ":")))
        except CliError as error:
            raise CliError(f"Error saving credentials: error storing credentials - err: {error.message}") from None
    else:
        pair = f"{credentials.get('username', '')}:{credentials.get('password', '')}"
        entry = {"auth": base64.b64encode(pair.encode()).decode()}
        if credentials.get("identitytoken"):
            entry["identitytoken"] = credentials["identitytoken"]
    _config.save({**_config.load(), "auths": {**_config.table("auths"), key: entry}})


def erase(key: str) -> None:
    """Remove the credentials of a registry, if any are stored. Raises CliError."""
    helper = helper_of(key)
    auths = _config.table("auths")
    if key in auths:
        _config.save({**_config.load(), "auths": {name: entry for name, entry in auths.items() if name != key}})
    if helper and _is_installed(helper):
        _run(helper, "erase", key)


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


def _is_installed(helper: str) -> bool:
    import shutil

    return shutil.which(_program(helper)) is not None


def _program(helper: str) -> str:
    return f"docker-credential-{helper}"


def _ask(helper: str, key: str) -> dict[str, str] | None:
    """Run `docker-credential-HELPER get`. A helper without credentials prints exactly these words and exits 1."""
    program = _program(helper)
    try:
        text = _run(helper, "get", key)
    except CliError as error:
        if NOT_FOUND in error.message:
            return None
        raise CliError(f"cannot get credentials for {key}: {error.message}") from None
    try:
        answer = json.loads(text)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, LookupError, TypeError):
        raise CliError(f"cannot get credentials for {key}: {program}: its answer has no Username and Secret") from None
    return {"identitytoken": secret} if user == "<token>" else {"username": user, "password": secret}


def _run(helper: str, action: str, text: str) -> str:
    """Run a credential helper (docker-credential-helpers, protocol of README.md). Raises CliError."""
    import subprocess

    program = _program(helper)
    try:
        done = subprocess.run([program, action], input=text, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise CliError(f'exec: "{program}": executable file not found in $PATH, out: ``') from None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise CliError(f"{program}: {error}") from None
    if done.returncode:
        raise CliError(f"{program}: {(done.stdout or done.stderr).strip()}")
    return done.stdout


def all_registries() -> dict[str, dict[str, str]]:
    """The stored credentials of all registries, for a build that may pull from any of them. A registry is omitted if its
    helper has no credentials."""
    keys = {*_config.table("auths"), *_config.table("credHelpers")}
    found = {}
    for key in sorted(keys):
        entry = lookup(key, missing_helper_ok=True)
        if entry:
            found[key] = entry
    return found
