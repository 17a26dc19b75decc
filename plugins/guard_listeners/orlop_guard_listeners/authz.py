"""Docker's authorization plugins. Each plugin is asked about every request before the request is executed, and about the
answer before the client gets the answer. The first denial is final. If a plugin fails, is missing or is slow, the request is
denied.

Messages and fields are the same as Docker's (pkg/authorization). If the body of a request is JSON, a plugin gets exactly the
bytes that the handler decodes. If the body of an answer is JSON and is not streamed, the plugin gets it, too.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio

from orlop_kernel.http.messages import Answer, Request, Response, Streaming
from orlop_sdk import DriverError

from .authz_find import Address, find
from .listener_policy import Denied

if TYPE_CHECKING:
    from .authz_client import Client

__all__ = ["BODY_LIMIT", "Chain", "Plugin", "PluginFailed", "Question", "is_json"]

T = TypeVar("T")

BODY_LIMIT = 4 << 20
"""Docker's limit. A larger body is refused, because a plugin cannot check a body that it does not get."""

TIMEOUT = 10.0
"""Seconds that a plugin has for an answer. Every request waits for the plugin."""

_HIDDEN = frozenset({"authorization", "x-registry-auth", "x-registry-config", "host", "transfer-encoding"})


class Question(msgspec.Struct, omit_defaults=True, rename="pascal"):
    """The message to a plugin; the members about the answer are set only when there is an answer."""

    user: str = ""
    user_authn_method: str = msgspec.field(default="", name="UserAuthNMethod")
    request_method: str = ""
    request_uri: str = ""
    request_body: bytes = b""
    request_headers: dict[str, str] = {}
    request_peer_certificates: list[bytes] = []
    response_status_code: int = 0
    response_body: bytes = b""
    response_headers: dict[str, str] = {}

    @classmethod
    def about(cls, request: Request, body: bytes) -> Question:
        peer = request.peer
        certificate = [ssl.DER_cert_to_PEM_cert(peer.certificate).encode()] if peer.certificate else []
        return cls(
            user=peer.common_name,
            user_authn_method="TLS" if peer.certificate else "",
            request_method=request.method,
            request_uri=request.target,
            request_body=body,
            request_headers=_headers(request.headers.items()),
            request_peer_certificates=certificate,
        )

    def with_answer(self, answer: Answer) -> Question:
        if not isinstance(answer, Response | Streaming):
            return msgspec.structs.replace(self, response_status_code=101)
        headers = _headers(answer.headers)
        body = answer.body if isinstance(answer, Response) and is_json(headers.get("Content-Type", "")) else b""
        return msgspec.structs.replace(
            self, response_status_code=answer.status, response_headers=headers, response_body=body
        )


class _Verdict(msgspec.Struct, rename="pascal"):
    allow: bool = False
    msg: str = ""
    err: str = ""


class _Manifest(msgspec.Struct, rename="pascal"):
    implements: list[str] = []


class _Trouble(msgspec.Struct, rename="pascal"):
    err: str = ""


def is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _headers(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers named as Go writes them, without credentials."""
    return {
        "-".join(part.capitalize() for part in name.split("-")): value
        for name, value in items
        if name.lower() not in _HIDDEN
    }


class PluginFailed(DriverError):
    """The plugin did not answer whether the request is allowed. The request is denied."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"plugin {name} failed with error: {reason}")
        self.by = f"plugin {name}"


class Plugin:
    """One plugin. The handshake is made at the first question, because the plugin may start after the daemon."""

    def __init__(self, name: str, address: Address) -> None:
        self.name = name
        self.address = address
        self._client: Client | None = None
        self._greeted = False
        self._greeting = trio.Lock()

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def ask(self, method: str, question: Question) -> None:
        """Ask the plugin. Raises `Denied` if the plugin denies the request, and `PluginFailed` if its answer is missing or
        invalid."""
        if self._client is None:  # this takes 100 ms, but only once, and other requests proceed meanwhile
            await trio.to_thread.run_sync(import_module, f"{__package__}.authz_client")
        try:
            with trio.fail_after(TIMEOUT):
                if not self._greeted:
                    await self._greet()
                verdict = await self._call(method, msgspec.json.encode(question), _Verdict)
        except trio.TooSlowError:
            raise PluginFailed(self.name, f"{method}: no answer in {TIMEOUT:g} s") from None
        if verdict.err:
            raise PluginFailed(self.name, verdict.err)
        if not verdict.allow:
            raise Denied(f"authorization denied by plugin {self.name}: {verdict.msg}", f"plugin {self.name}")

    async def _greet(self) -> None:
        async with self._greeting:
            if not self._greeted:
                manifest = await self._call("Plugin.Activate", b"", _Manifest)
                if "authz" not in manifest.implements:
                    raise PluginFailed(self.name, "Plugin does not implement the requested driver: authz")
                self._greeted = True

    async def _call(self, method: str, body: bytes, kind: type[T]) -> T:
        from .authz_client import Client, Unreachable

        if self._client is None:
            self._client = Client(self.address, TIMEOUT)
        try:
            status, answer = await self._client.post(method, body)
            if status != 200:
                raise PluginFailed(self.name, f"{method}: {_complaint(answer)}")
            return msgspec.json.decode(answer, type=kind)
        except Unreachable as error:
            raise PluginFailed(self.name, f"{method}: {error}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise PluginFailed(self.name, f"{method}: its answer cannot be read: {error}") from error


def _complaint(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Trouble).err or body.decode("utf-8", "replace").strip()
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return body[:4096].decode("utf-8", "replace").strip()


class Chain:
    """The plugins, in the order of the configuration."""

    def __init__(self) -> None:
        self._plugins: tuple[Plugin, ...] = ()
        self._retired: list[Plugin] = []

    def __bool__(self) -> bool:
        return bool(self._plugins)

    def prepare(self, names: Iterable[str]) -> tuple[Plugin, ...]:
        """The plugins with these names. Plugins in use are kept. Raises ConfigError if a plugin is not found."""
        known = {plugin.name: plugin for plugin in self._plugins}
        return tuple(known.get(name) or Plugin(name, find(name)) for name in dict.fromkeys(names))

    def replace(self, plugins: tuple[Plugin, ...]) -> None:
        """Use these plugins for all further calls. Calls in progress keep the plugins with which they began."""
        self._retired += [plugin for plugin in self._plugins if plugin not in plugins]
        self._plugins = plugins

    async def aclose(self) -> None:
        for plugin in (*self._plugins, *self._retired):
            await plugin.aclose()

    async def check_request(self, question: Question) -> None:
        for plugin in self._plugins:
            await plugin.ask("AuthZPlugin.AuthZReq", question)

    async def check_answer(self, question: Question) -> None:
        for plugin in self._plugins:
            await plugin.ask("AuthZPlugin.AuthZRes", question)
