"""The settings of the global flags for a command: which daemon, and how to reach it."""

from __future__ import annotations

import os

from orlop_cli import _config
from orlop_cli._errors import CliError
from orlop_cli.daemon import hosts
from orlop_cli.daemon.hosts import Tls

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without the time that its import takes
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from orlop_cli.daemon.client import Engine


class Session:
    """Created once by the root command; `engine` connects on first use."""

    def __init__(
        self,
        host: str | None = None,
        tls: bool = False,
        tlsverify: bool = False,
        cacert: str | None = None,
        cert: str | None = None,
        key: str | None = None,
    ) -> None:
        environ = os.environ
        self._verify = tlsverify or bool(environ.get("DOCKER_TLS_VERIFY"))
        self._tls = tls or self._verify or bool(environ.get("DOCKER_TLS"))
        self._files = (cacert, cert, key)
        self._host = host or environ.get("ORLOP_HOST") or environ.get("DOCKER_HOST")

        self._address: hosts.Address | None = None
        self._engine: Engine | None = None

    @property
    def address(self) -> hosts.Address:
        """The daemon's address. Raises CliError if the settings conflict."""
        if self._address is None:
            if not self._host:
                _refuse_context()
            self._address = hosts.parse(self._host or hosts.DEFAULT_HOST, self._tls)
        return self._address

    @property
    def engine(self) -> Engine:
        """The daemon."""
        if self._engine is None:
            from orlop_cli.daemon.client import Engine

            self._engine = Engine(self.address, self._secure() if self._tls and not self.address.path else None)
        return self._engine

    def environment(self) -> dict[str, str]:
        """Variables by which Docker's programs reach the same daemon."""
        found = {"DOCKER_HOST": self.address.text}
        if self._tls and not self.address.path:
            found["DOCKER_TLS"] = "1"
            if self._verify:
                found["DOCKER_TLS_VERIFY"] = "1"
            if any(self._files):
                raise CliError("plugins take TLS files from DOCKER_CERT_PATH: a directory with ca.pem, cert.pem and key.pem")
        return found

    def close(self) -> None:
        """Close everything that the command opened."""
        if self._engine is not None:
            self._engine.close()

    def _secure(self) -> Tls:
        """Files named by flags must exist; the default ones (ca.pem, cert.pem, key.pem) are used if they exist."""
        where = os.environ.get("DOCKER_CERT_PATH") or _config.directory()
        found: list[str | None] = []
        for named, default in zip(self._files, ("ca.pem", "cert.pem", "key.pem"), strict=True):
            path = os.path.join(where, default)
            found.append(named or (path if os.path.exists(path) else None))
        ca, cert, key = found
        return Tls(self._verify, ca, cert, key)


def _refuse_context() -> None:
    """Refuse a selected context: it names another daemon than this machine's, and `rm` must not reach the wrong daemon."""
    name, where = os.environ.get("DOCKER_CONTEXT"), "DOCKER_CONTEXT"
    if not name:
        name, where = _config.text("currentContext"), "currentContext of config.json"
    if name not in ("", "default"):
        raise CliError(f'contexts are not supported, and {where} is "{name}": select the daemon with -H or ORLOP_HOST')


def open_session(flags: Mapping[str, Any]) -> Session:
    """The session that global flags describe."""
    if flags["config"]:
        os.environ["DOCKER_CONFIG"] = flags["config"]
    if flags["debug"]:
        os.environ["DEBUG"] = "1"
    return Session(flags["host"], flags["tls"], flags["tlsverify"], flags["tlscacert"], flags["tlscert"], flags["tlskey"])
