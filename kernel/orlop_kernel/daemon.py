"""The daemon's lifetime: start -> restore -> serve -> reload -> shutdown. `Daemon.live` opens the nurseries of the daemon.

This module decides only the order of the steps. Each running container has its own monitor, a process with everything that
the container needs. So the daemon may die at any point, and the next daemon adopts the containers.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
from typing import TYPE_CHECKING

import trio

from orlop_kernel import __version__, abandoned, assembly
from orlop_kernel.boot import dump, listen, logs, memory, pidfile, process, systemd, tls
from orlop_kernel.boot.phases import Phases
from orlop_kernel.config import Config, ConfigError, Listener, Loaded, ReloadPlan, load_all, plan
from orlop_kernel.config.argv import Parsed
from orlop_kernel.failures import as_orlop_error, leaves
from orlop_sdk import OrlopError, linux

if TYPE_CHECKING:
    from orlop_kernel.boot.watchdog import LoopWatchdog
    from orlop_kernel.events import EventBus
    from orlop_kernel.http.server import Server
    from orlop_kernel.kinds import Context, Guards, Service
    from orlop_kernel.routing.router import Router

__all__ = ["run"]

_log = logging.getLogger("orlop.daemon")
_STREAM_GRACE = 2.0  # seconds; a `logs -f` never ends by itself, so a restart must not wait for its end
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Daemon:
    """One run of orlopd."""

    def __init__(self, loaded: Loaded, parsed: Parsed, began: float) -> None:
        self._loaded, self._parsed, self._phases = loaded, parsed, Phases(began)
        self._phases.end("configuration")
        self._priority = process.BootPriority()
        self._environ = dict(os.environ)
        self._stop = trio.Event()
        self._expedite = trio.CancelScope()
        self._signals = 0
        self._serving = False
        self._services: dict[str, Service] = {}
        self._guards: list[Guards] = []
        self._routers: list[tuple[Router, Listener | None]] = []
        self._listeners: listen.Listeners = []
        self._own: list[tuple[Listener, listen.Listeners]] = []
        self._watchdog: LoopWatchdog | None = None

    async def live(self) -> None:
        """Start, serve until a signal, stop. Returns after a clean stop. If the start fails, raises the error."""
        config = self._loaded.config
        inherited = systemd.inherited_sockets(os.environ, os.getpid())
        listen.close_unused(inherited, config)
        plugins = assembly.service_plugins(config)
        with pidfile.held(config.pid_path), process.roots(config):
            async with assembly.processes(plugins, config) as processes, trio.open_nursery() as outer:
                process.set_limits()
                self._priority.raise_()
                outer.start_soon(systemd.feed_watchdog, os.environ, os.getpid())
                await outer.start(self._watch_signals)
                # The processes of services import modules on another processor, while this process imports modules
                from orlop_kernel.events import EventBus
                from orlop_kernel.kinds import Context
                from orlop_kernel.store import Store, database_path

                self._phases.end("imports")
                assembly.check(self._loaded)
                async with (
                    Store.open(database_path(config.data_root)) as store,
                    trio.open_nursery() as state,  # operations that may outlive the request that started them
                ):
                    events = EventBus(store)
                    context = Context(self._loaded, store, events, state, {}, None)
                    async with (
                        assembly.opened(plugins, processes, context) as services,
                        assembly.guards(context := context._replace(services=services)) as guards,
                        listen.opened(config, inherited) as listeners,  # from now on, clients can connect and wait
                        listen.opened_entries(config, listeners) as entries,
                    ):
                        self._phases.end("state")
                        self._services, self._guards = services, guards
                        self._listeners, self._own = listeners, entries
                        state.start_soon(events.run)
                        for service in services.values():
                            await service.restore()
                        self._phases.end("containers")
                        servers = self._servers(context)
                        async with trio.open_nursery() as connections:
                            for server, own in servers:
                                await connections.start(server.serve, own)
                            self._ready()
                            for service in services.values():
                                service.serving()
                            outer.start_soon(memory.release_when_idle)
                            await self._stop.wait()
                            await self._shutdown(events, [server for server, _ in servers])
                            connections.cancel_scope.cancel()
                        await events.flush()
                    state.cancel_scope.cancel()
                outer.cancel_scope.cancel()

    def _servers(self, context: Context) -> list[tuple[Server, listen.Listeners]]:
        """One server for the addresses of `hosts`, and one per entry of `listeners`, each with its own router."""
        from orlop_kernel.http.server import Server

        ends = assembly.front_ends(context)
        answered = assembly.on_answer(self._services.values())
        for_hosts, for_entries = process.client_limits(len(self._own))
        servers = []
        for entry, listeners in ((None, self._listeners), *self._own):
            router = assembly.router(ends)
            router.on_answer = answered
            self._routers.append((router, entry))
            limits = for_entries if entry else for_hosts
            servers.append((Server(router, limits, on_error=router.dialect.answer_error), listeners))
        self._set_guards()
        return servers

    def _set_guards(self) -> None:
        for router, entry in self._routers:
            router.guard = assembly.guarded(guards.guard(entry) for guards in self._guards)

    def _ready(self) -> None:
        gc.freeze()  # the collector need not visit objects of the start again, because they exist until exit
        gc.enable()
        self._serving = True
        self._priority.restore()
        self._watch_loop(self._loaded.config)
        self._phases.end("listening")
        _log.info("orlopd %s is ready after %s", __version__, self._phases)
        _log.info("serving with %s", assembly.describe(self._loaded.config))
        systemd.notify_ready("serving")

    def _watch_loop(self, config: Config) -> None:
        """Start the loop watchdog if it is configured. No client is served before this call."""
        debug = config.effective_log_level == "debug"
        if debug or self._watchdog or "ORLOP_LOOP_WATCHDOG" in self._environ:
            from orlop_kernel.boot import watchdog

            self._watchdog = watchdog.follow(self._watchdog, debug, self._environ)

    async def _watch_signals(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            task_status.started()
            async for signum in signals:
                try:
                    await self._on_signal(signum)
                except Exception:
                    _log.exception("cannot handle %s", signal.Signals(signum).name)

    async def _on_signal(self, signum: int) -> None:
        if signum == signal.SIGHUP:
            await self._reload()
        elif signum == signal.SIGUSR1:
            _log.info("tasks written to %s", dump.write(self._loaded.config.exec_root))
        else:
            self._on_stop_signal(signum)

    def _on_stop_signal(self, signum: int) -> None:
        """The first signal begins the shutdown, the second ends its waits for containers and clients, the third exits at
        once."""
        self._signals += 1
        name = signal.Signals(signum).name
        if self._signals == 1:
            _log.info("%s: shutting down", name)
            self._stop.set()
        elif self._signals == 2:
            _log.warning("%s again: no longer waiting for containers and clients", name)
            self._expedite.cancel()
        else:
            _log.error("%s a third time: exiting immediately", name)
            os._exit(128 + signum)

    async def _reload(self) -> None:
        """Read the file again. Apply all changes that a reload can apply, or none if any value is invalid."""
        if not self._serving:
            _log.warning("SIGHUP ignored: the daemon is still starting")
            return
        systemd.notify_reloading()
        status = "serving; the last reload was refused, see the log"
        running = self._loaded.config
        try:
            loaded = load_all(self._parsed._replace(read=None), self._environ)
            renewed = tls.contexts(running, listen.any_tls(self._listeners))  # the certificate files may have new content
            listen.check(running, loaded.config)
            await trio.to_thread.run_sync(assembly.check, loaded)  # imports drivers and reads files
            for service in self._services.values():
                service.check_reload(loaded)
            found = plan(self._loaded, loaded)
            guards = [each.prepare(found.config) for each in self._guards]
        except Exception as error:
            refused = error if isinstance(error, ConfigError) else ConfigError(str(as_orlop_error(error, "cannot check it")))
            for problem in refused.problems:
                _log.error("cannot reload the configuration; the current one stays in use: %s", problem)
        else:
            status = "serving"
            self._loaded = found.loaded
            for service in self._services.values():
                service.apply_reload(found)
            for apply in guards:
                apply()
            self._set_guards()
            listen.renew(self._listeners, renewed.get(running.tlscacert))
            for entry, own in self._own:
                listen.renew(own, renewed.get(entry.tlscacert or running.tlscacert))
            logs.set_level(found.config.effective_log_level)
            self._watch_loop(found.config)
            _log_reload(found)
        finally:  # done even after an error, because systemd waits for READY=1
            systemd.notify_ready(status)

    async def _shutdown(self, events: EventBus, servers: list[Server]) -> None:
        """Stop accepting, stop the services, then give open streams a short grace period."""
        services = list(self._services.values())
        limit = max((service.stop_limit() for service in services), default=0.0)
        systemd.notify_stopping(limit)
        events.close_subscriptions()
        with self._expedite, trio.move_on_after(limit):
            async with trio.open_nursery() as nursery:
                for server in servers:
                    nursery.start_soon(server.drain, limit)
                for service in reversed(services):
                    await service.shutdown()
                nursery.cancel_scope.deadline = trio.current_time() + _STREAM_GRACE
        for service in reversed(services):
            service.stopped()


def _log_reload(found: ReloadPlan) -> None:
    """Log the result of a reload."""
    for warning in found.loaded.warnings:
        _log.warning("%s", warning)
    if found.needs_restart:
        _log.warning("changed, but needs a restart of the daemon: %s", ", ".join(found.needs_restart))
    applied = ", ".join(found.applied) or "nothing"
    unchanged = f"; unchanged: {', '.join(found.unchanged)}" if found.unchanged else ""
    _log.info("configuration reloaded; applied: %s%s", applied, unchanged)


async def _live(daemon: Daemon) -> None:
    await daemon.live()
    if running := abandoned.running():
        _log.warning("%d calls to drivers have not returned; the daemon exits without waiting for them", running)
        logging.shutdown()
        os._exit(0)


def run(loaded: Loaded, parsed: Parsed, began: float) -> int:
    """Run the daemon until it is told to stop. Returns the exit code: 0 after a clean stop, 1 when the start failed."""
    linux.share_one_arena()
    config = loaded.config
    os.umask(0o022)
    os.chdir("/")
    logs.setup(config.effective_log_level, config.log_format)
    _log.info("starting, configuration from %s", loaded.file or "defaults and flags")
    for warning in loaded.warnings:
        _log.warning("%s", warning)
    try:
        trio.run(_live, Daemon(loaded, parsed, began))
    except BaseException as error:
        for leaf in leaves(error):
            if isinstance(leaf, (ConfigError, OrlopError)):
                for problem in leaf.problems if isinstance(leaf, ConfigError) else (leaf,):
                    _log.critical("failed to start daemon: %s", problem)
            else:
                _log.critical("the daemon failed: %s: %s", type(leaf).__name__, leaf, exc_info=leaf)
        return 1
    return 0
