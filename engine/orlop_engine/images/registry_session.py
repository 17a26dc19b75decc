"""HTTP requests to one repository at one endpoint of a registry: connections, authentication, redirects.

This module is imported at the first pull or push, because the import of httpx takes longer than the imports of the whole
daemon. A session has its own HTTP connection pools. All input is limited: the HTTP parser limits the size of headers,
`SMALL` limits the size of error messages and token answers, callers limit the size of other bodies, and a request fails if
the server sends no data for `stall` seconds. Credentials and tokens are only sent to the origin of the registry and to its
token service.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self
from urllib.parse import urljoin, urlsplit

import httpcore  # noqa: F401 - httpx would import it with its first client, on the event loop
import httpx
import trio

from orlop_sdk import OrlopError

from .destinations import Destinations, send
from .endpoints import Endpoint, HostSettings
from .http_body import body
from .references import Reference
from .registry_auth import Challenge, Credentials, Token, challenges, read_token, token_form, token_url
from .registry_errors import NO_CREDENTIALS, RegistryError, explain_os_error, from_answer, retry_after
from .registry_hosts import Proxies, Timeouts, proxy_for, split_host
from .registry_tls import CERTS_D, tls_context

__all__ = ["SMALL", "Body", "Session", "origin"]

SMALL = 1 << 20
_REDIRECTS = 10
_SHORT = 64 << 10
_PATIENT = Timeouts()
_REDIRECTED = (301, 302, 303, 307, 308)
_REPEATED = (307, 308)  # all other redirects turn a POST, PUT or PATCH into a GET (RFC 9110, section 15.4)

Body = bytes | Callable[[], httpx.AsyncByteStream]
"""The body of a request: bytes, or a function that makes a new stream for each attempt."""


def origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of a call of `Session.request`."""

    method: str
    headers: dict[str, str]
    body: Body | None
    source: str
    patience: float | None


