"""Docker's context store: settings of daemons by name, in `contexts` of docker's configuration directory.

`meta/ID/meta.json` is the context, and `tls/ID/docker/` contains its TLS files. ID is the SHA-256 of the name (docker/cli,
context/store). Files have the same format as docker's files, so that docker and orlop can use the same store.
"""

from __future__ import annotations

import os

from orlop_cli import _config
from orlop_cli._errors import CliError
from orlop_cli.values import jsontext

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]

__all__ = ["DEFAULT", "TLS_FILES", "Context", "check_name", "current", "names", "read", "remove", "write"]

DEFAULT = "default"
TLS_FILES = ("ca.pem", "cert.pem", "key.pem")
_NAME = "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"


class Context:
    """A context: its document, with the keys Name, Metadata and Endpoints, and the path where it is stored."""

    def __init__(self, name: str, document: Document) -> None:
        self.name, self.document = name, document

    @property
    def endpoint(self) -> Document:
        """Host and SkipTLSVerify of the daemon."""
        found = _config.member(_config.member(self.document, "Endpoints", dict), "docker", dict)
        return dict(found)

    @property
    def host(self) -> str:
        return str(self.endpoint.get("Host") or "")

    @property
    def description(self) -> str:
        return str(_config.member(self.document, "Metadata", dict).get("Description") or "")

    @property
    def meta_path(self) -> str:
        return _place("meta", self.name)

    @property
    def tls_path(self) -> str:
        return _place("tls", self.name)

    def tls_files(self) -> dict[str, str]:
        """The paths of the TLS files that the context has, by name: ca.pem, cert.pem, key.pem."""
        paths = {name: os.path.join(self.tls_path, "docker", name) for name in TLS_FILES}
        return {name: path for name, path in paths.items() if os.path.exists(path)}


def _place(kind: str, name: str = "") -> str:
    import hashlib

    top = os.path.join(_config.directory(), "contexts", kind)
    return os.path.join(top, hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()) if name else top


def current(flag: str | None = None) -> tuple[str, str]:
    """The name of the selected context, and the setting that selects it. A host in the environment selects the default."""
    if flag:
        return flag, "--context"
    for variable in ("ORLOP_HOST", "DOCKER_HOST"):
        if os.environ.get(variable):
            return DEFAULT, variable
    name = os.environ.get("DOCKER_CONTEXT")
    if name:
        return name, "DOCKER_CONTEXT"
    return _config.text("currentContext") or DEFAULT, "currentContext of config.json"


def check_name(name: str) -> None:
    """Raise CliError for a name that docker does not accept."""
    import re

    if name == DEFAULT:
        raise CliError('"default" is a reserved context name')
    if not re.search(_NAME, name) or name.endswith("\n"):
        raise CliError(f'context name "{name}" is invalid, names are validated against regexp "{_NAME}"')


def read(name: str) -> Context:
    """A stored context. Raises CliError."""
    path = os.path.join(_place("meta", name), "meta.json")
    try:
        with open(path, "rb") as file:
            document = jsontext.loads(file.read())
    except FileNotFoundError:
        raise CliError(f'context "{name}": context not found: open {path}: no such file or directory') from None
    except OSError as error:
        raise CliError(f'context "{name}": open {path}: {(error.strerror or str(error)).lower()}') from None
    except (ValueError, RecursionError) as error:
        raise CliError(f'context "{name}": cannot read {path}: {error}') from None
    if not isinstance(document, dict):
        raise CliError(f'context "{name}": cannot read {path}: not a JSON object')
    return Context(name, document)


def exists(name: str) -> bool:
    """Whether a context is stored."""
    return os.path.exists(os.path.join(_place("meta", name), "meta.json"))


def names() -> list[str]:
    """The names of all stored contexts, without the default context."""
    try:
        directories = os.listdir(_place("meta"))
    except FileNotFoundError:
        return []
    found = []
    for directory in directories:
        try:
            with open(os.path.join(_place("meta"), directory, "meta.json"), "rb") as file:
                found.append(str(jsontext.loads(file.read())["Name"]))
        except (OSError, ValueError, LookupError, TypeError):
            continue  # the file belongs to another program, or is being written
    return sorted(found)


def write(context: Context, tls: dict[str, bytes] | None = None) -> None:
    """Store a context. `tls` replaces its TLS files; None keeps them."""
    try:
        if tls is not None:
            _remove_tree(context.tls_path)
        if tls:
            place = os.path.join(context.tls_path, "docker")
            os.makedirs(place, 0o700)
            for name, content in tls.items():
                _config.replace(os.path.join(place, name), content, 0o600)
        os.makedirs(context.meta_path, 0o755, exist_ok=True)
        text = jsontext.dumps(context.document, ascii_only=False, compact=True)
        _config.replace(os.path.join(context.meta_path, "meta.json"), text.encode(), 0o644)
    except OSError as error:
        raise CliError(f'cannot write context "{context.name}": {error.filename}: {error.strerror}') from None


def remove(name: str) -> None:
    """Remove a context. Raises CliError if the context does not exist."""
    if not exists(name):
        raise CliError(f'context "{name}" does not exist')
    try:
        _remove_tree(_place("tls", name))
        _remove_tree(_place("meta", name))
    except OSError as error:
        raise CliError(f'cannot remove context "{name}": {error.filename}: {error.strerror}') from None


def _remove_tree(path: str) -> None:
    import shutil

    if os.path.isdir(path):
        shutil.rmtree(path)
