"""A client of a registry (distribution spec, pull): manifests, blobs and tags of one repository at one endpoint.

Imported at the first pull: httpx takes longer to import than the rest of the daemon. Owns its HTTP connection pools. The
input is limited: headers by the HTTP parser, small bodies by `_SMALL` and `MAX_MANIFEST`, tags by `_ALL_TAGS`, blobs by the
caller, and silence by `stall` seconds.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from urllib.parse import urljoin, urlsplit

import httpx
import msgspec
import trio

from orlop_sdk import DriverError

from .destinations import Destinations, send
from .documents import digest as digest_of
from .endpoints import Endpoint, HostSettings
from .http_body import body
from .manifests import ACCEPT, MAX_MANIFEST
from .references import Reference
from .registry_auth import Challenge, Credentials, challenges, read_token, token_form, token_url
from .registry_errors import RegistryError, explain_os_error, from_answer
from .registry_hosts import Proxies, Timeouts, proxy_for, split_host
from .registry_tls import CERTS_D, tls_context

__all__ = ["Registry"]

_SMALL = 1 << 20
_REDIRECTS = 10
_PATIENT = Timeouts()
_PAGES = 1000
_ALL_TAGS = 8 << 20  # bytes of all pages: a hundred thousand tags, more than any real pull of all tags
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


class Registry:
    """One repository. Open with `Registry.connect`."""

    def __init__(self, endpoint: Endpoint, repository: str, credentials: Credentials, timeouts: Timeouts) -> None:
        self.endpoint = endpoint
        self.repository = repository
        self._credentials = credentials
        self._timeouts = timeouts
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._users = 0
        self._challenges: list[Challenge] = []
        self._token: tuple[str, float] | None = None
        self._token_lock = trio.Lock()
        self._make_client: Callable[[str], httpx.AsyncClient]
        self._destinations: Destinations | None = None
        self._proxies: Proxies

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        endpoint: Endpoint,
        reference: Reference,
        credentials: Credentials,
        *,
        proxies: Proxies,
        timeouts: Timeouts = _PATIENT,
        certificates: tuple[str, ...] = CERTS_D,
        destinations: Destinations | None = None,
    ) -> AsyncIterator[Registry]:
        """Connect to the registry and learn its authentication method. `RegistryError` if it does not answer like a
        registry."""
        registry = cls(endpoint, reference.path, credentials, timeouts)
        registry._destinations, registry._proxies = destinations, proxies

        def make(url: str) -> httpx.AsyncClient:
            parts = urlsplit(url)
            secure = parts.scheme == "https"
            # What hosts.toml says is for this host alone, not for token services and storage that it refers to
            settings = endpoint.settings if _origin(url) == _origin(endpoint.url) else HostSettings()
            limits = httpx.Timeout(timeouts.stall, connect=settings.dial_timeout or timeouts.connect, pool=None)
            headers = httpx.Headers(settings.headers)
            headers.update({"Accept-Encoding": "identity"})
            headers.setdefault("User-Agent", "orlop")
            return httpx.AsyncClient(
                # Without trust_env: httpx would use .netrc and SSL_CERT_FILE of the user who started the daemon.
                trust_env=False,
                timeout=limits,
                follow_redirects=False,
                verify=tls_context(parts.netloc, endpoint.verify, certificates, settings) if secure else False,
                proxy=settings.proxy or proxy_for(url, proxies),
                headers=headers,
            )

        registry._make_client = make
        async with registry.borrowed():
            if not endpoint.settings.override_path:  # such a path is often an API without its root
                await registry._ping()
            yield registry

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[None]:
        """Keep the connections open while in use: a download may be shared by several pulls and must survive the one that
        started it. The last user closes them."""
        if self._users == 0 and self._clients:
            raise RegistryError(f"cannot use {self.endpoint.host}: its connections were closed", retry=True)
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                with trio.move_on_after(5, shield=True):
                    for client in self._clients.values():
                        await client.aclose()

    def _client(self, url: str) -> httpx.AsyncClient:
        """One pool per origin, as certificates and proxy depend on the origin."""
        key = "{}://{}:{}".format(*_origin(url))
        if key not in self._clients:
            self._clients[key] = self._make_client(url)
        return self._clients[key]

    def _failure(self, method: str, url: str, error: Exception) -> RegistryError:
        host, port = split_host(urlsplit(url).netloc, 443 if url.startswith("https:") else 80)
        if isinstance(error, httpx.TimeoutException):
            connecting = isinstance(error, httpx.ConnectTimeout)
            cause = f"dial tcp {host}:{port}: i/o timeout" if connecting else "the registry stalled"
        elif isinstance(error, httpx.RemoteProtocolError):
            cause = "unexpected EOF"
        else:
            cause = explain_os_error(error, host, port)
        return RegistryError(f'{method.capitalize()} "{url}": {cause}', retry=True)

    async def _send(self, method: str, url: str, headers: dict[str, str], content: bytes | None = None) -> httpx.Response:
        """Send one request without following redirects. The body of the response is not read yet."""
        try:
            return await send(
                self._client(url),
                method,
                url,
                headers,
                content,
                destinations=self._destinations,
                proxied=proxy_for(url, self._proxies) is not None,
            )
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._failure(method, url, error) from error

    @asynccontextmanager
    async def _request(self, method: str, path: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """The response below status 400, after authentication and redirects; else `RegistryError`."""
        url = path if "://" in path else self.endpoint.at(path)
        for attempt in (1, 2):
            response = await self._follow(method, url, headers)
            try:
                if response.status_code == 401 and attempt == 1 and await self._renew(response):
                    continue
                if response.status_code >= 400:
                    said = await self._body(response, _SMALL, method, url)
                    raise from_answer(response.status_code, said, response.headers.get("www-authenticate", ""))
                yield response
                return
            finally:
                with trio.move_on_after(5, shield=True):
                    await response.aclose()

    async def _follow(self, method: str, url: str, headers: dict[str, str]) -> httpx.Response:
        """Follow redirects, which lead to the blobs' storage. The Authorization header is only sent to the registry's own
        origin."""
        home = _origin(self.endpoint.url)
        for _ in range(_REDIRECTS):
            proof = await self._authorization() if _origin(url) == home else ""
            response = await self._send(method, url, {**headers, **({"Authorization": proof} if proof else {})})
            location = response.headers.get("location")
            if response.status_code not in (301, 302, 303, 307, 308) or not location:
                return response
            await response.aclose()
            target = urljoin(url, location)
            scheme = urlsplit(target).scheme
            if scheme not in ("http", "https"):
                raise RegistryError(f'{method.capitalize()} "{target}": unsupported protocol scheme "{scheme}"')
            if self.endpoint.verify and scheme == "http" and url.startswith("https:"):
                raise RegistryError(f'{method.capitalize()} "{url}": refusing a redirect from TLS to plain HTTP')
            url = target
        raise RegistryError(f'{method.capitalize()} "{url}": stopped after {_REDIRECTS} redirects')

    async def _body(self, response: httpx.Response, limit: int, method: str, url: str) -> bytes:
        data = bytearray()
        try:
            with trio.fail_after(self._timeouts.small):
                async with aclosing(body(response)) as pieces:
                    async for piece in pieces:
                        data += piece
                        if len(data) > limit:
                            raise RegistryError(f'{method.capitalize()} "{url}": the answer is larger than {limit} bytes')
        except trio.TooSlowError as error:
            raise RegistryError(f'{method.capitalize()} "{url}": the registry stalled', retry=True) from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self._failure(method, url, error) from error
        return bytes(data)

    async def _ping(self) -> None:
        """`GET /v2/`: 200, or 401 with a challenge. Anything else is not a registry."""
        url = self.endpoint.at("/v2/")
        response = None
        with trio.move_on_after(self._timeouts.ping):
            response = await self._send("GET", url, {})
        if response is None:
            cause = (
                "net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)"
            )
            raise RegistryError(f'Get "{url}": {cause}', retry=True)
        try:
            self._challenges = challenges(", ".join(response.headers.get_list("www-authenticate")))
            if response.status_code not in (200, 401):
                said = await self._body(response, _SMALL, "Get", url)
                if response.status_code >= 400:
                    raise from_answer(response.status_code, said)
        finally:
            await response.aclose()

    async def _authorization(self) -> str:
        """The Authorization header for a request to the registry; "" if none is needed or there are no credentials."""
        if any(name.lower() == "authorization" for name, _ in self.endpoint.settings.headers):
            return ""  # sent with every request
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        for challenge in self._challenges:
            if challenge.scheme == "bearer":
                return f"Bearer {await self._bearer(challenge)}"
            if challenge.scheme == "basic":
                if not self._credentials.basic:
                    raise RegistryError(f'Get "{self.endpoint.url}/v2/": no basic auth credentials', code="UNAUTHORIZED")
                return self._credentials.basic
        return ""

    async def _renew(self, response: httpx.Response) -> bool:
        """After a 401: get a new token if possible. Returns whether to retry."""
        found = challenges(", ".join(response.headers.get_list("www-authenticate")))
        had_none = not self._challenges
        if found:
            self._challenges = found
        expired = self._token is not None
        self._token = None
        return bool(found) and (had_none or expired)

    async def _bearer(self, challenge: Challenge) -> str:
        async with self._token_lock:
            if self._token is None or trio.current_time() >= self._token[1]:
                self._token = await self._fetch_token(challenge)
            return self._token[0]

    async def _fetch_token(self, challenge: Challenge) -> tuple[str, float]:
        realm, service = challenge.parameters.get("realm", ""), challenge.parameters.get("service", "")
        scopes = [f"repository:{self.repository}:pull"]
        secret = self._credentials.basic or self._credentials.identity_token
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryError(f"cannot authenticate to {self.endpoint.host}: challenge has no token service")
        if secret and parts.scheme == "http" and self.endpoint.url.startswith("https:"):
            raise RegistryError(f"cannot authenticate to {self.endpoint.host}: its token service {realm} has no TLS")
        if self._credentials.identity_token:
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            response = await self._send("POST", realm, kind, token_form(service, scopes, self._credentials.identity_token))
        else:
            proof = {"Authorization": self._credentials.basic} if self._credentials.basic else {}
            response = await self._send("GET", token_url(realm, service, scopes, self._credentials.username), proof)
        try:
            said = await self._body(response, _SMALL, "Get", realm)
            if response.status_code != 200:
                raise from_answer(response.status_code, said, response.headers.get("www-authenticate", ""))
        finally:
            await response.aclose()
        token = read_token(said)
        if token is None:
            raise RegistryError("authorization server did not include a token in the response", code="UNAUTHORIZED")
        return token.value, trio.current_time() + token.lifetime * 0.9

    async def manifest(self, reference: str) -> tuple[str, bytes]:
        """Media type and bytes of a manifest or index, by tag or digest. With a digest they are verified."""
        path = f"/v2/{self.repository}/manifests/{reference}"
        async with self._request("GET", path, {"Accept": ", ".join(ACCEPT)}) as response:
            data = await self._body(response, MAX_MANIFEST, "Get", self.endpoint.at(path))
            media_type = response.headers.get("content-type", "")
        if ":" in reference and digest_of(data) != reference:
            raise DriverError(f"manifest verification failed for digest {reference}")
        return media_type, data

    @asynccontextmanager
    async def blob(self, digest: str, offset: int = 0) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """A blob from `offset` on, or from the start if the registry ignores ranges: (its offset, pieces)."""
        path = f"/v2/{self.repository}/blobs/{digest}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._request("GET", path, headers) as response:
            start = 0
            if offset and response.status_code == 206:
                given = re.match(r"bytes (\d{1,18})-", response.headers.get("content-range", ""))
                start = int(given[1]) if given else -1
                if start != offset:
                    raise RegistryError(f"cannot resume {digest}: the registry sent another range", status=416, retry=True)
            url = self.endpoint.at(path)
            async with aclosing(body(response)) as raw, aclosing(self._pieces(raw, url)) as pieces:
                yield start, pieces

    async def _pieces(self, pieces: AsyncIterator[bytes], url: str) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in pieces:
                yield piece
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self._failure("Get", url, error) from error

    async def tags(self) -> list[str]:
        """All tags, following the registry's pagination. `DriverError` if there are too many."""
        result: list[str] = []
        size = 0
        url = self.endpoint.at(f"/v2/{self.repository}/tags/list")
        for _ in range(_PAGES):
            async with self._request("GET", url, {}) as response:
                data = await self._body(response, MAX_MANIFEST, "Get", url)
                more = _NEXT.search(response.headers.get("link", ""))
            size += len(data)
            if size > _ALL_TAGS:
                break
            try:
                result += msgspec.json.decode(data, type=_Tags).tags or []
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                raise DriverError(f"cannot read tags of {self.repository}: {error}") from error
            if more is None:
                return result
            target = urljoin(url, more[1])
            if _origin(target) != _origin(self.endpoint.url):
                raise DriverError(f"cannot read tags of {self.repository}: the next page is at another registry")
            url = target
        raise DriverError(
            f"cannot read tags of {self.repository}: its list is longer than {_ALL_TAGS >> 20} MiB or {_PAGES} pages"
        )
