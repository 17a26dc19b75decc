"""Connects to the registry of a repository, for pull, push and inspection, with the client's credentials and the
destinations that the client may reach."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import trio

from orlop_engine.config import Config
from orlop_sdk import DriverError

from .endpoints import Endpoint, Outages
from .references import Reference
from .registry_auth import ANONYMOUS, Credentials
from .registry_errors import RegistryError
from .registry_hosts import HostRules, Timeouts
from .registry_tls import CERTS_D
from .sources import Sources

if TYPE_CHECKING:
    from .destinations import Refuse
    from .registry_session import Session

__all__ = ["Access", "Connector", "load_http"]

S = TypeVar("S", bound="Session")


@dataclass(frozen=True, slots=True)
class Access:
    """A repository, and the client's credentials for it. `refuse` is set for a client whose destinations are restricted (see
    the module `destinations`)."""

    reference: Reference
    credentials: Credentials = ANONYMOUS
    refuse: Refuse | None = None


async def load_http() -> None:
    """Import the HTTP client on a thread, because the first import takes 80 ms. Call this function before importing a module
    that uses the HTTP client."""
    await trio.to_thread.run_sync(import_module, f"{__package__}.registry")


class Connector:
    """The callback `config` returns the daemon's current configuration."""

    def __init__(self, config: Callable[[], Config], timeouts: Timeouts, certificates: tuple[str, ...] = CERTS_D) -> None:
        self._config, self._timeouts, self._certificates = config, timeouts, certificates
        self._outages = Outages(timeouts.outage)
        self._without_tls = Outages(timeouts.outage)

    @property
    def config(self) -> Config:
        return self._config()

    async def sources(self, access: Access) -> Sources:
        """The endpoints to read from: mirrors, then the registry."""
        await load_http()
        from .registry import Registry

        rules = HostRules.of(self.config, self._certificates)
        connect = partial(self._connect, Registry, access, rules)
        return Sources(await rules.endpoints(access.reference), connect, self._outages)

    @asynccontextmanager
    async def target(self, kind: type[S], access: Access) -> AsyncIterator[S]:
        """The host to push to: the first host with the capability `push`. No other host is tried, because other hosts may
        have other content. If the registry is insecure and does not answer over TLS, plain HTTP is tried. For some time
        after that, plain HTTP is tried first."""
        rules = HostRules.of(self.config, self._certificates)
        endpoints = [one for one in await rules.endpoints(access.reference) if "push" in one.capabilities]
        endpoints = [one for one in endpoints if one.host == endpoints[0].host]
        endpoints.sort(key=self._without_tls.has)
        error: DriverError = DriverError("no registry to push to: no host in hosts.toml has the capability push")
        async with AsyncExitStack() as stack:
            for endpoint in endpoints:
                try:
                    session = await stack.enter_async_context(self._connect(kind, access, rules, endpoint))
                except RegistryError as failure:
                    if failure.answered:
                        raise
                    error = failure
                    self._without_tls.record(endpoint)
                else:
                    self._without_tls.clear(endpoint)
                    break
            else:
                raise error
            yield session

    def _connect(
        self, kind: type[S], access: Access, rules: HostRules, endpoint: Endpoint
    ) -> AbstractAsyncContextManager[S]:
        from .destinations import for_registry

        allowed = None
        if not endpoint.configured:
            allowed = for_registry(access.refuse, rules, endpoint.host, self._certificates)
        return kind.connect(
            endpoint,
            access.reference,
            access.credentials if _credentials_match(access.credentials, endpoint) else ANONYMOUS,
            proxies=self.config.proxies,
            timeouts=self._timeouts,
            certificates=self._certificates,
            destinations=allowed,
        )


def _credentials_match(credentials: Credentials, endpoint: Endpoint) -> bool:
    """Whether to send these credentials to the endpoint. Credentials of Docker Hub are not sent to its mirrors. A mirror
    gets only credentials that the client sent for this mirror, and only over TLS."""
    if not endpoint.mirror:
        return True
    address = credentials.server
    own = urlsplit(address if "//" in address else f"//{address}").netloc
    return own == endpoint.host and endpoint.verify and endpoint.url.startswith("https://")
