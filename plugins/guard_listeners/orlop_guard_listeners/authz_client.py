"""The HTTP client of one plugin. This is a separate module that is imported at the first question, because httpx is
large."""

from __future__ import annotations

import httpx

from .authz_find import Address

__all__ = ["Client", "Unreachable"]

_HEADERS = {"Accept": "application/vnd.docker.plugins.v1.2+json", "Accept-Encoding": "identity"}


class Unreachable(Exception):
    """The plugin did not answer. The text contains the reason."""


class Client:
    """A client whose connections stay open between questions."""

    def __init__(self, address: Address, patience: float) -> None:
        self._address = address
        host = f"[{address.host}]" if ":" in address.host else address.host
        base = (
            "http://plugin.socket" if address.unix else f"{'https' if address.context else 'http'}://{host}:{address.port}"
        )
        transport = httpx.AsyncHTTPTransport(uds=address.unix or None, verify=address.context or False)
        self._http = httpx.AsyncClient(transport=transport, base_url=base, timeout=patience, headers=_HEADERS)

    async def post(self, method: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises Unreachable."""
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            answer = await self._http.post(f"/{method}", content=body, headers=headers)
        except httpx.TimeoutException:
            raise Unreachable("no answer in time") from None
        except httpx.HTTPError as error:
            reason = str(error.__cause__ or error) or type(error).__name__
            raise Unreachable(f"cannot reach {self._address.text}: {reason}") from error
        return answer.status_code, answer.content

    async def aclose(self) -> None:
        await self._http.aclose()
