"""Calls of plugins. Each call has a deadline and a circuit breaker, and raises only `OrlopError`.

A `Gate` contains the state of one plugin. `guard` makes an object with the methods of a Protocol; each call of these methods
goes through a gate. Whatever a plugin does, the caller gets an answer or an `OrlopError`, or is cancelled:

- An async method runs in a separate task, which is cancelled at the deadline. If the task does not end then (it is shielded,
  or waits for a thread), it is abandoned: the gate counts it, logs one message, and discards a late answer. If a caller is
  cancelled, its call is cancelled too. The caller then waits for the end of the call, at most until the deadline, and at
  most `STOPPING` seconds while the daemon stops. If another author wrote the plugin, the method runs on another event loop
  (see `driver_loop`), which it may block.
- A synchronous method of a plugin of another author runs on a thread, which is abandoned at the deadline: `await
  asked(driver.method, ...)`. A caller that is on a thread already (readers of logs) calls the method directly. Imports,
  factories and checks of a plugin's members run on threads, too (`Gate.make`, `Gate.make_blocking`).
- Properties (`capabilities`) are read once, when the plugin is loaded.
- An exception that is not an `OrlopError` becomes a `DriverError`; this includes SystemExit and KeyboardInterrupt.
- After `MISSES` missed deadlines in a row, or `FAULTS` unexpected exceptions in a row, the gate is degraded: calls fail
  immediately with `Unavailable`. After a delay, which doubles from `SHORTEST_DELAY` to `LONGEST_DELAY`, one call is made as
  a trial. If the plugin answers (with a value, an `OrlopError` or an `OSError`), the gate is no longer degraded.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import logging
import os
import threading
import time
import typing
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import trio

from orlop_kernel import abandoned
from orlop_kernel.failures import as_orlop_error
from orlop_sdk import DeadlineExceeded, DriverError, OrlopError, Unavailable, protocols

if TYPE_CHECKING:
    from orlop_engine.driver_loop import DriverLoop

__all__ = [
    "DEADLINE",
    "FAULTS",
    "LONGEST_DELAY",
    "MISSES",
    "SHORTEST_DELAY",
    "SYNCHRONOUS",
    "Gate",
    "asked",
    "guard",
    "late",
    "origin",
]

T = TypeVar("T")
P = ParamSpec("P")

DEADLINE = float(os.environ.get("ORLOP_DRIVER_TIMEOUT", "60"))  # seconds; tests of plugins that hang set it
SYNCHRONOUS = min(5.0, DEADLINE)  # this is long, because on a busy machine the daemon may not run for a second
THREADS = 20  # limit of synchronous calls of a plugin that run at the same time, including abandoned calls
MISSES = 3
FAULTS = 5  # more than MISSES, because an exception costs no time, and one bad request may cause it
SHORTEST_DELAY = 1.0
LONGEST_DELAY = 60.0
STOPPING = 3.0  # seconds that a cancelled call has for its cleanup while the daemon stops
_GRACE = 1.0  # seconds that a call has for its cleanup after it was cancelled at its deadline

_log = logging.getLogger("orlop.drivers")


class _WrongAnswer(DriverError):
    """A method returned a value of another type than its Protocol says."""


class Gate:
    """The calls of one plugin. `label` names it in messages: 'storage driver "overlay2"'. `failures` are the numbers of
    failures by reason, "deadline" or "exception"; `abandoned` is the number of calls that still run although their caller
    has given up. `origin` is DISTRIBUTION:NAME of the plugin. `loop` runs async methods that must not run on the caller's
    event loop. `is_own` is true for a plugin of this project: its methods run on the caller's event loop."""

    def __init__(self, label: str, seconds: float = DEADLINE) -> None:
        self.label = label
        self.seconds = seconds
        self.failures: Counter[str] = Counter()
        self.abandoned = 0
        self._missed = self._faults = 0  # missed deadlines and unexpected exceptions in a row
        self._ahead = 0.0  # trio's clock minus `time.monotonic()`, so that threads can compute trio's time
        self._delay = SHORTEST_DELAY
        self._retry_at = 0.0
        self._on_trial = False
        self._lock = threading.Lock()  # protects `abandoned`, which threads change too
        self._threads = trio.CapacityLimiter(THREADS)
        self._stopping = False
        self._cancelled: set[trio.CancelScope] = set()  # scopes of cancelled callers that wait for the end of their calls
        self.origin = ""
        self.loop: DriverLoop | None = None
        self.is_own = False

    @property
    def degraded(self) -> bool:
        """Whether calls fail immediately."""
        return self._missed >= MISSES or self._faults >= FAULTS

    def _now(self) -> float:
        """The time of trio's clock, also on threads."""
        try:
            now = trio.current_time()
        except RuntimeError:  # no trio loop is running in this thread
            return time.monotonic() + self._ahead
        self._ahead = now - time.monotonic()
        return now

    def describe(self) -> str:
        """A message that says why calls fail immediately, and until when."""
        wait = max(0.0, self._retry_at - self._now())
        calls = f"did not answer {self._missed}" if self._missed >= MISSES else f"failed in {self._faults}"
        again = "is being called again" if self._on_trial else f"is called again in {wait:.0f} s"
        return f"{self.label} {calls} calls in a row; it {again}"

    # --- calls ------------------------------------------------------------------------------------------------------

    async def call(
        self,
        verb: str,
        method: Callable[..., Awaitable[T]],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        check: Callable[[Any], Any] | None = None,
    ) -> T:
        """Await `method(*args, **kwargs)` in a separate task. `verb` is for messages: "cannot VERB: LABEL failed". `check`
        converts the answer, or raises `_WrongAnswer`."""
        trial = self.degraded and self._admit(verb)
        call = _Call(self, verb, method, args, kwargs)
        deadline = trio.current_time() + self.seconds
        # The call runs in a system task, which only this caller can cancel. So shielded cleanup code can call plugins while
        # the daemon stops.
        name = f"{verb}: {self.label}"
        trio.lowlevel.spawn_system_task(call.run, name=name, context=contextvars.copy_context())
        try:
            with trio.CancelScope(deadline=deadline):
                await call.wait()
        except trio.Cancelled:
            call.scope.cancel()
            with trio.CancelScope(deadline=deadline, shield=True) as scope:
                await self._wait_cancelled(call, scope)
            if not call.ended:
                self._abandon(call)
                self._miss(trial)
                raise
            if not call.answered and call.error is None:
                if trial:
                    self._on_trial = False  # the trial had no result, so the next call is the trial
                raise
        if not call.ended:
            call.scope.cancel()
            with trio.CancelScope(deadline=deadline + _GRACE, shield=True):
                await call.wait()
            if not call.ended:
                self._abandon(call)
            if not call.answered:
                self._miss(trial)
                raise DeadlineExceeded(f"cannot {verb}: {self.label} gave no answer in {self.seconds:g} s") from call.error
        if not call.answered:
            error = call.error or DriverError(f"cannot {verb}: {self.label} cancelled its own call")
            raise self.failure(verb, error, trial)
        try:
            value = check(call.value) if check else call.value
        except _WrongAnswer as error:
            raise self.failure(verb, error, trial) from None
        self._answer()
        return typing.cast("T", value)

    async def _wait_cancelled(self, call: _Call, scope: trio.CancelScope) -> None:
        if self._stopping:
            scope.deadline = min(scope.deadline, trio.current_time() + STOPPING)
        self._cancelled.add(scope)
        try:
            await call.wait()
        finally:
            self._cancelled.discard(scope)

    def stop(self) -> None:
        """The daemon is stopping: from now on, a cancelled call is abandoned after `STOPPING` seconds."""
        self._stopping = True
        for scope in self._cancelled:
            scope.deadline = min(scope.deadline, trio.current_time() + STOPPING)

    def call_now(self, verb: str, function: Callable[[], T]) -> T:
        """Call a synchronous function of the plugin on the caller's thread, without a deadline."""
        trial = self.degraded
        if trial and (self._on_trial or self._now() < self._retry_at):
            raise Unavailable(f"cannot {verb}: {self.describe()}")
        try:
            value = function()
        except BaseException as error:
            raise self.failure(verb, error, trial) from error
        self._answer()
        return value

    def late(self, verb: str, seconds: float) -> DeadlineExceeded:
        """Count a missed deadline of `call_now`, in which the caller measures the deadline. Returns the error for the
        caller."""
        self._miss(False)
        return DeadlineExceeded(f"cannot {verb}: {self.label} gave no answer in {seconds:g} s")

    async def call_away(self, verb: str, function: Callable[[], T]) -> T:
        """Call a synchronous function of the plugin on a thread, which is abandoned at the deadline or when the caller is
        cancelled."""
        work = _Work(self, f"cannot {verb}: {self.label}", function)
        trial = self.degraded and self._admit(verb)
        late = await self._run(work, SYNCHRONOUS, trial, self._threads)
        if late:
            self._miss(trial)
            raise DeadlineExceeded(f"cannot {verb}: {self.label} gave no answer in {SYNCHRONOUS:g} s")
        if work.error is not None:
            raise self.failure(verb, work.error, trial) from work.error
        self._answer()
        return typing.cast("T", work.value)

    async def _run(self, work: _Work[Any], seconds: float, trial: bool, limiter: trio.CapacityLimiter) -> bool:
        """Run `work` on a thread. Returns whether it was abandoned at the deadline."""
        try:
            with trio.move_on_after(seconds) as scope:
                await trio.to_thread.run_sync(work.run, abandon_on_cancel=True, limiter=limiter)
        except BaseException as error:
            if trial:
                self._on_trial = False  # the next call is the trial
            work.abandon()
            if isinstance(error, RuntimeError) and not work.started:  # the process can start no more threads
                raise DriverError(f"{work.failure}: {error}") from error
            raise
        if scope.cancelled_caught:
            work.abandon()
        return scope.cancelled_caught and not work.ended.is_set()

    def failure(self, verb: str, error: BaseException, trial: bool = False) -> OrlopError:
        """Count an exception of the plugin. Returns the error that the caller gets."""
        if isinstance(error, OrlopError) and not isinstance(error, _WrongAnswer):
            self._answer()
            return error
        failure = as_orlop_error(error, f"cannot {verb}: {self.label} failed")
        self._count_exception(error, trial)
        if failure is not error:
            failure.__cause__ = error
        return failure

    def _count_exception(self, error: BaseException, trial: bool) -> None:
        """An `OSError` comes from the plugin's disk or service. A call that frees space on a full disk must be tried, so
        these exceptions do not make the plugin degraded."""
        self.failures["exception"] += 1
        if isinstance(error, OSError):
            self._answer()
        else:
            self._count_bad(trial, 0, self._faults + 1)

    async def make(self, work: Callable[[], T]) -> T:
        """Run an import or a factory on a thread, which is abandoned at the deadline or when the caller is cancelled."""
        making = _Work(self, f"cannot use {self.label}", work)
        trial = self._admit("use it")
        # A separate limiter, so that hanging threads of other calls cannot use it up
        late = await self._run(making, self.seconds, trial, trio.CapacityLimiter(1))
        return self._made(making, trial, self.seconds if late else 0.0)

    def make_blocking(self, work: Callable[[], T], seconds: float) -> T:
        """Like `make`, but blocks for at most `seconds`. Used at the start of the daemon, before the event loop serves
        clients."""
        making = _Work(self, f"cannot use {self.label}", work)
        trial = self._admit("use it")
        try:
            threading.Thread(target=making.run, name=self.label, daemon=True).start()
        except RuntimeError as error:
            if trial:
                self._on_trial = False
            raise DriverError(f"cannot use {self.label}: {error}") from error
        late = not making.ended.wait(seconds)
        if late:
            making.abandon()
        return self._made(making, trial, seconds if late else 0.0)

    def _made(self, making: _Work[T], trial: bool, waited: float) -> T:
        if waited and not making.ended.is_set():
            self._miss(trial)
            raise DeadlineExceeded(f"cannot use {self.label}: it was not loaded in {waited:g} s")
        error = making.error
        if error is None or isinstance(error, OrlopError):
            self._answer()
        if error is not None:
            if isinstance(error, OrlopError):
                raise error
            self._count_exception(error, trial)
            if isinstance(error, (OSError, ValueError)):
                raise DriverError(f"cannot use {self.label}: {error}") from error
            raise as_orlop_error(error, f"cannot use {self.label}") from error
        return typing.cast("T", making.value)

    # --- breaker ----------------------------------------------------------------------------------------------------

    def _admit(self, verb: str) -> bool:
        """Whether this call is the trial of a degraded plugin. Raises `Unavailable` if the plugin is degraded and no trial
        is due."""
        if not self.degraded:
            return False
        if self._on_trial or self._now() < self._retry_at:
            raise Unavailable(f"cannot {verb}: {self.describe()}")
        self._on_trial = True
        return True

    def _answer(self) -> None:
        if not self._missed and not self._faults:
            return
        if self.degraded:
            _log.info("%s answers again", self.label)
        self._missed = self._faults = 0
        self._delay = SHORTEST_DELAY
        self._on_trial = False

    def _miss(self, trial: bool) -> None:
        self.failures["deadline"] += 1
        self._count_bad(trial, self._missed + 1, self._faults)

    def _count_bad(self, trial: bool, missed: int, faults: int) -> None:
        was = self.degraded
        self._missed, self._faults = missed, faults
        if trial:
            self._on_trial = False
            self._delay = min(LONGEST_DELAY, 2 * self._delay)
            self._retry_at = self._now() + self._delay
        elif self.degraded and not was:
            self._retry_at = self._now() + self._delay
            _log.warning("%s; until then, calls to this driver fail immediately", self.describe())

    def count_abandoned(self, change: int) -> None:
        with self._lock:
            self.abandoned += change

    def _abandon(self, call: _Call) -> None:
        call.abandoned = True
        abandoned.count(1)
        self.count_abandoned(1)
        _log.warning("%s did not end after cancellation and is abandoned (%d abandoned calls)", call, self.abandoned)


