"""When a registry requires credentials, the daemon asks the client for a token or a password."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import pytest
import trio

from orlop_engine.config import Proxies
from orlop_engine.images.endpoints import Endpoint
from orlop_engine.images.registry_auth import ANONYMOUS, Credentials, Token
from orlop_engine.images.registry_errors import RegistryError
from orlop_engine.images.registry_hosts import Timeouts
from orlop_engine.images.registry_session import Session
from orlop_sdk import Unauthorized

SERVICE = "https://auth.example.com/token"


class Registry:
    """A registry and its token service. `asked` contains the questions to the client, `seen` the pair (host, authorization)
    of each request."""

    def __init__(self, challenge: str, answer: Token | Credentials | Exception) -> None:
        self.challenge, self._answer = challenge, answer
        self.asked: list[tuple[str, str, Sequence[str]]] = []
        self.seen: list[tuple[str, str]] = []

    async def ask(self, realm: str, service: str, scopes: list[str]) -> Token | Credentials:
        self.asked.append((realm, service, scopes))
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def handle(self, request: httpx.Request) -> httpx.Response:
        proof = request.headers.get("Authorization", "")
        self.seen.append((request.url.host, proof))
        if request.url.host == "auth.example.com":
            return httpx.Response(200, stream=httpx.ByteStream(b'{"token": "fetched-here"}'))
        return httpx.Response(200 if proof else 401, headers={} if proof else {"WWW-Authenticate": self.challenge})

    def get(self) -> None:
        """Send two requests for /v2/ to the registry."""

        async def main() -> None:
            session = Session(Endpoint("https://r.example.com", True), "app", Credentials(ask=self.ask), Timeouts())
            session._make_client = lambda url: httpx.AsyncClient(transport=httpx.MockTransport(self.handle))
            session._proxies = Proxies()
            async with session.borrowed():
                for _ in range(2):
                    async with session.request("GET", "/v2/", {}):
                        pass

        trio.run(main)


def test_token_from_the_client_is_sent_to_the_registry() -> None:
    registry = Registry(f'Bearer realm="{SERVICE}",service="s"', Token("by-the-client", 300))
    registry.get()
    assert registry.asked == [(SERVICE, "s", ["repository:app:pull"])]
    assert {host for host, _ in registry.seen} == {"r.example.com"}
    assert registry.seen[-1][1] == "Bearer by-the-client"


@pytest.mark.parametrize("given", [Credentials("u", "p"), ANONYMOUS])
def test_daemon_fetches_a_token_with_the_clients_credentials(given: Credentials) -> None:
    registry = Registry(f'Bearer realm="{SERVICE}",service="s"', given)
    registry.get()
    assert len(registry.asked) == 1
    assert ("auth.example.com", given.basic) in registry.seen
    assert registry.seen[-1][1] == "Bearer fetched-here"


def test_password_from_the_client_is_sent_to_the_registry() -> None:
    registry = Registry('Basic realm="r"', Credentials("u", "p"))
    registry.get()
    assert registry.asked == [("", "", [])]
    assert registry.seen[-1] == ("r.example.com", Credentials("u", "p").basic)


def test_client_is_not_asked_for_a_token_of_a_service_without_tls() -> None:
    registry = Registry('Bearer realm="http://auth.example.com/token"', Credentials("u", "p"))
    with pytest.raises(RegistryError, match="has no TLS"):
        registry.get()
    assert registry.asked == [("", "", ["repository:app:pull"])]


def test_error_of_a_client_that_cannot_get_a_token_is_raised() -> None:
    registry = Registry(f'Bearer realm="{SERVICE}"', Unauthorized("failed to fetch oauth token: 401"))
    with pytest.raises(RegistryError, match="failed to fetch oauth token") as caught:
        registry.get()
    assert caught.value.answered and not caught.value.retry
