"""`Endpoint`, the address and settings of a registry or mirror, and `Outages`, which remembers mirrors that do not answer.
This module does no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlsplit

import trio

__all__ = ["ALL", "PULL", "Capability", "Endpoint", "HostSettings", "Outages"]

Capability = Literal["pull", "resolve", "push"]
ALL: frozenset[Capability] = frozenset(("pull", "resolve", "push"))
PULL: frozenset[Capability] = frozenset(("pull", "resolve"))

_MOST_OUTAGES = 1000


@dataclass(frozen=True, slots=True)
class HostSettings:
    """The settings of a host in `hosts.toml`. `url` is the URL of the host without `/v2`, or with `override_path` the whole
    URL of the registry's API. An empty `url` means the registry itself. `ca` and `client` (certificate, key) are absolute
    paths. `dial_timeout` is in seconds."""

    url: str = ""
    override_path: bool = False
    capabilities: frozenset[Capability] = ALL
    skip_verify: bool = False
    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    dial_timeout: float | None = None
    proxy: str = ""

    @property
    def has_tls_settings(self) -> bool:
        return bool(self.skip_verify or self.ca or self.client)


_NO_SETTINGS = HostSettings()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint. `url` has no trailing slash. `verify`: the endpoint must use TLS, and its certificate is verified.
    `mirror`: the endpoint is a mirror, not the registry of the image's name. `namespace`: for a mirror from `hosts.toml`,
    the registry of the image's name; "" for other endpoints. The namespace is sent as the parameter `ns`, because one mirror
    may serve several registries. `configured`: the endpoint is in the administrator's configuration."""

    url: str
    verify: bool
    mirror: bool = False
    capabilities: frozenset[Capability] = ALL
    settings: HostSettings = _NO_SETTINGS
    namespace: str = ""
    configured: bool = False

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def at(self, path: str) -> str:
        """The URL of a path that begins with `/v2/`. A `namespace` is added as the parameter `ns`, as in containerd."""
        url = self.url + (path.removeprefix("/v2") if self.settings.override_path else path)
        if not self.namespace:
            return url
        return f"{url}{'&' if '?' in path else '?'}ns={quote(self.namespace, safe=':')}"


class Outages:
    """Mirrors that did not answer, by URL. They are skipped for `seconds`, so that the next pulls do not wait for them."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._until: dict[str, float] = {}

    def record(self, endpoint: Endpoint) -> None:
        self._until.pop(endpoint.url, None)
        if len(self._until) >= _MOST_OUTAGES:
            del self._until[next(iter(self._until))]  # removes the oldest entry
        self._until[endpoint.url] = trio.current_time() + self._seconds

    def clear(self, endpoint: Endpoint) -> None:
        self._until.pop(endpoint.url, None)

    def has(self, endpoint: Endpoint) -> bool:
        return self._until.get(endpoint.url, 0.0) > trio.current_time()