class _Call:
    """A call of an async method, and its result. If the call has `ended` without an answer and without an error, it was
    cancelled."""

    __slots__ = (
        "_args",
        "_gate",
        "_kwargs",
        "_method",
        "_verb",
        "_waiter",
        "abandoned",
        "answered",
        "ended",
        "error",
        "scope",
        "value",
    )

    def __init__(
        self, gate: Gate, verb: str, method: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        self._gate, self._verb, self._method, self._args, self._kwargs = gate, verb, method, args, kwargs
        self._waiter: trio.lowlevel.Task | None = None
        self.scope = trio.CancelScope()
        self.ended = self.answered = self.abandoned = False
        self.value: Any = None
        self.error: BaseException | None = None

    def __str__(self) -> str:
        return f"the call {self._verb} of {self._gate.label}"

    async def run(self) -> None:
        """Make the call. Never raises, because an exception from a system task ends trio and thereby the daemon."""
        try:
            with self.scope:
                loop = self._gate.loop
                if loop is None:
                    self.value = await self._method(*self._args, **self._kwargs)
                else:
                    self.value = await loop.call(self._method, self._args, self._kwargs)
                self.answered = True
        # the cancel scope has caught its own cancellation, so this exception comes from the plugin
        except BaseException as error:
            self.error = error
        self.ended = True
        if self._waiter is not None:
            trio.lowlevel.reschedule(self._waiter)
        elif self.abandoned:
            abandoned.count(-1)
            self._gate.count_abandoned(-1)
            _log.info("%s was abandoned and has now ended; its answer is discarded", self)

    async def wait(self) -> None:
        """Wait until the call has ended. Supports only one waiting task. Because of this restriction, it is twice as fast as
        a `trio.Event`."""
        if self.ended:
            return

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiter = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiter = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)


