"""Docker's config.json (`$DOCKER_CONFIG` or ~/.docker), which docker and orlop share."""

from __future__ import annotations

import os
import sys

from orlop_cli._errors import CliError
from orlop_cli.values import jsontext

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any, TypeVar

    _Kind = TypeVar("_Kind")


_NAMES: dict[Any, str] = {str: "a string", dict: "an object", list: "a list"}


def directory() -> str:
    """The directory of config.json and TLS files."""
    return os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")


_loaded: dict[str, dict[str, Any]] = {}


def load() -> dict[str, Any]:
    """The file's content, which is read only once. It is {} if the file does not exist. If the file cannot be read, a
    warning is printed, and the content is {}."""
    path = file_path()
    if path not in _loaded:
        try:
            _loaded[path] = _read(path)
        except CliError as error:  # as in docker: commands that need nothing of the file still work
            _loaded[path] = {}
            print(f"WARNING: Error loading config file: {error.message}", file=sys.stderr)
    return _loaded[path]


def forget() -> None:
    """Forget the content, so that the next use reads the file again."""
    _loaded.clear()


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            loaded = jsontext.loads(file.read())
    except FileNotFoundError:
        return {}
    except PermissionError:
        return {}  # with sudo without -H, this is the file of another user, which may not be readable
    except OSError as error:
        raise CliError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError) as error:
        raise CliError(f"cannot read {path}: {error}") from None
    if not isinstance(loaded, dict):
        raise CliError(f"cannot read {path}: not a JSON object")
    return loaded


def file_path() -> str:
    """The path of config.json."""
    return os.path.join(directory(), "config.json")


def member(found: dict[str, Any], key: str, kind: type[_Kind], name: str = "") -> _Kind:
    """A member of the file or of an object in it. An absent member or null is an empty value. Raises CliError for another
    type than `kind`."""
    value = found.get(key)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise CliError(f"cannot read {file_path()}: {name or key} is not {_NAMES[kind]}")
    return value


def text(key: str) -> str:
    """A string of the file, such as psFormat; "" if it is not set."""
    return member(load(), key, str)


def table(key: str) -> dict[str, Any]:
    """An object of the file; {} if it is not set."""
    return member(load(), key, dict)


def proxy_environment(host: str) -> dict[str, str]:
    """Proxy variables for new containers from `proxies`, in upper and lower case. An entry for this daemon overrides the
    entry `default`."""
    proxies = table("proxies")
    names = {"httpProxy": "HTTP_PROXY", "httpsProxy": "HTTPS_PROXY", "noProxy": "NO_PROXY", "ftpProxy": "FTP_PROXY"}
    names["allProxy"] = "ALL_PROXY"
    chosen = member(proxies, host, dict, f"proxies of {host}") or member(proxies, "default", dict, "default of proxies")
    found = {names[key]: str(value) for key, value in chosen.items() if key in names and value}
    return {**found, **{name.lower(): value for name, value in found.items()}}


def detach_keys(flag: str | None) -> str | None:
    """The detach keys: --detach-keys, otherwise the configured keys, otherwise None for the daemon's default
    ctrl-p,ctrl-q."""
    return flag or text("detachKeys") or None


def save(document: dict[str, Any]) -> None:
    """Write the file in docker's format. Raises CliError."""
    import json

    path = os.path.realpath(file_path())
    _read(path)  # a file that cannot be read is not replaced
    text = json.dumps({"auths": {}, **document}, indent="\t", ensure_ascii=False)
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        replace(path, text.encode(), 0o600)
    except OSError as error:
        raise CliError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
    forget()


def replace(path: str, content: bytes, mode: int) -> None:
    """Replace a file atomically: a reader gets the old or the new content. An existing file keeps its mode. Raises
    OSError."""
    import tempfile

    try:
        mode = os.stat(path).st_mode & 0o777
    except FileNotFoundError:
        pass
    fd, temporary = tempfile.mkstemp(prefix=os.path.basename(path), dir=os.path.dirname(path))
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
