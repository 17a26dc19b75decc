"""The parameters of `POST /build` (Docker Engine API, ImageBuild). This module does no I/O."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence

import msgspec

from orlop_build_dockerfile.contracts import CacheTarget, Client, Credentials, Export, Resources
from orlop_build_dockerfile.dockerfile.references import parse_reference
from orlop_sdk import InvalidParameter

__all__ = ["CONTEXT", "ClassicRequest", "parse_request"]

CONTEXT = "http://buildkit-session/context"
"""The address of the frontend's main context. The session's `upload` yields the request's body for it."""
_CLIENT_SESSION = "client-session"
_FALSE = frozenset({"", "0", "no", "false", "none"})
_HUB = ("docker.io", "https://index.docker.io/v1/", "index.docker.io")
_SQUASH = "squash is only supported with experimental mode"
_OUTPUTS = "outputs are only supported by BuildKit: use `docker buildx build`"


class _Output(msgspec.Struct, rename="pascal"):
    type: str = ""
    attrs: dict[str, str] | None = None


class _Auth(msgspec.Struct):
    username: str = ""
    password: str = ""
    auth: str = ""
    identitytoken: str = ""


class _Ulimit(msgspec.Struct, rename="pascal"):
    name: str
    soft: int = 0
    hard: int = 0


class ClassicRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`options` are the options of the Dockerfile frontend; `names` are normalized. `session` is set for a client that uses
    BuildKit's protocol of Docker 18.09 (version=2). Such a client offers the files in its session, and expects BuildKit's
    progress. `export` is None if the client wants no output (`cacheonly`)."""

    id: str
    options: Mapping[str, str]
    names: Sequence[str]
    session: str
    export: Export | None
    quiet: bool
    entitlements: Sequence[str]
    resources: Resources
    imports: Sequence[CacheTarget]
    credentials: Mapping[str, Credentials]


class _Query:
    def __init__(self, query: Mapping[str, Sequence[str]]) -> None:
        self._query = query

    def text(self, name: str) -> str:
        values = self._query.get(name)
        return values[0] if values else ""

    def texts(self, name: str) -> list[str]:
        return [value for value in self._query.get(name, ()) if value]

    def flag(self, name: str) -> bool:
        return self.text(name).strip().lower() not in _FALSE

    def number(self, name: str) -> int:
        """The parameter as a number. As in dockerd, text that is not a number counts as 0."""
        text = self.text(name)
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text, re.ASCII) else 0

    def decoded(self, name: str, type: type, what: str) -> object:
        text = self.text(name)
        if not text:
            return type()
        try:
            return msgspec.json.decode(text, type=type) if type is not list else msgspec.json.decode(text, type=list[str])
        except msgspec.MsgspecError as error:
            raise InvalidParameter(f"error reading {what}: {error}") from None


def parse_request(client: Client) -> ClassicRequest:
    """Parse the parameters and headers. Raises `InvalidParameter`."""
    query = _Query(client.query)
    if query.flag("squash"):
        raise InvalidParameter(_SQUASH)
    if query.text("isolation").lower() not in ("", "default"):
        raise InvalidParameter(f"invalid isolation: {query.text('isolation')}: only default is supported")
    if query.flag("securityopt"):
        raise InvalidParameter("the daemon does not support setting security options on build")
    options, entitlements = _options(query)
    names = _names(query.texts("t"))
    session = query.text("session") if query.text("version") == "2" else ""
    return ClassicRequest(
        id=query.text("buildid"),
        options=options,
        names=names,
        session=session,
        export=_export(query, names, session),
        quiet=query.flag("q"),
        entitlements=entitlements,
        resources=Resources(
            memory=query.number("memory"),
            memory_swap=query.number("memswap"),
            cpu_shares=query.number("cpushares"),
            cpu_period=query.number("cpuperiod"),
            cpu_quota=query.number("cpuquota"),
            cpuset_cpus=query.text("cpusetcpus"),
            cpuset_mems=query.text("cpusetmems"),
            editable_files=not session,  # a client with a session wants BuildKit
        ),
        imports=[
            CacheTarget("registry", {"ref": name}) for name in _strings(query.decoded("cachefrom", list, "cache-from"))
        ],
        credentials=_credentials(client.headers.get("x-registry-config", "")),
    )


def _export(query: _Query, names: Sequence[str], session: str) -> Export | None:
    """The output of the build: an image in the daemon, or the output that a client with a session requests."""
    outputs = query.decoded("outputs", list[_Output], "outputs")
    assert isinstance(outputs, list)
    if outputs and not session:
        raise InvalidParameter(_OUTPUTS)
    if len(outputs) > 1:
        raise InvalidParameter("multiple outputs not supported")
    output = outputs[0] if outputs else _Output("moby")
    if output.type == "cacheonly":
        return None
    named = {"name": ",".join(names)} if output.type in ("moby", "image") else {}
    return Export(output.type, {**(output.attrs or {}), **named})


def _strings(found: object) -> list[str]:
    assert isinstance(found, list)
    return found


def _names(texts: Sequence[str]) -> list[str]:
    try:
        found = [parse_reference(text) for text in texts]
    except ValueError as error:
        raise InvalidParameter(str(error)) from None
    if any(name.digest for name in found):
        raise InvalidParameter("build tag cannot contain a digest")
    return list(dict.fromkeys(str(name.tagged()) for name in found))


def _options(query: _Query) -> tuple[dict[str, str], list[str]]:
    """Options of the frontend, and the entitlements that these options need."""
    options: dict[str, str] = {}
    remote = query.text("remote")
    if remote != _CLIENT_SESSION:
        options["context"] = _remote(remote) if remote else CONTEXT
    simple = {"dockerfile": "filename", "target": "target", "platform": "platform", "cgroupparent": "cgroup-parent"}
    for name, option in simple.items():
        if text := query.text(name):
            options[option] = text
    if shm := query.number("shmsize"):
        options["shm-size"] = str(shm)
    if query.flag("nocache"):
        options["no-cache"] = ""
    if query.flag("pull"):
        options["image-resolve-mode"] = "pull"
    for kind, name, what in (("build-arg", "buildargs", "build args"), ("label", "labels", "labels")):
        found = query.decoded(name, dict[str, str | None], what)
        assert isinstance(found, dict)
        options.update({f"{kind}:{key}": value for key, value in found.items() if value is not None})
    if hosts := [_host(text) for text in query.texts("extrahosts")]:
        options["add-hosts"] = ",".join(hosts)
    ulimits = query.decoded("ulimits", list[_Ulimit], "ulimits")
    assert isinstance(ulimits, list)
    if ulimits:
        options["ulimit"] = ",".join(f"{each.name}={each.soft}:{each.hard}" for each in ulimits)
    entitlements = []
    network = query.text("networkmode")
    if network in ("host", "none"):
        options["force-network-mode"] = network
        entitlements = ["network.host"] if network == "host" else []
    elif network not in ("", "default", "bridge"):
        raise InvalidParameter(f"network mode {network!r} is not supported by builds: use default, host or none")
    return options, entitlements


def _remote(url: str) -> str:
    if not re.match(r"(https?|git|ssh)://|git@|github\.com/", url):
        raise InvalidParameter(f"remoteURL ({url}) could not be recognized as URL")
    return f"https://{url}" if url.startswith("github.com/") else url


def _host(text: str) -> str:
    """Convert "name:address" to "name=address". The address may contain colons."""
    name, colon, address = text.partition(":")
    if not colon or not name or not address:
        raise InvalidParameter(f"bad format for add-host: {text!r}")
    return f"{name}={address.strip('[]')}"


def _credentials(header: str) -> dict[str, Credentials]:
    """`X-Registry-Config`: a JSON object of credentials by registry, in base64url. A damaged header is ignored, as in
    dockerd."""
    try:
        raw = base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
        found = msgspec.json.decode(raw, type=dict[str, _Auth]) if raw else {}
    except (ValueError, msgspec.MsgspecError):
        return {}
    result = {}
    for host, each in found.items():
        username, password = each.username, each.password
        if each.auth and not username:
            try:
                username, _, password = base64.b64decode(each.auth, validate=True).decode().partition(":")
            except ValueError:
                continue
        result[_HUB[0] if host in _HUB else host] = Credentials(username, password, each.identitytoken)
    return result