class _Work(typing.Generic[T]):
    """Work on a thread that may be abandoned. `failure` begins messages: "cannot VERB: LABEL"."""

    def __init__(self, gate: Gate, failure: str, work: Callable[[], T]) -> None:
        self._gate = gate
        self._work = work
        self._lock = threading.Lock()
        self._abandoned = False
        self.failure = failure
        self.started = False
        self.ended = threading.Event()
        self.value: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        self.started = True
        try:
            self.value = self._work()
        except BaseException as error:
            self.error = error
        with self._lock:
            self.ended.set()
            if self._abandoned:
                self._gate.count_abandoned(-1)

    def abandon(self) -> None:
        with self._lock:
            if self.ended.is_set() or not self.started:
                return
            self._abandoned = True
            self._gate.count_abandoned(1)
        _log.warning("%s: the thread does not end and is abandoned (%d abandoned calls)", self.failure, self._gate.abandoned)


# --- objects whose calls go through a gate ----------------------------------------------------------------------------


def guard(gate: Gate, plugin: object, protocol: type, *optional: type) -> object:
    """An object that has exactly the members of `protocol`, and of the Protocols in `optional` that `plugin` implements.
    Raises `DriverError` when `plugin` does not implement `protocol`. The caller casts the object to `protocol`.

    Reads the plugin's properties, so call it on a thread: in `Gate.make`.

    Answers are checked against the annotations of the Protocol, if these are plain classes or collections. If the
    annotation of an answer is a Protocol, the answer is guarded too.
    """
    missing = protocols.mismatch(plugin, protocol)
    if missing:
        raise DriverError(f"cannot use {gate.label}: {missing}")
    present = tuple(each for each in optional if protocols.has_all(plugin, each))
    for each in present:
        if (wrong := protocols.mismatch(plugin, each)) is not None:
            raise DriverError(f"cannot use {gate.label}: {wrong}")
    implemented = (protocol, *present)
    made: object = _proxy(implemented)(gate, plugin, _properties(plugin, implemented))
    return made


