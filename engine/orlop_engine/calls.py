"""Calls of plugins. Each call has a deadline and a circuit breaker, and raises only `OrlopError`.

A `Gate` contains the state of one plugin. `guard` makes an object with the methods of a Protocol; each call of these methods
goes through a gate. Whatever a plugin does, the caller gets an answer or an `OrlopError`, or is cancelled:

- An async method runs in a separate task, which is cancelled at the deadline. If the task does not end then (it is shielded,
  or waits for a thread), it is abandoned: the gate counts it, logs one message, and discards a late answer. If a caller is
  cancelled, its call is cancelled too. The caller then waits for the end of the call, at most until the deadline.
- An exception that is not an `OrlopError` becomes a `DriverError`; this includes SystemExit and KeyboardInterrupt.
- After `MISSES` missed deadlines in a row, the gate is degraded: calls fail immediately with `Unavailable`. After a
delay, which doubles from `SHORTEST_DELAY` to `LONGEST_DELAY`, one call is made as a trial. If the plugin answers (even
with an error), the gate is no longer degraded.

Synchronous methods and properties run on the event loop, because their contracts forbid them to wait. If such a call takes
longer than `SYNCHRONOUS`, a signal interrupts it, and this counts as a missed deadline. Imports and factories may take long,
so `Gate.make` and `Gate.make_blocking` run them on threads that can be abandoned.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import logging
import threading
import time
import typing
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import trio

from orlop_engine import interrupt
from orlop_kernel import abandoned
from orlop_kernel.failures import as_orlop_error
from orlop_sdk import DeadlineExceeded, DriverError, OrlopError, Unavailable, protocols

__all__ = ["DEADLINE", "LONGEST_DELAY", "MISSES", "SHORTEST_DELAY", "SYNCHRONOUS", "Gate", "guard"]

T = TypeVar("T")

DEADLINE = 60.0
SYNCHRONOUS = 5.0  # seconds; a long time, because on a busy machine the kernel may not run the daemon for a second
MISSES = 3
SHORTEST_DELAY = 1.0
LONGEST_DELAY = 60.0
_GRACE = 1.0  # seconds that a call has for its cleanup after it was cancelled at its deadline

_log = logging.getLogger("orlop.drivers")


def _now() -> float:
    try:
        return trio.current_time()
    except RuntimeError:  # no trio loop is running
        return time.monotonic()


class Gate:
    """The calls of one plugin. `label` is the plugin's name in messages: 'storage driver "overlay2"'. `failures` are the
    numbers of failures by reason, "deadline" or "exception"; `abandoned` is the number of calls that still run although
    their caller has given up."""

    def __init__(self, label: str, seconds: float = DEADLINE) -> None:
        self.label = label
        self.seconds = seconds
        self.failures: Counter[str] = Counter()
        self.abandoned = 0
        self._missed = 0
        self._delay = SHORTEST_DELAY
        self._retry_at = 0.0
        self._on_trial = False
        self._lock = threading.Lock()  # protects `abandoned`, which threads change too

    @property
    def degraded(self) -> bool:
        """Whether calls fail immediately."""
        return self._missed >= MISSES

    def describe(self) -> str:
        """A message that says why calls fail immediately, and until when."""
        wait = max(0.0, self._retry_at - _now())
        again = "is being called again" if self._on_trial else f"is called again in {wait:.0f} s"
        return f"{self.label} did not answer {self._missed} calls in a row; it {again}"

    # --- calls ------------------------------------------------------------------------------------------------------

    async def call(
        self, verb: str, method: Callable[..., Awaitable[T]], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> T:
        """Await `method(*args, **kwargs)` in a separate task. `verb` is for messages: "cannot VERB: LABEL failed"."""
        trial = self._missed >= MISSES and self._admit(verb)
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
            with trio.CancelScope(deadline=deadline, shield=True):
                await call.wait()
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
        if self._missed:
            self._answer()
        if call.answered:
            return typing.cast("T", call.value)
        raise self.failure(verb, call.error or DriverError(f"cannot {verb}: {self.label} cancelled its own call"))

    def call_now(self, verb: str, function: Callable[..., T], args: Sequence[Any], kwargs: Mapping[str, Any]) -> T:
        """Call a synchronous function of the plugin."""
        trial = self._missed >= MISSES and self._admit(verb)
        try:
            value = interrupt.within(SYNCHRONOUS, function, args, kwargs)
        except trio.Cancelled:
            if trial:
                self._on_trial = False
            raise
        except interrupt.TooLong:
            self._miss(trial)
            raise DeadlineExceeded(f"cannot {verb}: {self.label} gave no answer in {SYNCHRONOUS:g} s") from None
        except BaseException as error:
            if self._missed:
                self._answer()
            raise self.failure(verb, error) from error
        if self._missed:
            self._answer()
        return value

    def failure(self, verb: str, error: BaseException) -> OrlopError:
        """The error that a caller gets for an exception of the plugin."""
        if isinstance(error, OrlopError):
            return error
        failure = as_orlop_error(error, f"cannot {verb}: {self.label} failed")
        self.failures["exception"] += 1
        failure.__cause__ = error
        return failure

    async def make(self, work: Callable[[], T]) -> T:
        """Run an import or a factory on a thread, which is abandoned at the deadline or when the caller is cancelled."""
        making = _Making(self, work)
        trial = self._admit("use it")
        try:
            with trio.move_on_after(self.seconds) as scope:
                # A separate limiter, so that other threads that hang do not block this call
                limiter = trio.CapacityLimiter(1)
                await trio.to_thread.run_sync(making.run, abandon_on_cancel=True, limiter=limiter)
        except BaseException as error:
            if trial:
                self._on_trial = False  # the next call is the trial
            making.abandon()
            if isinstance(error, RuntimeError) and not making.started:
                raise DriverError(f"cannot use {self.label}: {error}") from error  # the process can start no more threads
            raise
        if scope.cancelled_caught:
            making.abandon()
        return self._made(making, trial, self.seconds if scope.cancelled_caught else 0.0)

    def make_blocking(self, work: Callable[[], T], seconds: float) -> T:
        """Like `make`, for callers that cannot await: blocks the event loop, for at most `seconds`."""
        making = _Making(self, work)
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

    def _made(self, making: _Making[T], trial: bool, waited: float) -> T:
        if waited and not making.ended.is_set():
            self._miss(trial)
            raise DeadlineExceeded(f"cannot use {self.label}: it was not loaded in {waited:g} s")
        self._answer()
        if making.error is not None:
            error = making.error
            if isinstance(error, OrlopError):
                raise error
            self.failures["exception"] += 1
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
        if self._on_trial or _now() < self._retry_at:
            raise Unavailable(f"cannot {verb}: {self.describe()}")
        self._on_trial = True
        return True

    def _answer(self) -> None:
        if self.degraded:
            _log.info("%s answers again", self.label)
        self._missed = 0
        self._delay = SHORTEST_DELAY
        self._on_trial = False

    def _miss(self, trial: bool) -> None:
        self.failures["deadline"] += 1
        was, self._missed = self.degraded, self._missed + 1
        if trial:
            self._on_trial = False
            self._delay = min(LONGEST_DELAY, 2 * self._delay)
            self._retry_at = _now() + self._delay
        elif self.degraded and not was:
            self._retry_at = _now() + self._delay
            _log.warning("%s; until then, calls of this driver fail immediately", self.describe())

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
                self.value = await self._method(*self._args, **self._kwargs)
                self.answered = True
        except BaseException as error:  # the scope catches its own cancellation; all other exceptions come from the plugin
            self.error = error
        self.ended = True
        if self._waiter is not None:
            trio.lowlevel.reschedule(self._waiter)
        elif self.abandoned:
            abandoned.count(-1)
            self._gate.count_abandoned(-1)
            _log.info("%s was abandoned and has now ended; its answer is discarded", self)

    async def wait(self) -> None:
        """Wait until the call has ended. Supports only one waiting task. This restriction makes it twice as fast as a
        `trio.Event`."""
        if self.ended:
            return

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiter = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiter = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)


class _Making(typing.Generic[T]):
    """Work on a thread that may be abandoned."""

    def __init__(self, gate: Gate, work: Callable[[], T]) -> None:
        self._gate = gate
        self._work = work
        self._lock = threading.Lock()
        self._abandoned = False
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
        _log.warning("loading %s takes too long and is abandoned", self._gate.label)


# --- objects whose calls go through a gate ----------------------------------------------------------------------------


def guard(gate: Gate, plugin: object, protocol: type, *optional: type) -> object:
    """An object that has exactly the members of `protocol`, and of the Protocols in `optional` that `plugin` implements.
    Raises `DriverError` when `plugin` does not implement `protocol`. The caller casts the object to `protocol`.

    Answers are checked against the annotations of the Protocol, if these are plain classes or collections. If the annotation
    of an answer is a Protocol, this function also guards the answer.
    """
    missing = protocols.mismatch(plugin, protocol)
    if missing:
        raise DriverError(f"cannot use {gate.label}: {missing}")
    present = tuple(each for each in optional if protocols.has_all(plugin, each))
    for each in present:
        if (wrong := protocols.mismatch(plugin, each)) is not None:
            raise DriverError(f"cannot use {gate.label}: {wrong}")
    made: object = _proxy((protocol, *present))(gate, plugin)
    return made


class _Proxy:
    __slots__ = ("_gate", "_plugin")

    def __init__(self, gate: Gate, plugin: object) -> None:
        self._gate, self._plugin = gate, plugin

    def __repr__(self) -> str:
        return f"<{self._gate.label}>"


@functools.cache
def _proxy(implemented: tuple[type, ...]) -> Callable[[Gate, object], _Proxy]:
    body: dict[str, Any] = {"__slots__": ()}
    for protocol in implemented:
        for name, member in protocols.members(protocol).items():
            if isinstance(member, property):
                body[name] = _property(name, member.fget)
            elif inspect.iscoroutinefunction(member):
                body[name] = _method(name, member)
            else:
                body[name] = _function(name, member)
    return type(f"Guarded{implemented[0].__name__}", (_Proxy,), body)


def _wrong(gate: Gate, verb: str, value: object, wanted: type) -> OrlopError:
    gate.failures["exception"] += 1
    return DriverError(f"cannot {verb}: {gate.label} returned {type(value).__name__}, not {wanted.__name__}")


def _property(name: str, member: Callable[..., Any] | None) -> property:
    def read(self: _Proxy) -> Any:
        verb = f"read {name}"
        value = self._gate.call_now(verb, getattr, (self._plugin, name), {})
        wanted = protocols.checkable(member)
        if wanted is not None and not isinstance(value, wanted):
            raise _wrong(self._gate, verb, value, wanted)
        return value

    return property(read)


def _method(name: str, member: Callable[..., Any]) -> Callable[..., Any]:
    verb = name.replace("_", " ")

    @functools.wraps(member)
    async def call(self: _Proxy, *args: Any, **kwargs: Any) -> Any:
        value = await self._gate.call(verb, getattr(self._plugin, name), args, kwargs)
        wanted = protocols.checkable(member)
        if wanted is not None and not isinstance(value, wanted):
            raise _wrong(self._gate, verb, value, wanted)
        return value

    return call


def _call_member(plugin: object, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return getattr(plugin, name)(*args, **kwargs)


def _function(name: str, member: Callable[..., Any]) -> Callable[..., Any]:
    verb = name.replace("_", " ")

    @functools.wraps(member)
    def call(self: _Proxy, *args: Any, **kwargs: Any) -> Any:
        value = self._gate.call_now(verb, _call_member, (self._plugin, name, args, kwargs), {})
        wanted, hint = protocols.checkable(member), protocols.returned(member)
        if wanted is not None and not isinstance(value, wanted):
            raise _wrong(self._gate, verb, value, wanted)
        return guard(self._gate, value, hint) if protocols.is_protocol(hint) else value

    return call
