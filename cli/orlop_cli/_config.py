"""Docker's config.json (`$DOCKER_CONFIG` or ~/.docker): read, never written."""

from __future__ import annotations

import json
import os
from functools import cache
from typing import Any

from orlop_cli._errors import CliError


def directory() -> str:
    """Where config.json and TLS files are."""
    return os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")


@cache
def load() -> dict[str, Any]:
    """The file's content; an absent file is an empty one."""
    path = os.path.join(directory(), "config.json")
    try:
        with open(path, "rb") as file:
            loaded = json.load(file)
    except FileNotFoundError:
        return {}
    except PermissionError:
        return {}  # sudo without -H: a file of another user is not ours to read
    except ValueError as error:
        raise CliError(f"cannot read {path}: {error}") from None
    if not isinstance(loaded, dict):
        raise CliError(f"cannot read {path}: not a JSON object")
    return loaded


def default_format(key: str) -> str:
    """A configured default for --format, such as psFormat."""
    return str(load().get(key) or "")


def proxy_environment(host: str) -> dict[str, str]:
    """Variables for new containers from `proxies`, both spellings; the daemon's own entry wins over `default`."""
    proxies = load().get("proxies") or {}
    names = {"httpProxy": "HTTP_PROXY", "httpsProxy": "HTTPS_PROXY", "noProxy": "NO_PROXY", "ftpProxy": "FTP_PROXY"}
    names["allProxy"] = "ALL_PROXY"
    chosen = proxies.get(host) or proxies.get("default") or {}
    found = {names[key]: str(value) for key, value in chosen.items() if key in names and value}
    return {**found, **{name.lower(): value for name, value in found.items()}}


def detach_keys(flag: str | None) -> str | None:
    """--detach-keys, else the configured ones, else None for the daemon's ctrl-p,ctrl-q."""
    return flag or load().get("detachKeys") or None
