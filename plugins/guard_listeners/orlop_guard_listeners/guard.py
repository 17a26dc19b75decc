"""The checks of one call. Before the handler runs, the role, the labels and the plugins are checked; after it, the plugins
are asked again. The call is also logged in the audit log.

Implements `orlop_kernel.routing.router.Guard`. All checks use the same `Call` as the handler. So the handler uses the object
that `label_scope` has resolved, and decodes the body that a plugin has seen.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from orlop_engine.restrictions import Restrictions
from orlop_engine.types.containers import CreateRequest, HostConfig, UpdateRequest
from orlop_engine.types.networks import CreateRequest as NetworkRequest
from orlop_engine.types.volumes import VolumeCreateRequest
from orlop_kernel.http.messages import Answer, BodyError, Hijack, RawStream, Response, Streaming
from orlop_kernel.routing.call import Call
from orlop_sdk import DriverError, NotFound
from orlop_sdk.base import rfc3339

from . import builds, host_access, inherited_access, redact
from .audit import Audit, Client, Line
from .authz import BODY_LIMIT, Chain, Question, is_json
from .image_names import ListenerImages
from .label_scope import LabelScope
from .listener_policy import DEFAULT, Denied, ListenerPolicy
from .objects import clean, describe, describe_body, describe_made
from .roles import ROUTES, UNKNOWN, Host, Level

if TYPE_CHECKING:
    from orlop_engine.engine import Engine
    from orlop_engine.images.policy import ImagePolicy
    from orlop_engine.volumes.record import VolumeRecord

__all__ = ["Guard"]

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
COMPLETE, BROKEN = "complete", "broken off"
WITHHELD = "withheld"
"""The call was executed, but a plugin withheld the answer from the client."""

_numbers = itertools.count(1)
_boot = secrets.token_hex(4)


class _TooLarge(DriverError):
    by = "plugins"


class Guard:
    """The guard of one listener. `policy` is None for the addresses in `hosts`, because no role restricts them."""

    def __init__(self, engine: Engine, policy: ListenerPolicy | None, audit: Audit | None, plugins: Chain) -> None:
        self._engine = engine
        self._policy = policy
        self._label_scope = LabelScope(engine, policy) if policy and policy.labels else None
        self._audit = audit
        self._plugins = plugins

    async def __call__(self, call: Call, proceed: Callable[[], Awaitable[Answer]]) -> Answer:
        """See orlop_kernel.routing.router.Guard."""
        began = time.perf_counter()
        line = self._line(call) if self._audit else None
        try:
            if self._audit and line and self._audit.required and _changes(call):
                line.event = "request"
                await self._audit.wait(self._audit.write(line))
            answer = await self._through(call, proceed, line)
        except Exception as error:
            answer = call.dialect.answer_error(call.request, error)
            if line and not line.reason:
                _refuse(line, error)
        except BaseException:
            if line:
                line.outcome = BROKEN
                self._close(line, "call", began)
            raise
        if not line:
            return answer
        line.object = {**line.object, **describe_body(self._engine, call)}
        return self._log_answer(line, answer, began)

    async def _through(self, call: Call, proceed: Callable[[], Awaitable[Answer]], line: Line | None) -> Answer:
        if not call.pattern:
            return await proceed()
        question = await self._question(call) if self._plugins else None
        if self._policy:
            await self._check(self._policy, call)
            if self._policy.guarded:
                call.restrictions = self._restrictions(self._policy, call, line)
        if question:
            await self._plugins.check_request(question)
        answer = await proceed()
        if line:
            line.object = {**line.object, **describe_made(self._engine, call, answer)}
        if self._policy:
            answer = self._redact(self._policy, call, answer)
        if not question:
            return answer
        try:
            return await self._approved(question, answer)
        except Exception as error:
            if line:
                line.status = _status(answer)
                _refuse(line, error, WITHHELD)
            raise

    # --- role and labels --------------------------------------------------------------------------------------------

    async def _check(self, policy: ListenerPolicy, call: Call) -> None:
        method, pattern = call.request.method, call.pattern
        rule = ROUTES.get(f"{method} {pattern}", UNKNOWN)
        if rule.level > policy.level:
            raise policy.denied(f"{method} {pattern}")
        if policy.guarded and pattern == "/containers/{id}/top" and call.arg("ps_args") not in host_access.PS_ARGS:
            raise policy.denied(f'ps_args "{call.arg("ps_args")}"')
        if not policy.may_exec and pattern == "/containers/{id}/attach" and call.flag("stdin"):
            raise policy.denied("attaching to standard input")
        if policy.guarded and pattern == "/containers/{id}/start" and (call.arg("checkpoint") or call.arg("checkpoint-dir")):
            raise policy.denied("starting from a checkpoint")  # the checkpoint may be in any directory of the host
        if self._label_scope:  # this check is the first, so that errors reveal nothing about containers outside the scope
            await self._label_scope(call, rule.scope)
        if not policy.may_exec and rule.host is Host.FILES:
            self._check_files(policy, call)
        if policy.guarded:
            for what in await self._host_requests(policy, call):
                raise policy.denied(what)

    def _check_files(self, policy: ListenerPolicy, call: Call) -> None:
        """Refuse access to the files of a container with host mounts, because a client must not read files that it may not
        mount. This applies to all files of the container, not only to paths below its mounts, because links and renames in
        the container decide where a path leads."""
        container = self._engine.containers.get(call.params["id"])
        # Pass the ID of the checked container to the handler, because the name may move to another container
        call.params["id"] = container.id
        if mount := inherited_access.outside_mount(container.record):
            raise policy.denied(f"access to files of container {container.name}, which has {mount},")
        for mounted in container.record.mounts:
            if mounted.type == "volume":
                with suppress(NotFound):  # the volume was removed, so it cannot be read
                    self._check_volume(policy, None, self._engine.volumes.get(mounted.name), mounted.anonymous)

    async def _host_requests(self, policy: ListenerPolicy, call: Call) -> list[str]:
        """The accesses to the host that the body requests."""
        if call.pattern in ("/containers/create", "/orlop/containers/plan"):
            request = await call.json(CreateRequest)
            host = request.host_config or HostConfig()
            others = inherited_access.of_others(self._engine.containers.index, host)
            return [*host_access.of_container(request, apart=not policy.may_exec), *others]
        if call.pattern == "/containers/{id}/update":
            return [*host_access.of_update(await call.json(UpdateRequest))]
        if call.pattern == "/volumes/create":
            return [*host_access.of_volume(await call.json(VolumeCreateRequest))]
        if call.pattern == "/networks/create":
            wanted = await call.json(NetworkRequest)
            networks = self._engine.networks
            beyond = (f"the subnet {subnet}, which is in no address pool," for subnet in networks.outside_pools(wanted))
            taken = (f"the subnet {subnet}, which the host uses," for subnet in networks.overlaps_host(wanted))
            return [*host_access.of_network(wanted), *beyond, *taken]
        return []

    def _check_volume(self, policy: ListenerPolicy, line: Line | None, volume: VolumeRecord, anonymous: bool) -> None:
        """See Restrictions.check_volume. The log line is completed here, because the router answers the error."""
        try:
            if self._label_scope:
                self._label_scope.check_volume(volume, anonymous)
            elif volume.is_host_path:
                raise policy.denied(f"the volume {volume.name}, which is a directory or device of the host,")
        except Denied as error:
            if line:
                _refuse(line, error)
            raise

    def _restrictions(self, policy: ListenerPolicy, call: Call, line: Line | None) -> Restrictions:
        if call.pattern in builds.ROUTES:
            return builds.restrictions(policy, self._label_scope, partial(self._note_in_build, line))
        refuse = partial(_refused, policy, line)
        return Restrictions(
            hide_host=True,
            labels=self._label_scope.required_labels if self._label_scope else {},
            check_volume=partial(self._check_volume, policy, line),
            images=self._image_policy(policy, call, refuse),
            refuse=refuse,
        )

    def _note_in_build(self, line: Line | None, error: Denied) -> None:
        """Log a refusal during a build, with the connection of the latest client of the listener's builder."""
        if self._audit and line:
            found = msgspec.structs.replace(
                line, event="build", time=rfc3339(time.time_ns()), status=0, outcome="", seconds=0
            )
            _refuse(found, error)
            self._audit.write(found)

    def _image_policy(self, policy: ListenerPolicy, call: Call, denied: Callable[[str], Denied]) -> ImagePolicy:
        # After a push, the digest in the repository becomes a name of the image; this name cannot refer to another image
        pulling = call.pattern == "/images/{name}/push" or (call.pattern == "/images/create" and bool(call.arg("fromImage")))
        return ListenerImages(policy, self._label_scope.matches if self._label_scope else None, denied, pulling=pulling)

    def _redact(self, policy: ListenerPolicy, call: Call, answer: Answer) -> Answer:
        """Remove values that this client may not see."""
        if not isinstance(answer, Response) or answer.status != 200 or call.request.method != "GET":
            return answer
        hide = redact.READERS.get(call.pattern) if policy.level < Level.CHANGE else None
        narrow = self._label_scope is not None and call.pattern == "/networks/{id}"
        if hide is None and not narrow:
            return answer
        shown = msgspec.json.decode(answer.body)
        if hide is not None:
            hide(shown, policy.show_env)
        if self._label_scope and narrow:
            members: dict[str, Any] = shown.get("Containers") or {}
            shown["Containers"] = {key: each for key, each in members.items() if self._label_scope.has_container(key)}
        return Response(answer.status, msgspec.json.encode(shown) + b"\n", answer.headers)

    # --- plugins ----------------------------------------------------------------------------------------------------

    async def _question(self, call: Call) -> Question:
        """The message to the plugins. The JSON body is read once, for the plugins and for the handler."""
        request = call.request
        body = b""
        if is_json(request.headers.get("content-type", "")):
            try:
                body = await request.body.read(BODY_LIMIT)
            except BodyError as error:
                if error.status != 413:
                    raise
                text = f"request body too large for authorization plugin: size exceeds {BODY_LIMIT} bytes"
                raise _TooLarge(text) from error
            request.body = _BufferedBody(body)
        # Plugins must not see registry credentials
        return Question.about(request, b"" if call.pattern == "/auth" else body)

    async def _approved(self, question: Question, answer: Answer) -> Answer:
        """The answer, unless a plugin withholds it. Error answers are always passed on, as in Docker."""
        try:
            await self._plugins.check_answer(question.with_answer(answer))
        # Also on a disconnect of the client, because an open stream keeps the handler's files open
        except BaseException as error:
            if isinstance(error, Exception) and isinstance(answer, Response) and answer.status >= 400:
                return answer
            if isinstance(answer, Streaming):
                with trio.move_on_after(5, shield=True):
                    await _close(answer.pieces)
            raise
        return answer

    # --- audit ------------------------------------------------------------------------------------------------------

    def _line(self, call: Call) -> Line:
        request = call.request
        return Line(
            time=rfc3339(time.time_ns()),
            event="call",
            id=f"{_boot}-{next(_numbers)}",
            listener=self._policy.host if self._policy else DEFAULT,
            role=self._policy.role if self._policy else "full",
            peer=Client.of(request.peer),
            method=request.method,
            path=request.target.partition("?")[0],
            route=call.pattern,
            object=describe(self._engine, call),  # made before the call, because the call may remove the object
            decision="allowed",
        )

    def _log_answer(self, line: Line, answer: Answer, began: float) -> Answer:
        """Log the call; for a stream, log its beginning now and its end later."""
        if line.decision != WITHHELD:
            line.status = _status(answer)
        if isinstance(answer, Response):
            self._close(line, "call", began)
            return answer
        end = partial(self._close, line, "end", began)
        self._close(line, "begin", began)
        line.outcome = BROKEN  # corrected when the stream completes
        if isinstance(answer, Streaming):
            return Streaming(answer.status, _LoggedStream(answer.pieces, line, end), answer.headers)
        run = answer.run

        async def noted(stream: RawStream) -> None:
            try:
                await run(stream)
                line.outcome = COMPLETE
            finally:
                end()

        return Hijack(answer.head, noted)

    def _close(self, line: Line, event: str, began: float) -> None:
        assert self._audit
        line.event, line.time = event, rfc3339(time.time_ns())
        line.seconds = round(time.perf_counter() - began, 6)
        self._audit.write(line)


