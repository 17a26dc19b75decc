"""Event loops for plugins of other authors: the async methods of such a plugin run in a trio loop on a separate thread.

If an async method blocks (`time.sleep` in `attach`), only other calls of the same plugin are delayed. A call here is
cancelled as on the daemon's loop; `calls.Gate` adds the deadline, and abandons a call that does not end. The drivers of this
project run on the daemon's loop. The test suite makes sure that they do not block it, and a separate thread would cost 0.1
ms for each call.

A `DriverLoop` owns its thread, which runs until the process ends. If code of the plugin ends the loop (by an exception in a
system task), the next call starts another loop.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import trio

from orlop_sdk import DriverError

__all__ = ["DriverLoop"]

T = TypeVar("T")


class _Job:
    """A call, and its result. `run` and `cancel` are called on the plugin's loop; `done` belongs to the caller's loop."""

    def __init__(self, method: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._method, self._args, self._kwargs = method, args, kwargs
        self._scope = trio.CancelScope()
        self._token = trio.lowlevel.current_trio_token()
        self.done = trio.Event()
        self.started = self.answered = False
        self.value: Any = None
        self.error: BaseException | None = None

    async def run(self) -> None:
        """Never raises, because an exception of a system task would end the loop."""
        self.started = True
        try:
            with self._scope:
                self.value = await self._method(*self._args, **self._kwargs)
                self.answered = True
        except trio.Cancelled as error:  # not a cancellation of `_scope`, which would have caught it
            self.error = DriverError("the plugin has ended its event loop")
            self.error.__cause__ = error
        except BaseException as error:
            self.error = error
        self.finish()

    def finish(self) -> None:
        try:
            self._token.run_sync_soon(self.done.set)
        except trio.RunFinishedError:
            pass  # the daemon has ended; its caller is gone

    def cancel(self) -> None:
        self._scope.cancel()


class DriverLoop:
    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._token: trio.lowlevel.TrioToken | None = None
        self._jobs: set[_Job] = set()

    async def call(self, method: Callable[..., Awaitable[T]], args: Sequence[Any], kwargs: Mapping[str, Any]) -> T:
        """Await `method(*args, **kwargs)` on the plugin's loop. If the caller is cancelled, so is the method, and the caller
        waits for its end."""
        job = _Job(method, args, kwargs)
        token = self._submit(job)
        await self._wait(job, token)
        if job.error is not None and not job.started:  # the loop was ending when it got the call
            job = _Job(method, args, kwargs)
            await self._wait(job, self._submit(job))
        if job.error is not None:
            raise job.error
        if not job.answered:
            raise DriverError("the method cancelled itself")
        return cast("T", job.value)

    async def _wait(self, job: _Job, token: trio.lowlevel.TrioToken) -> None:
        try:
            await job.done.wait()
        except trio.Cancelled:
            self._soon(token, job.cancel)
            with trio.CancelScope(shield=True):  # needs no deadline: the gate abandons this task at its deadline
                await job.done.wait()
            if not job.answered and job.error is None:
                raise

    def _submit(self, job: _Job) -> trio.lowlevel.TrioToken:
        with self._lock:
            for _ in range(2):
                token = self._token or self._start()
                self._jobs.add(job)
                if self._soon(token, lambda: trio.lowlevel.spawn_system_task(self._run, job)):
                    return token
                self._token = None
        raise DriverError("the plugin ends its event loop")

    @staticmethod
    def _soon(token: trio.lowlevel.TrioToken, function: Callable[[], object]) -> bool:
        try:
            token.run_sync_soon(function)
        except trio.RunFinishedError:
            return False
        return True

    async def _run(self, job: _Job) -> None:
        await job.run()
        with self._lock:
            self._jobs.discard(job)

    def _start(self) -> trio.lowlevel.TrioToken:
        started: list[trio.lowlevel.TrioToken] = []
        ready = threading.Event()

        async def serve() -> None:
            started.append(trio.lowlevel.current_trio_token())
            ready.set()
            await trio.sleep_forever()

        def main() -> None:
            try:
                trio.run(serve)
            except BaseException as error:
                self._ended(started[0] if started else None, error)
            ready.set()

        threading.Thread(target=main, name=self._name, daemon=True).start()
        ready.wait()  # the new thread runs none of the plugin's code before this
        if not started:
            raise DriverError("cannot start an event loop")
        self._token = started[0]
        return started[0]

    def _ended(self, token: trio.lowlevel.TrioToken | None, error: BaseException) -> None:
        """Fail the calls that were running in a loop that the plugin has ended."""
        with self._lock:
            if self._token is token:
                self._token = None
            jobs, self._jobs = self._jobs, set()
        for job in jobs:
            job.error = job.error or DriverError(f"the plugin has ended its event loop: {error!r}")
            job.finish()
