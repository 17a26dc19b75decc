"""The daemon's life: boot -> restore -> serve -> reload -> shutdown. `Daemon.live` is the whole tree of nurseries.

Owns the order of things and nothing else. All that a container needs to go on is in its monitor: this process may die at
any line below, and the next one picks up.
"""

from __future__ import annotations

import functools
import gc
import logging
import math
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from orlop_engine.processes.runs import release_private_directory
from orlop_engine.processes.zygote import Zygote
from orlop_kernel import __version__
from orlop_kernel.boot import dump, listen, logs, memory, pidfile, process, systemd, tls
from orlop_kernel.boot.phases import Phases
from orlop_kernel.config import Config, ConfigError, Listener, Loaded, ReloadPlan, load_all, reload_attributes
from orlop_kernel.config.argv import Parsed
from orlop_sdk import OrlopError, linux

if TYPE_CHECKING:
    from orlop_engine.engine import Engine
    from orlop_guard_listeners.service import Access
    from orlop_kernel.boot.watchdog import LoopWatchdog
    from orlop_kernel.http.messages import Limits
    from orlop_kernel.http.server import Server
    from orlop_kernel.routing.router import Api, Route

__all__ = ["run"]

_log = logging.getLogger("orlop.daemon")
_STREAM_GRACE = 2.0  # for streams that do not end by themselves: nobody waits for `logs -f` when a daemon restarts
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Daemon:
    """One run of orlopd."""

    def __init__(self, loaded: Loaded, parsed: Parsed, began: float) -> None:
        self._loaded, self._parsed, self._phases = loaded, parsed, Phases(began)
        self._phases.end("configuration")
        self._environ = dict(os.environ)
        self._stop = trio.Event()
        self._hurry = trio.CancelScope()
        self._signals = 0
        self._engine: Engine | None = None
        self._listeners: listen.Listeners = []
        self._own: list[tuple[Listener, listen.Listeners]] = []
        self._access: Access | None = None
        self._watchdog: LoopWatchdog | None = None

    async def live(self) -> None:
        """Boot, serve until a signal, stop. Returns after a clean stop; raises what made a start impossible."""
        config = self._loaded.config
        inherited = systemd.inherited_sockets(os.environ, os.getpid())
        listen.close_unused(inherited, config)
        with pidfile.held(config.pid_path), process.roots(config), _mount_point_released(config):
            async with (
                Zygote.start(config.exec_root, [config.log_driver], _programs(config)) as zygote,
                trio.open_nursery() as outer,
            ):
                process.adjust()
                outer.start_soon(systemd.feed_watchdog, os.environ, os.getpid())
                await outer.start(self._watch_signals)
                # The zygote imports on the other processor while we import here
                from orlop_api_docker.errors import answer_error
                from orlop_engine import reload
                from orlop_engine.engine import Engine
                from orlop_guard_listeners.service import Access
                from orlop_kernel.events import EventBus
                from orlop_kernel.http.server import Server
                from orlop_kernel.store import Store

                self._phases.end("imports")
                async with (
                    Store.open(os.path.join(config.data_root, "orlop.db")) as store,
                    trio.open_nursery() as state,  # operations that outlive the request they came by
                    Engine.open(config, store, EventBus(store), zygote, state) as engine,
                    Access.open(engine) as access,
                    listen.opened(config, inherited) as listeners,  # from here on clients wait, not fail
                    listen.opened_entries(config, listeners) as entries,
                ):
                    self._phases.end("state")
                    self._engine, self._access = engine, access
                    self._listeners, self._own = listeners, entries
                    state.start_soon(engine.events.run)
                    engine.loaded = self._loaded
                    reload.check_defaults(engine, config)
                    reload.warn_of_runtime(engine)
                    await engine.restore()
                    self._phases.end("containers")
                    routes = list(_routes(engine))
                    for_hosts, for_entries = process.client_limits(len(entries))
                    apis = [
                        (access.api(routes), for_hosts, listeners),
                        *((access.api(routes, entry), for_entries, own) for entry, own in entries),
                    ]
                    await _measure(engine, state, [api for api, _, _ in apis], for_entries)
                    servers = [(Server(api, limits, on_error=answer_error), own) for api, limits, own in apis]
                    async with trio.open_nursery() as connections:
                        for server, own in servers:
                            await connections.start(server.serve, own)
                        self._ready()
                        outer.start_soon(memory.release_when_idle)
                        await self._stop.wait()
                        await self._shutdown(engine, [server for server, _ in servers])
                        connections.cancel_scope.cancel()
                    await engine.events.flush()
                    state.cancel_scope.cancel()
                outer.cancel_scope.cancel()

    def _ready(self) -> None:
        gc.freeze()  # what booting made stays for good: the collector need not look at it again
        gc.enable()
        self._watch_loop(self._loaded.config)
        self._phases.end("listening")
        _log.info("orlopd %s is ready after %s", __version__, self._phases)
        systemd.notify_ready("serving")

    def _watch_loop(self, config: Config) -> None:
        """Report what blocks the loop from now on, if that is wanted: before, nobody was served."""
        debug = config.effective_log_level == "debug"
        if debug or self._watchdog or "ORLOP_LOOP_WATCHDOG" in self._environ:
            from orlop_kernel.boot import watchdog

            self._watchdog = watchdog.follow(self._watchdog, debug, self._environ)

    async def _watch_signals(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            task_status.started()
            async for signum in signals:
                try:
                    self._on_signal(signum)
                except Exception:
                    _log.exception("cannot do what %s asks for", signal.Signals(signum).name)

    def _on_signal(self, signum: int) -> None:
        if signum == signal.SIGHUP:
            self._reload()
        elif signum == signal.SIGUSR1:
            _log.info("tasks written to %s", dump.write(self._loaded.config.exec_root))
        else:
            self._on_stop_signal(signum)

    def _on_stop_signal(self, signum: int) -> None:
        """The first one stops, the second stops waiting, the third is the end."""
        self._signals += 1
        name = signal.Signals(signum).name
        if self._signals == 1:
            _log.info("%s: shutting down", name)
            self._stop.set()
        elif self._signals == 2:
            _log.warning("%s again: not waiting for containers and clients any longer", name)
            self._hurry.cancel()
        else:
            _log.error("%s a third time: leaving at once", name)
            os._exit(128 + signum)

    def _reload(self) -> None:
        """Read the file again; apply all that can be applied, or, when anything is wrong with it, nothing."""
        if self._engine is None or self._access is None:
            _log.warning("SIGHUP: still starting, nothing is reloaded")
            return
        systemd.notify_reloading()
        status = "serving; the last reload was refused, its reasons are in the log"
        running = self._engine.config
        from orlop_engine import reload
        from orlop_kernel.failures import as_orlop_error

        try:
            loaded = load_all(self._parsed, self._environ)
            renewed = tls.contexts(running, listen.any_tls(self._listeners))  # the same files, maybe with new content
            listen.check(running, loaded.config)
            found = reload.check(self._engine, loaded)
            plugins = self._access.prepare(found.config)
        except Exception as error:
            refused = error if isinstance(error, ConfigError) else ConfigError(str(as_orlop_error(error, "cannot check it")))
            for problem in refused.problems:
                _log.error("cannot reload the configuration, it stays as it is: %s", problem)
        else:
            status = "serving"
            reload.apply(self._engine, found)
            self._access.apply(plugins)
            listen.renew(self._listeners, renewed.get(running.tlscacert))
            for entry, own in self._own:
                listen.renew(own, renewed.get(entry.tlscacert or running.tlscacert))
            logs.set_level(found.config.effective_log_level)
            self._watch_loop(found.config)
            _tell(found)
            attributes = {**reload_attributes(found.config), "name": socket.gethostname()}
            self._engine.events.publish("daemon", "reload", self._engine_id(), attributes)
        finally:  # or systemd would wait for the end of it
            systemd.notify_ready(status)

    def _engine_id(self) -> str:
        from orlop_engine.system import engine_id

        return engine_id(self._loaded.config.data_root)

    async def _shutdown(self, engine: Engine, servers: list[Server]) -> None:
        """Accept nothing more, stop the containers or leave them, give what still streams a moment."""
        limit = _stop_limit(engine)
        systemd.notify_stopping(limit)
        leave = engine.config.live_restore
        engine.events.close_subscriptions()
        with self._hurry, trio.move_on_after(limit):
            async with trio.open_nursery() as nursery:
                for server in servers:
                    nursery.start_soon(server.drain, limit)
                await engine.shutdown(leave_running=leave)
                nursery.cancel_scope.deadline = trio.current_time() + _STREAM_GRACE
        running = engine.containers.counts()["running"]
        if leave or not running:
            _log.info("stopped; %d containers are left running", running)
        else:
            _log.warning("force shutdown: %d containers still run, the next start will stop them", running)


async def _measure(engine: Engine, nursery: trio.Nursery, apis: list[Api], limits: Limits) -> None:
    """Serve metrics in this nursery, if there is an address for them; nothing of it is imported where there is none."""
    if engine.config.metrics_addr:
        from orlop_metrics_prometheus.serve import start

        metrics = await start(engine, nursery, limits)
        for api in apis:
            api.on_answer = metrics.answered


def _routes(engine: Engine) -> Iterator[Route]:
    from orlop_api_docker import (
        config,
        containers,
        debug,
        exec,
        files,
        images,
        networks,
        orlop_check,
        plugins,
        swarm,
        system,
        volumes,
    )

    resources = (config, containers, debug, exec, files, images, networks, orlop_check, plugins, swarm, system, volumes)
    for resource in resources:
        yield from resource.routes(engine)


@contextmanager
def _mount_point_released(config: Config) -> Iterator[None]:
    """The engine makes `<exec-root>/mnt` a mount point, for monitors to mount under. When no run is left, nothing of ours
    stays mounted on the host, however the daemon ended."""
    try:
        yield
    finally:
        runs = os.path.join(config.exec_root, "run")
        if not os.path.isdir(runs) or not os.listdir(runs):
            release_private_directory(os.path.join(config.exec_root, "mnt"))


def _tell(found: ReloadPlan) -> None:
    """What became of a reload, for the log."""
    for warning in found.loaded.warnings:
        _log.warning("%s", warning)
    if found.needs_restart:
        _log.warning("changed, but needs a restart of the daemon: %s", ", ".join(found.needs_restart))
    applied = ", ".join(found.applied) or "nothing, all is unchanged"
    unchanged = f"; unchanged: {', '.join(found.unchanged)}" if found.unchanged else ""
    _log.info("configuration reloaded; applied: %s%s", applied, unchanged)


def _programs(config: Config) -> list[str]:
    """The default runtime's program: what most containers start by."""
    entry = config.all_runtimes().get(config.default_runtime)
    found = shutil.which(entry.path) if entry and entry.path else None
    return [found] if found else []


def _stop_limit(engine: Engine) -> float:
    """dockerd's: `shutdown-timeout`, or the longest stop timeout of a running container and 5 s; negative: for ever."""
    config = engine.config
    items = engine.containers.index.values()
    # `run`: also those that are just being started, which will have to be stopped too.
    own = [item.record.config.stop_timeout for item in items if item.record.state.running or item.run is not None]
    seconds = [value if isinstance(value, int) else config.default_stop_timeout for value in own]
    if config.shutdown_timeout < 0 or any(value < 0 for value in seconds):
        return math.inf
    return max(float(config.shutdown_timeout), max(seconds, default=0) + 5.0)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def run(loaded: Loaded, parsed: Parsed, began: float) -> int:
    """Be the daemon until it is told to stop. Returns the exit code: 0 after a clean stop, 1 when it could not start."""
    gc.disable()  # until `_ready`: a boot makes objects by the hundred thousand and throws none away
    linux.share_one_arena()
    config = loaded.config
    os.umask(0o022)
    os.chdir("/")
    logs.setup(config.effective_log_level, config.log_format)
    _log.info("starting, configuration from %s", loaded.file or "defaults and flags")
    for warning in loaded.warnings:
        _log.warning("%s", warning)
    try:
        trio.run(functools.partial(Daemon(loaded, parsed, began).live))
    except BaseException as error:
        leaves = list(_leaves(error))
        for leaf in leaves:
            if isinstance(leaf, (ConfigError, OrlopError)):
                for problem in leaf.problems if isinstance(leaf, ConfigError) else (leaf,):
                    _log.critical("failed to start daemon: %s", problem)
            else:
                _log.critical("the daemon failed: %s: %s", type(leaf).__name__, leaf, exc_info=leaf)
        return 1
    return 0
