"""Where a registry is reached: `Endpoint`, and `Outages`, which remembers mirrors that do not answer. Sans-IO."""

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
    """What `hosts.toml` says about a host. `url` is without the `/v2` in which the API of a registry begins, or with
    `override_path` the whole URL of the API; "" is the registry itself. `ca` and `client` (certificate, key) are absolute
    paths. `dial_timeout` in seconds."""

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
    """One endpoint. `url` has no trailing slash; `verify`: TLS is required and its certificate is verified. `mirror`: it is
    not the registry that the image's name names. `namespace`: that registry, for a mirror of several. `configured`: the
    administrator has named it."""

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
        """The URL of a path that begins with `/v2/`. For a mirror, the parameter `ns` names the registry, as in
        containerd."""
        url = self.url + (path.removeprefix("/v2") if self.settings.override_path else path)
        if not self.namespace:
            return url
        return f"{url}{'&' if '?' in path else '?'}ns={quote(self.namespace, safe=':')}"


class Outages:
    """Mirrors that did not answer, by URL: they are passed over for `seconds`, so that not every pull waits for them."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._until: dict[str, float] = {}

    def record(self, endpoint: Endpoint) -> None:
        self._until.pop(endpoint.url, None)
        if len(self._until) >= _MOST_OUTAGES:
            del self._until[next(iter(self._until))]  # the oldest
        self._until[endpoint.url] = trio.current_time() + self._seconds

    def clear(self, endpoint: Endpoint) -> None:
        self._until.pop(endpoint.url, None)

    def has(self, endpoint: Endpoint) -> bool:
        return self._until.get(endpoint.url, 0.0) > trio.current_time()