class _LoggedStream:
    """A stream whose end is logged. This class is not a generator, because a generator that was never started runs no
    cleanup when it is closed."""

    def __init__(self, pieces: AsyncIterator[bytes], line: Line, end: Callable[[], None]) -> None:
        self._pieces = pieces
        self._line = line
        self._end: Callable[[], None] | None = end

    def __aiter__(self) -> _LoggedStream:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            self._line.outcome = COMPLETE
            raise

    async def aclose(self) -> None:
        """Called by the server for every stream, whether it was completed or not."""
        end, self._end = self._end, None
        if end:
            end()
        await _close(self._pieces)


async def _close(pieces: AsyncIterator[bytes]) -> None:
    aclose = getattr(pieces, "aclose", None)
    if aclose is not None:
        await aclose()


class _BufferedBody:
    """A body that was already read. Implements http's Body."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if len(self._data) > limit:
            raise BodyError(413, f"request body too large: {len(self._data)} bytes, at most {limit} are allowed")
        data, self._data = self._data, b""
        return data

    def __aiter__(self) -> _BufferedBody:
        return self

    async def __anext__(self) -> bytes:
        data = await self.read(len(self._data))
        if not data:
            raise StopAsyncIteration
        return data


def _status(answer: Answer) -> int:
    return int(answer.head[9:12]) if isinstance(answer, Hijack) else answer.status


def _refuse(line: Line, error: Exception, decision: str = "denied") -> None:
    """Record the denial in the log line, if the error comes from an access check."""
    if by := getattr(error, "by", ""):
        line.decision, line.by, line.reason = decision, by, clean(str(error))


def _refused(policy: ListenerPolicy, line: Line | None, what: str) -> Denied:
    """The error for `Restrictions.refuse`. It is recorded here, because the router answers it."""
    error = policy.denied(what)
    if line:
        _refuse(line, error)
    return error


def _changes(call: Call) -> bool:
    """Whether the call may change something. A call of an unknown route changes nothing."""
    rule = ROUTES.get(f"{call.request.method} {call.pattern}", UNKNOWN)
    writes = call.request.method not in _READS or call.pattern.endswith("/attach/ws")
    return bool(call.pattern) and writes and rule.level > Level.READ
