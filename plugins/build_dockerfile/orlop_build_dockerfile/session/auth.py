"""Access to registries with the credentials of the client (moby.filesync.v1.Auth).

A client that offers FetchToken gets tokens from token services itself, so that the daemon does not see its passwords
(buildkit session/auth). The client's method GetTokenAuthority fails if the user has disabled FetchToken
(BUILDKIT_NO_CLIENT_TOKEN). Otherwise it returns a key, with which BuildKit checks that another session has the same password
(VerifyTokenAuthority). Orlop does not use this key, because it never uses a token for another session.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from orlop_build_dockerfile.contracts import Authorization, Challenge, Credentials
from orlop_build_dockerfile.grpc import Code, RpcError
from orlop_build_dockerfile.pb import session_pb2 as pb

__all__ = ["AUTHORITY", "CREDENTIALS", "FETCH_TOKEN", "RegistryAuth"]

_SERVICE = "/moby.filesync.v1.Auth/"
CREDENTIALS, FETCH_TOKEN, AUTHORITY = (_SERVICE + name for name in ("Credentials", "FetchToken", "GetTokenAuthority"))

_HUB = "registry-1.docker.io"  # the name of Docker Hub in the credentials of clients
_CLIENT = "buildkit-client"  # the client ID that is sent to token services, which may log it


class RegistryAuth:
    """`ask` calls a method of the client, and raises `RpcError`."""

    def __init__(self, ask: Callable[[str, bytes], Awaitable[bytes]]) -> None:
        self._ask = ask
        self._fetches: dict[str, bool] = {}
        self._salt = os.urandom(32)

    async def answer(self, host: str, challenge: Challenge) -> Authorization:
        """A token for the challenge, or the credentials if the client does not fetch tokens. Raises `RpcError`."""
        host = _HUB if host == "docker.io" else host
        if not challenge.realm or not await self._fetches_tokens(host):
            return Authorization(credentials=await self._credentials(host))
        request = pb.FetchTokenRequest(
            ClientID=_CLIENT, Host=host, Realm=challenge.realm, Service=challenge.service, Scopes=challenge.scopes
        )
        found = pb.FetchTokenResponse.FromString(await self._ask(FETCH_TOKEN, request.SerializeToString()))
        return Authorization(token=found.Token, lifetime=max(0, found.ExpiresIn))

    async def _fetches_tokens(self, host: str) -> bool:
        if host not in self._fetches:
            request = pb.GetTokenAuthorityRequest(Host=host, Salt=self._salt)
            try:
                answer = await self._ask(AUTHORITY, request.SerializeToString())
                self._fetches[host] = bool(pb.GetTokenAuthorityResponse.FromString(answer).PublicKey)
            except RpcError as error:
                if error.code not in (Code.UNIMPLEMENTED, Code.UNAVAILABLE):
                    raise
                self._fetches[host] = False
        return self._fetches[host]

    async def _credentials(self, host: str) -> Credentials | None:
        try:
            answer = await self._ask(CREDENTIALS, pb.CredentialsRequest(Host=host).SerializeToString())
        except RpcError as error:
            if error.code in (Code.NOT_FOUND, Code.UNIMPLEMENTED):
                return None
            raise
        found = pb.CredentialsResponse.FromString(answer)
        if not found.Secret:
            return None
        if not found.Username or found.Username == "<token>":  # `docker login` stores an identity token with this user name
            return Credentials(token=found.Secret)
        return Credentials(username=found.Username, password=found.Secret)
