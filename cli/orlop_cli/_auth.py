"""Stored registry credentials, as `docker login` left them: config.json and credential helpers. Read only."""

from __future__ import annotations

import base64
import json
from typing import Any

from orlop_cli import _config
from orlop_cli._errors import CliError
from orlop_cli._reference import HUB, HUB_KEY

NOT_FOUND = "credentials not found in native keychain"


def header(domain: str) -> dict[str, str]:
    """The X-Registry-Auth header for a registry, or none if nothing is stored for it."""
    key = HUB_KEY if domain == HUB else domain
    found = _lookup(key)
    if not found:
        return {}
    encoded = base64.urlsafe_b64encode(json.dumps({**found, "serveraddress": key}).encode()).decode()
    return {"X-Registry-Auth": encoded}


def _lookup(key: str) -> dict[str, str] | None:
    config = _config.load()
    helper = (config.get("credHelpers") or {}).get(key) or config.get("credsStore")
    if helper:
        return _ask(str(helper), key)
    return _stored((config.get("auths") or {}).get(key) or {})


def _stored(entry: dict[str, Any]) -> dict[str, str] | None:
    if entry.get("identitytoken"):
        return {"identitytoken": str(entry["identitytoken"])}
    if not entry.get("auth"):
        return None
    try:
        user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
    except ValueError:
        raise CliError("cannot read credentials in config.json: auth is not base64") from None
    return {"username": user, "password": password.rstrip("\0")}


def _ask(helper: str, key: str) -> dict[str, str] | None:
    """Run `docker-credential-HELPER get`; a helper that has nothing says so in these exact words and exits 1."""
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, "get"], input=key, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CliError(f"cannot get credentials for {key}: {program}: {error}") from None
    if done.returncode:
        if NOT_FOUND in done.stdout:
            return None
        raise CliError(f"cannot get credentials for {key}: {program}: {(done.stdout or done.stderr).strip()}")
    answer = json.loads(done.stdout)
    if answer.get("Username") == "<token>":
        return {"identitytoken": answer["Secret"]}
    return {"username": answer["Username"], "password": answer["Secret"]}
