"""The routes below /debug/, for debugging a running daemon. They exist only while `debug` is set.

The routes change nothing. Clients of listeners with a role cannot use them, because a dump of tasks shows the activity of
all clients.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from orlop_api_docker import API_VERSION
from orlop_kernel import __version__
from orlop_kernel.boot import dump
from orlop_kernel.http.messages import Answer, Response
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route, RouteHandler
from orlop_sdk import InvalidParameter, NotFound

from .responses import COMMON, json_response, text_response

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

__all__ = ["routes"]

_STARTED = time.monotonic()
_PROFILE_SECONDS = 30
_PROFILE_LIMIT = 300
_SAMPLE = 0.01


def _command_line() -> list[str]:
    with open("/proc/self/cmdline", "rb") as file:
        return [os.fsdecode(part) for part in file.read().split(b"\0")[:-1]]


def _memory() -> dict[str, int]:
    with open("/proc/self/status") as file:
        rows = dict(line.split(":", 1) for line in file)
    return {name: int(rows[key].split()[0]) * 1024 for name, key in (("resident", "VmRSS"), ("virtual", "VmSize"))}


def _named(counted: Counter[tuple[str, ...]]) -> dict[str, int]:
    return {" ".join(key): value for key, value in sorted(counted.items())}


def _sampled(seconds: float, thread: int) -> str:
    """Sample a thread's stack a hundred times a second. Returns lines of the form "outer;inner count", the input of flame
    graphs."""
    found: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        frame = sys._current_frames().get(thread)
        names = []
        while frame is not None:
            names.append(f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_code.co_qualname}")
            frame = frame.f_back
        found[";".join(reversed(names))] += 1
        time.sleep(_SAMPLE)
    return "".join(f"{stack} {count}\n" for stack, count in found.most_common())


class _Routes:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._profiles: dict[str, tuple[str, Callable[[], str]]] = {
            "cmdline": ("The command line, its words separated by NUL", lambda: "\0".join(_command_line())),
            "goroutine": ("The stack of each trio task (instead of goroutines)", lambda: "".join(dump.tasks())),
            "threadcreate": ("The stack of each thread", lambda: "".join(dump.threads())),
        }

    def when_debugging(self, handler: RouteHandler) -> RouteHandler:
        """Answer like an unknown route unless `debug` is on. A reload may change `debug`."""

        async def guarded(call: Call) -> Answer:
            if not self.engine.config.debug:
                raise NotFound("page not found")
            return await handler(call)

        return guarded

    async def tasks(self, call: Call) -> Answer:
        return text_response("".join((*dump.tasks(), *dump.threads())))

    async def vars(self, call: Call) -> Answer:
        engine, statistics = self.engine, trio.lowlevel.current_statistics()
        return json_response(
            {
                "cmdline": _command_line(),
                "pid": os.getpid(),
                "uptime_seconds": round(time.monotonic() - _STARTED, 3),
                "versions": {
                    "orlop": __version__,
                    "api": API_VERSION,
                    "python": sys.version.split()[0],
                    "trio": trio.__version__,
                    "kernel": os.uname().release,
                },
                "memory": _memory(),
                "objects": gc.get_count()[0] + gc.get_freeze_count(),
                "open_files": len(os.listdir("/proc/self/fd")),
                "threads": threading.active_count(),
                "tasks": statistics.tasks_living,
                "tasks_runnable": statistics.tasks_runnable,
                "containers": engine.containers.index.counts(),
                "monitors": sum(item.run is not None and item.run.monitor is not None for item in engine.containers.index),
                "execs": len(engine.execs.index),
                "images": engine.images.count,
                "events": {"published": engine.events.published, "listeners": engine.events.listeners},
                "actions": _named(engine.counters.actions),
                "actions_failed": _named(engine.counters.failures),
                "health_checks": engine.counters.health_checks,
                "health_checks_failed": engine.counters.health_checks_failed,
                "zygote": engine.zygote.pid,
            }
        )

    async def locks(self, call: Call) -> Answer:
        found: list[dict[str, Any]] = []
        for item in self.engine.containers.index:
            owner = item.lock.owner
            if owner is not None:
                found.append(
                    {
                        "container": item.id,
                        "name": item.name,
                        "held_seconds": round(item.lock.held_for, 3),
                        "waiting": item.lock.waiting,
                        "task": owner.name,
                        "at": dump.where(owner),
                    }
                )
        return json_response(sorted(found, key=lambda row: -row["held_seconds"]))

    async def index(self, call: Call) -> Answer:
        import html  # imported here, because loading its table of names takes a millisecond

        rows = [*((name, about) for name, (about, _) in self._profiles.items())]
        rows += [
            ("profile?seconds=30", "CPU profile of the daemon: stacks, and the number of samples of each stack"),
            ("../tasks", "Tasks and threads together"),
            ("../vars", "Counters, sizes, versions"),
            ("../locks", "Locked containers: the task that has the lock, and since when"),
        ]
        items = "".join(f'<li><a href="{html.escape(name)}">{html.escape(name)}</a>: {about}</li>\n' for name, about in rows)
        page = f"<html><head><title>/debug/pprof/</title></head><body>\n/debug/pprof/<ul>\n{items}</ul></body></html>\n"
        return Response(200, page.encode(), (*COMMON, ("Content-Type", "text/html; charset=utf-8")))

    async def profile(self, call: Call) -> Answer:
        name = call.params["name"]
        if name == "profile":
            seconds = call.integer("seconds", _PROFILE_SECONDS)
            if not 0 < seconds <= _PROFILE_LIMIT:
                raise InvalidParameter(f"invalid seconds: {seconds} is not between 1 and {_PROFILE_LIMIT}")
            this = threading.get_ident()
            return text_response(await trio.to_thread.run_sync(_sampled, seconds, this, abandon_on_cancel=True))
        if name not in self._profiles:
            raise NotFound(f"unknown profile: {name} (there are: {', '.join((*self._profiles, 'profile'))})")
        return text_response(self._profiles[name][1]())


def routes(engine: Engine) -> list[Route]:
    own = _Routes(engine)
    return [
        Route("GET", "/debug/tasks", own.when_debugging(own.tasks)),
        Route("GET", "/debug/vars", own.when_debugging(own.vars)),
        Route("GET", "/debug/locks", own.when_debugging(own.locks)),
        Route("GET", "/debug/pprof/", own.when_debugging(own.index)),
        Route("GET", "/debug/pprof/{name}", own.when_debugging(own.profile)),
    ]