class _Proxy:
    __slots__ = ("_gate", "_plugin", "_values")

    def __init__(self, gate: Gate, plugin: object, values: Mapping[str, Any]) -> None:
        self._gate, self._plugin, self._values = gate, plugin, values

    def __repr__(self) -> str:
        return f"<{self._gate.label}>"


@functools.cache
def _proxy(implemented: tuple[type, ...]) -> Callable[[Gate, object, Mapping[str, Any]], _Proxy]:
    body: dict[str, Any] = {"__slots__": ()}
    for protocol in implemented:
        for name, member in protocols.members(protocol).items():
            if isinstance(member, property):
                body[name] = _property(name)
            elif inspect.iscoroutinefunction(member):
                body[name] = _method(name, member)
            else:
                body[name] = _function(name, member)
    return type(f"Guarded{implemented[0].__name__}", (_Proxy,), body)


def _properties(plugin: object, implemented: tuple[type, ...]) -> dict[str, Any]:
    """The values of all properties. `mismatch` has checked their types."""
    found = {
        name for each in implemented for name, member in protocols.members(each).items() if isinstance(member, property)
    }
    return {name: getattr(plugin, name) for name in sorted(found)}


def _checked(gate: Gate, verb: str, value: Any, member: Callable[..., Any]) -> Any:
    """Check that the value has the type that the Protocol declares, and return the value. If this type is a Protocol, the
    value is guarded."""
    wanted, hint = protocols.checkable(member), protocols.returned(member)
    if wanted is not None and not isinstance(value, wanted):
        raise _WrongAnswer(f"cannot {verb}: {gate.label} returned {type(value).__name__}, not {wanted.__name__}")
    return guard(gate, value, hint) if protocols.is_protocol(hint) else value


