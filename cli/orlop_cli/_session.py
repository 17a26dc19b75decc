"""The settings of the global flags for a command: which daemon, and how to reach it."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from orlop_cli import _config
from orlop_cli._errors import CliError
from orlop_cli.daemon import hosts
from orlop_cli.daemon.hosts import Tls

if TYPE_CHECKING:
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

    @cached_property
    def address(self) -> hosts.Address:
        """The daemon's address. Raises CliError if the settings conflict."""
        if not self._host:
            _refuse_context()
        return hosts.parse(self._host or hosts.DEFAULT_HOST, self._tls)

    @cached_property
    def engine(self) -> Engine:
        from orlop_cli.daemon.client import Engine

        return Engine(self.address, self._secure() if self._tls and not self.address.path else None)

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
        if "engine" in self.__dict__:
            self.engine.close()

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