class Session:
    """Open with `connect`. `actions` are the actions for which tokens are requested: "pull" or "pull,push"."""

    actions = "pull"

    def __init__(self, endpoint: Endpoint, repository: str, credentials: Credentials, timeouts: Timeouts) -> None:
        self.endpoint = endpoint
        self.repository = repository
        self._credentials = credentials
        self.timeouts = timeouts
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._users = 0
        self._challenges: list[Challenge] = []
        self._tokens: dict[str, tuple[str, float]] = {}
        """Tokens and the times at which they expire. The key is another repository that the token can also read, or
        ""."""
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
    ) -> AsyncIterator[Self]:
        """Connect to the registry and learn its authentication method. Raises `RegistryError` if the server does not
        answer like a registry."""
        session = cls(endpoint, reference.path, credentials, timeouts)
        session._destinations, session._proxies = destinations, proxies

        def make(url: str) -> httpx.AsyncClient:
            parts = urlsplit(url)
            secure = parts.scheme == "https"
            # The settings in hosts.toml apply only to this host. They do not apply to token services, or to storage
            # servers to which this host redirects
            settings = endpoint.settings if origin(url) == origin(endpoint.url) else HostSettings()
            limits = httpx.Timeout(timeouts.stall, connect=settings.dial_timeout or timeouts.connect, pool=None)
            headers = httpx.Headers(settings.headers)
            headers.update({"Accept-Encoding": "identity"})
            headers.setdefault("User-Agent", "orlop")
            return httpx.AsyncClient(
                # With trust_env, httpx uses .netrc and SSL_CERT_FILE of the user who started the daemon.
                trust_env=False,
                timeout=limits,
                follow_redirects=False,
                verify=tls_context(parts.netloc, endpoint.verify, certificates, settings) if secure else False,
                proxy=settings.proxy or proxy_for(url, proxies),
                headers=headers,
            )

        session._make_client = make
        async with session.borrowed():
            if not endpoint.settings.override_path:  # a host with `override_path` may not answer requests for `/v2/`
                await session._ping()
            yield session

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[None]:
        """Keep the connections open while the `with` block runs. Several pulls may share a download. The download must
        continue even if the pull that started the download ends. The connections are closed when the last block ends."""
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
        """One connection pool for each origin, because certificates and proxy depend on the origin."""
        key = "{}://{}:{}".format(*origin(url))
        if key not in self._clients:
            self._clients[key] = self._make_client(url)
        return self._clients[key]

    def failure(self, method: str, url: str, error: Exception) -> RegistryError:
        host, port = split_host(urlsplit(url).netloc, 443 if url.startswith("https:") else 80)
        if isinstance(error, httpx.TimeoutException):
            connecting = isinstance(error, httpx.ConnectTimeout)
            cause = f"dial tcp {host}:{port}: i/o timeout" if connecting else "the registry stopped sending"
        elif isinstance(error, httpx.RemoteProtocolError):
            cause = "unexpected EOF"
        else:
            cause = explain_os_error(error, host, port)
        return RegistryError(f'{method.capitalize()} "{url}": {cause}', retry=True)

    async def _send(
        self, method: str, url: str, headers: dict[str, str], body: Body | None = None, patience: float | None = None
    ) -> httpx.Response:
        """Send one request without following redirects. The body of the response is not read yet. `patience` replaces the
        timeout for the first byte of the response."""
        try:
            return await send(
                self._client(url),
                method,
                url,
                headers,
                body() if callable(body) else body,
                destinations=self._destinations,
                proxied=proxy_for(url, self._proxies) is not None,
                patience=patience,
            )
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self.failure(method, url, error) from error

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: Body | None = None,
        *,
        source: str = "",
        patience: float | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """The response, after authentication and redirects. Raises `RegistryError` for a status of 400 or above. `source`:
        another repository from which the request also reads; the requested token permits this."""
        url = path if "://" in path else self.endpoint.at(path)
        for attempt in (1, 2):
            response = await self._follow(_Request(method, headers, body, source, patience), url)
            try:
                if response.status_code == 401 and attempt == 1 and await self._renew(response):
                    continue
                if response.status_code >= 400:
                    raise await self._refusal(response, method, url)
                yield response
                await self._drain(response)
                return
            finally:
                with trio.move_on_after(5, shield=True):
                    await response.aclose()

    async def _drain(self, response: httpx.Response) -> None:
        """Read the rest of a short answer, so that the connection can be used for the next request."""
        length = response.headers.get("content-length", "")
        short = response.request.method == "HEAD" or response.status_code == 204
        if not response.is_closed and (short or (length.isdigit() and int(length) <= _SHORT)):
            with suppress(RegistryError):
                await self.read_body(response, _SHORT, "Get", str(response.url))

    async def _refusal(self, response: httpx.Response, method: str, url: str) -> RegistryError:
        said = b"" if method == "HEAD" else await self.read_body(response, SMALL, method, url)
        error = from_answer(response.status_code, said, response.headers.get("www-authenticate", ""))
        error.wait = retry_after(response.headers.get("retry-after", ""))
        return error

    async def _follow(self, request: _Request, url: str) -> httpx.Response:
        """Send a request, and follow redirects (usually to the storage of the blobs). The Authorization header is only sent
        to the origin of the registry."""
        home, method = origin(self.endpoint.url), request.method
        for _ in range(_REDIRECTS):
            proof = await self._authorization(request.source) if origin(url) == home else ""
            headers = {**request.headers, **({"Authorization": proof} if proof else {})}
            response = await self._send(method, url, headers, request.body, request.patience)
            location = response.headers.get("location")
            if response.status_code not in (_REDIRECTED if method in ("GET", "HEAD") else _REPEATED) or not location:
                return response
            await response.aclose()
            url = self.target(method, url, location)
        raise RegistryError(f'{method.capitalize()} "{url}": stopped after {_REDIRECTS} redirects')

    def target(self, method: str, url: str, location: str) -> str:
        """The absolute URL of a `Location` in the answer from `url`. Raises for schemes other than HTTP and HTTPS, and
        for a redirect from TLS to plain HTTP."""
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
        if scheme not in ("http", "https"):
            raise RegistryError(f'{method.capitalize()} "{target}": unsupported protocol scheme "{scheme}"')
        if self.endpoint.verify and scheme == "http" and url.startswith("https:"):
            raise RegistryError(f'{method.capitalize()} "{url}": refusing a redirect from TLS to plain HTTP')
        return target

    async def read_body(self, response: httpx.Response, limit: int, method: str, url: str) -> bytes:
        data = bytearray()
        try:
            with trio.fail_after(self.timeouts.small):
                async with aclosing(body(response)) as pieces:
                    async for piece in pieces:
                        data += piece
                        if len(data) > limit:
                            raise RegistryError(f'{method.capitalize()} "{url}": the answer is larger than {limit} bytes')
        except trio.TooSlowError as error:
            raise RegistryError(f'{method.capitalize()} "{url}": the registry stopped sending', retry=True) from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self.failure(method, url, error) from error
        return bytes(data)

    async def _ping(self) -> None:
        """Request `GET /v2/` and keep the challenges of the answer. Raises an error for a status of 400 or above, except
        401."""
        url = self.endpoint.at("/v2/")
        response = None
        with trio.move_on_after(self.timeouts.ping):
            response = await self._send("GET", url, {})
        if response is None:
            cause = (
                "net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)"
            )
            raise RegistryError(f'Get "{url}": {cause}', retry=True)
        try:
            self._challenges = challenges(", ".join(response.headers.get_list("www-authenticate")))
            if response.status_code not in (200, 401):
                said = await self.read_body(response, SMALL, "Get", url)
                if response.status_code >= 400:
                    raise from_answer(response.status_code, said)
            await self._drain(response)
        finally:
            await response.aclose()

    async def _authorization(self, source: str) -> str:
        """The Authorization header for a request to the registry; "" if none is needed or there are no credentials."""
        if any(name.lower() == "authorization" for name, _ in self.endpoint.settings.headers):
            return ""  # hosts.toml sets this header, and every request contains it
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        for challenge in self._challenges:
            if challenge.scheme == "bearer":
                return f"Bearer {await self._bearer(challenge, source)}"
            if challenge.scheme == "basic":
                await self._ask_client("", "", [])
                if not self._credentials.basic:
                    raise RegistryError(f'Get "{self.endpoint.url}/v2/": {NO_CREDENTIALS}', code="UNAUTHORIZED")
                return self._credentials.basic
        return ""

    async def _renew(self, response: httpx.Response) -> bool:
        """After a 401: get a new token if possible. Returns whether to retry."""
        found = challenges(", ".join(response.headers.get_list("www-authenticate")))
        had_none = not self._challenges
        if found:
            self._challenges = found
        expired = bool(self._tokens)
        self._tokens.clear()
        return bool(found) and (had_none or expired)

    async def _bearer(self, challenge: Challenge, source: str) -> str:
        async with self._token_lock:
            if source not in self._tokens or trio.current_time() >= self._tokens[source][1]:
                self._tokens[source] = await self._fetch_token(challenge, source)
            return self._tokens[source][0]

    async def _ask_client(self, realm: str, service: str, scopes: list[str]) -> Token | None:
        """Ask the client for a token. If the client sends credentials instead of a token, the session uses these from now
        on, and the result is None."""
        if self._credentials.ask is None:
            return None
        try:
            found = await self._credentials.ask(realm, service, scopes)
        except OrlopError as error:
            raise RegistryError(str(error), code="UNAUTHORIZED") from error
        if isinstance(found, Token):
            return found
        self._credentials = found
        return None

    async def _fetch_token(self, challenge: Challenge, source: str) -> tuple[str, float]:
        realm, service = challenge.parameters.get("realm", ""), challenge.parameters.get("service", "")
        scopes = [f"repository:{self.repository}:{self.actions}", *([f"repository:{source}:pull"] if source else [])]
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryError(
                f"cannot authenticate to {self.endpoint.host}: its WWW-Authenticate header names no token service"
            )
        # Refuse a token service without TLS, because the client sends its password to this service
        safe = parts.scheme == "https" or not self.endpoint.url.startswith("https:")
        if (given := await self._ask_client(realm if safe else "", service, scopes)) is not None:
            return given.value, trio.current_time() + given.lifetime * 0.9
        secret = self._credentials.basic or self._credentials.identity_token
        if secret and not safe:
            raise RegistryError(f"cannot authenticate to {self.endpoint.host}: its token service {realm} has no TLS")
        if self._credentials.identity_token:
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            response = await self._send("POST", realm, kind, token_form(service, scopes, self._credentials.identity_token))
        else:
            proof = {"Authorization": self._credentials.basic} if self._credentials.basic else {}
            response = await self._send("GET", token_url(realm, service, scopes, self._credentials.username), proof)
        try:
            said = await self.read_body(response, SMALL, "Get", realm)
            if response.status_code != 200:
                raise from_answer(response.status_code, said, response.headers.get("www-authenticate", ""))
        finally:
            await response.aclose()
        token = read_token(said)
        if token is None:
            raise RegistryError("authorization server did not include a token in the response", code="UNAUTHORIZED")
        return token.value, trio.current_time() + token.lifetime * 0.9