def _property(name: str) -> property:
    return property(lambda self: self._values[name])


def _method(name: str, member: Callable[..., Any]) -> Callable[..., Any]:
    verb = name.replace("_", " ")

    def check(gate: Gate, value: Any) -> Any:
        return _checked(gate, verb, value, member)

    @functools.wraps(member)
    async def call(self: _Proxy, *args: Any, **kwargs: Any) -> Any:
        return await self._gate.call(verb, getattr(self._plugin, name), args, kwargs, functools.partial(check, self._gate))

    return call


def _function(name: str, member: Callable[..., Any]) -> Callable[..., Any]:
    verb = name.replace("_", " ")

    @functools.wraps(member)
    def call(self: _Proxy, *args: Any, **kwargs: Any) -> Any:
        return self._gate.call_now(verb, functools.partial(_call_member, self, name, verb, member, args, kwargs))

    return call


def _call_member(
    proxy: _Proxy, name: str, verb: str, member: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    return _checked(proxy._gate, verb, getattr(proxy._plugin, name)(*args, **kwargs), member)


def late(plugin: object, verb: str, seconds: float) -> DeadlineExceeded:
    """The error for a caller that waited in vain for a thread which calls a method of a guarded plugin."""
    if isinstance(plugin, _Proxy):
        return plugin._gate.late(verb, seconds)
    return DeadlineExceeded(f"cannot {verb}: no answer in {seconds:g} s")


def origin(plugin: object) -> str:
    """DISTRIBUTION:NAME of a guarded plugin; "" for any other object."""
    return plugin._gate.origin if isinstance(plugin, _Proxy) else ""


async def asked(method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a synchronous method of a guarded plugin on a thread, with the deadline `SYNCHRONOUS`. A method of a plugin of
    this project, or of any other object, is called directly."""
    proxy = getattr(method, "__self__", None)
    if not isinstance(proxy, _Proxy) or proxy._gate.is_own:
        return method(*args, **kwargs)
    name, member = method.__name__, typing.cast("Any", method).__wrapped__
    verb = name.replace("_", " ")
    return await proxy._gate.call_away(verb, functools.partial(_call_member, proxy, name, verb, member, args, kwargs))
