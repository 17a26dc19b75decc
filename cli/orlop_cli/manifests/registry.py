"""A client of registries (OCI distribution specification) for `orlop manifest`: manifests, configurations, mounts."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import os
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request

from orlop_cli import _auth
from orlop_cli._errors import CliError
from orlop_cli.daemon.client import USER_AGENT
from orlop_cli.manifests.manifest import MANIFEST_LIST, MANIFEST_V2, OCI_INDEX, OCI_MANIFEST
from orlop_cli.values import jsontext
from orlop_cli.values.references import HUB, HUB_KEY

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message
    from http.client import HTTPResponse

__all__ = ["MAX_SIZE", "NoTls", "Refused", "Registry", "is_loopback"]

MAX_SIZE = 4 << 20  # bytes of a manifest, a configuration or a token; docker's daemon has the same limit for manifests
_HUB_HOST = "registry-1.docker.io"
_CERTIFICATES = "/etc/docker/certs.d"
_SECONDS = 30
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_KINDS = ", ".join((MANIFEST_V2, MANIFEST_LIST, OCI_MANIFEST, OCI_INDEX))


class Refused(CliError):
    """The registry answered with an error. `status` is the status code."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class NoTls(CliError):
    """The registry answers without TLS, which is not allowed."""


def is_loopback(domain: str) -> bool:
    """Whether the registry is on this machine. As in docker, TLS is not needed to push to it."""
    host = urllib.parse.urlsplit(f"//{domain}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Registry:
    """A registry, identified by the domain in the names of its images. With `insecure`, certificates are not verified, and
    TLS is not needed. With `plain`, TLS is not tried."""

    def __init__(self, domain: str, insecure: bool = False, plain: bool = False) -> None:
        self._domain, self._insecure = domain, insecure
        self._host = _HUB_HOST if domain == HUB else domain
        self._scheme = "http" if plain else "https"
        self._challenge: tuple[str, dict[str, str]] | None = None
        self._tokens: dict[tuple[str, ...], str] = {}
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=self._context())]
        if is_loopback(domain):
            handlers.append(urllib.request.ProxyHandler({}))  # as in Go, a proxy is not used for this machine
        self._opener = urllib.request.build_opener(*handlers)
        self._opener.addheaders = [("User-Agent", USER_AGENT)]

    def manifest(self, path: str, reference: str) -> tuple[str, bytes]:
        """The media type and content of a manifest, by tag or digest. Raises Refused and CliError."""
        headers, data = self._request("GET", f"{path}/manifests/{reference}", (f"repository:{path}:pull",), accept=_KINDS)
        return headers.get("Content-Type", "").partition(";")[0], data

    def blob(self, path: str, digest: str) -> bytes:
        """The content of a small blob. Raises Refused and CliError."""
        return self._request("GET", f"{path}/blobs/{digest}", (f"repository:{path}:pull",))[1]

    def put(self, path: str, reference: str, media: str, body: bytes) -> str:
        """Store a manifest. Returns the digest that the registry computed. Raises Refused and CliError."""
        scopes = (f"repository:{path}:pull,push",)
        headers, _ = self._request("PUT", f"{path}/manifests/{reference}", scopes, body=body, media=media)
        return headers.get("Docker-Content-Digest", "")

    def mount(self, path: str, digest: str, source: str) -> bool:
        """Make a blob of the repository `source` available in another repository. Returns False if the registry began an
        upload instead, which is cancelled."""
        scopes = (f"repository:{path}:pull,push", f"repository:{source}:pull")
        query = urllib.parse.urlencode({"mount": digest, "from": source})
        headers, _ = self._request("POST", f"{path}/blobs/uploads/?{query}", scopes, body=b"")
        if headers.get("Docker-Upload-UUID") is None or headers.get("Docker-Content-Digest"):
            return True
        upload = urllib.parse.urlsplit(headers.get("Location", ""))
        self._request("DELETE", upload.path.removeprefix("/v2/") + f"?{upload.query}", scopes)
        return False

    # --- connection

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        directory = os.path.join(_CERTIFICATES, self._host)
        for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
            path = os.path.join(directory, name)
            if name.endswith(".crt"):
                context.load_verify_locations(path)
            elif name.endswith(".cert"):
                context.load_cert_chain(path, f"{path.removesuffix('.cert')}.key")
        return context

    def _ping(self) -> tuple[str, dict[str, str]]:
        """The scheme and parameters of the authorization that the registry asks for; "" if it asks for none."""
        if self._challenge is None:
            try:
                status, headers, _ = self._send("GET", f"{self._scheme}://{self._host}/v2/", {})
            except ssl.SSLError as error:
                if error.reason not in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
                    raise CliError(self._cannot_ping(error.reason or str(error))) from None
                if not self._insecure:
                    raise NoTls(f"the registry {self._host} does not use TLS") from None
                self._scheme = "http"
                return self._ping()
            except OSError as error:
                raise CliError(self._cannot_ping((error.strerror or str(error)).lower())) from None
            kind, _, rest = headers.get("WWW-Authenticate", "").partition(" ")
            self._challenge = (kind.lower() if status == 401 else "", dict(_PARAMETER.findall(rest)))
        return self._challenge

    def _cannot_ping(self, cause: str) -> str:
        url = f"{self._scheme}://{self._host}/v2/"
        return f'failed to configure transport: error pinging v2 registry: Get "{url}": {cause}'

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> tuple[int, Message, bytes]:
        request = urllib.request.Request(url, body, method=method)  # noqa: S310 - `_token` checks the scheme
        for name, value in headers.items():
            # A registry may redirect to a service of another owner, who must not get the authorization.
            (request.add_unredirected_header if name == "Authorization" else request.add_header)(name, value)
        try:
            with self._opened(request) as answer:
                data = answer.read(MAX_SIZE + 1)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read(MAX_SIZE)
        except http.client.HTTPException as error:
            raise OSError(f"invalid HTTP: {error!r}") from None
        if len(data) > MAX_SIZE:
            raise CliError(f"the answer of {self._host} is longer than {MAX_SIZE >> 20} MiB: {url}")
        return answer.status, answer.headers, data

    def _opened(self, request: urllib.request.Request) -> HTTPResponse:
        try:
            answer: HTTPResponse = self._opener.open(request, timeout=_SECONDS)
        except urllib.error.HTTPError:
            raise  # an answer, too
        except urllib.error.URLError as error:
            raise error.reason if isinstance(error.reason, OSError) else OSError(str(error.reason)) from None
        return answer

    def _request(
        self,
        method: str,
        target: str,
        scopes: tuple[str, ...],
        *,
        accept: str = "",
        media: str = "",
        body: bytes | None = None,
    ) -> tuple[Message, bytes]:
        headers = {"Authorization": self._authorization(scopes), "Accept": accept, "Content-Type": media}
        present = {name: value for name, value in headers.items() if value}
        try:
            status, found, data = self._send(method, f"{self._scheme}://{self._host}/v2/{target}", present, body)
        except OSError as error:
            raise CliError(f"cannot reach the registry {self._host}: {(error.strerror or str(error)).lower()}") from None
        if status >= 400:
            raise Refused(status, _error_text(status, data))
        return found, data

    # --- authorization

    def _authorization(self, scopes: tuple[str, ...]) -> str:
        kind, parameters = self._ping()
        if not kind:
            return ""
        known = _auth.lookup(HUB_KEY if self._domain == HUB else self._domain, missing_helper_ok=True) or {}
        if kind == "basic":
            return _basic(known)
        if scopes not in self._tokens:
            self._tokens[scopes] = self._token(parameters, scopes, known)
        return f"Bearer {self._tokens[scopes]}"

    def _token(self, parameters: Mapping[str, str], scopes: tuple[str, ...], known: Mapping[str, str]) -> str:
        realm, service = parameters.get("realm", ""), parameters.get("service", "")
        secure = ("https",) if self._scheme == "https" and not self._insecure else ("https", "http")
        if urllib.parse.urlsplit(realm).scheme not in secure:
            raise CliError(f"the registry {self._host} names a token service without TLS: {realm!r}")
        fields = [("service", service), *(("scope", scope) for scope in scopes)]
        try:
            if known.get("identitytoken"):
                form = {"grant_type": "refresh_token", "refresh_token": known["identitytoken"], "client_id": "docker"}
                fields = [*form.items(), ("service", service), ("scope", " ".join(scopes))]
                status, _, data = self._send("POST", realm, {}, urllib.parse.urlencode(fields).encode())
            else:
                basic = _basic(known)
                headers = {"Authorization": basic} if basic else {}
                mark = "&" if "?" in realm else "?"
                status, _, data = self._send("GET", f"{realm}{mark}{urllib.parse.urlencode(fields)}", headers)
        except OSError as error:
            raise CliError(f"cannot get a token from {realm}: {(error.strerror or str(error)).lower()}") from None
        if status >= 400:
            raise Refused(status, _error_text(status, data))
        try:
            answer = jsontext.loads(data)
            return str(answer.get("token") or answer["access_token"])
        except (ValueError, LookupError, AttributeError):
            raise CliError(f"the answer of the token service {realm} contains no token") from None


def _basic(known: Mapping[str, str]) -> str:
    if "username" not in known:
        return ""
    return "Basic " + base64.b64encode(f"{known['username']}:{known['password']}".encode()).decode()


def _error_text(status: int, data: bytes) -> str:
    """The errors in an answer, in docker's words."""
    try:
        found = jsontext.loads(data)
        errors = found["errors"] if isinstance(found.get("errors"), list) else [found]
        lines = [f"{str(one['code']).lower().replace('_', ' ')}: {one.get('message', '')}" for one in errors]
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"the registry answered with status {status}"
    return lines[0] if len(lines) == 1 else "errors:\n" + "\n".join(lines)
