"""The settings of the global flags for a command: the daemon's address, and how to connect to it."""

from __future__ import annotations

import os

from orlop_cli import _config
from orlop_cli._errors import CliError
from orlop_cli.daemon import contexts, hosts
from orlop_cli.daemon.hosts import Tls

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from orlop_cli.daemon.client import Engine
    from orlop_cli.daemon.contexts import Context


_LEVELS = ("trace", "debug", "info", "warn", "warning", "error", "fatal", "panic")


class Session:
    """The settings of one command line. `engine` connects to the daemon at its first use. `context` is the value of
    --context."""

    def __init__(
        self,
        host: str | None = None,
        tls: bool = False,
        tlsverify: bool = False,
        cacert: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        context: str | None = None,
    ) -> None:
        environ = os.environ
        self._verify = tlsverify or bool(environ.get("DOCKER_TLS_VERIFY"))
        self._tls = tls or self._verify or bool(environ.get("DOCKER_TLS"))
        self._files = (cacert, cert, key)
        self._host = host or (None if context else environ.get("ORLOP_HOST") or environ.get("DOCKER_HOST"))
        self.context = context
        self._stored: Context | None = None
        self._address: hosts.Address | None = None
        self._engine: Engine | None = None

    @property
    def context_name(self) -> str:
        """The name of the selected context; "default" if another setting selects the host."""
        return "default" if self._host else contexts.current(self.context)[0]

    def _selected(self) -> Context | None:
        """The selected context. Raises CliError if the context does not exist. The default daemon is not used instead,
        because a command such as `rm` was meant for the daemon of the context."""
        if self._stored is None and self.context_name != contexts.DEFAULT:
            try:
                self._stored = contexts.read(self.context_name)
            except CliError as error:
                raise CliError(f"Failed to initialize: unable to resolve docker endpoint: {error.message}") from None
        return self._stored

    @property
    def address(self) -> hosts.Address:
        """The daemon's address. Raises CliError if the settings conflict."""
        if self._address is None:
            context = self._selected()
            host = self._host or (context.host if context else "") or hosts.DEFAULT_HOST
            self._address = hosts.parse(host, self._tls or bool(context and context.tls_files()))
        return self._address

    @property
    def engine(self) -> Engine:
        """The daemon."""
        if self._engine is None:
            from orlop_cli.daemon.client import Engine

            self._engine = Engine(self.address, self.tls())
        return self._engine

    def tls(self) -> Tls | None:
        """The TLS settings; None for a connection without TLS."""
        return self._secure() if self.address.host and not self.address.ssh else None

    def environment(self) -> dict[str, str]:
        """Environment variables that make Docker's programs connect to the same daemon."""
        if self._selected() is not None:
            return {"DOCKER_CONTEXT": self.context_name, "DOCKER_HOST": ""}
        found = {"DOCKER_HOST": self.address.text, "DOCKER_CONTEXT": ""}
        if self._tls and not self.address.path:
            found["DOCKER_TLS"] = "1"
            if self._verify:
                found["DOCKER_TLS_VERIFY"] = "1"
            if any(self._files):
                raise CliError(
                    "plugins cannot use --tlscacert, --tlscert and --tlskey: "
                    "set DOCKER_CERT_PATH to a directory with ca.pem, cert.pem and key.pem"
                )
        return found

    def close(self) -> None:
        """Close the connections that the command has opened."""
        if self._engine is not None:
            self._engine.close()

    def _secure(self) -> Tls | None:
        """The TLS settings; None for a connection without TLS. Files in flags must exist. The default files (ca.pem,
        cert.pem, key.pem) are used if they exist."""
        context = self._selected()
        if context is not None and not self._tls:
            files = context.tls_files()
            skip = bool(context.endpoint.get("SkipTLSVerify"))
            if not files and not skip:
                return None
            return Tls(not skip, files.get("ca.pem"), files.get("cert.pem"), files.get("key.pem"))
        if not self._tls:
            return None
        where = os.environ.get("DOCKER_CERT_PATH") or _config.directory()
        found: list[str | None] = []
        for named, default in zip(self._files, ("ca.pem", "cert.pem", "key.pem"), strict=True):
            path = os.path.join(where, default)
            found.append(named or (path if os.path.exists(path) else None))
        ca, cert, key = found
        return Tls(self._verify, ca, cert, key)


def open_session(flags: Mapping[str, Any]) -> Session:
    """The session that global flags describe. Raises CliError for flags that contradict each other."""
    if flags["config"]:
        os.environ["DOCKER_CONFIG"] = flags["config"]
    level = flags["log_level"]
    if level not in (None, *_LEVELS):
        raise CliError(f"Unable to parse logging level: {level}")
    if flags["debug"] or level in ("debug", "trace"):
        os.environ["DEBUG"] = "1"
    if flags["host"] and flags["context"]:
        raise CliError("conflicting options: either specify --host or --context, not both")
    files = (flags["tlscacert"], flags["tlscert"], flags["tlskey"])
    return Session(flags["host"], flags["tls"], flags["tlsverify"], *files, flags["context"])
