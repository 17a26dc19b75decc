"""Steps of builds. Each step runs in a container without a row, whose root is a snapshot of the builder.

A step is started like any container (`containers.launch`). A step ends when its caller is cancelled. It also ends when the
daemon ends, because its monitor (the parent process of the step's container) kills it when the connection to the daemon
ends. If both the monitor and the daemon die, the next daemon removes the remains of the step, like any run directory without
a row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from signal import SIGKILL

import msgspec
import trio

from orlop_engine.config import defaults
from orlop_engine.containers import emulation, exits, names, run_cleanup, validate
from orlop_engine.containers.configuration import with_defaults
from orlop_engine.containers.container import Container, Run, TreeMount, Unlisted
from orlop_engine.containers.launch import launch
from orlop_engine.containers.ports import Ports
from orlop_engine.containers.record import ContainerRecord, MountRecord
from orlop_engine.images import platforms
from orlop_engine.networks.files import parse_extra_host
from orlop_engine.spec.build import DEFAULT_PATH
from orlop_engine.spec.host import facts
from orlop_engine.types.containers import ContainerConfig, HostConfig, LogConfig
from orlop_sdk import OrlopError, Unavailable

__all__ = ["StepRequest", "Steps"]

log = logging.getLogger("orlop.build")

_ENDING = 30.0  # seconds within which a killed step must end
_MOST_ENDING = 8  # steps that are removed in the background at the same time
_HOSTNAME = "buildkitsandbox"  # BuildKit's host name, which some Dockerfiles rely on


class StepRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`root` is the key of an active snapshot. `host` contains the limits, the network mode and the privileges. With
    `editable_files`, the step can change /etc/hosts and /etc/resolv.conf, as in the classic builder; its layer does not get
    them."""

    root: str
    args: Sequence[str]
    env: Sequence[str] = ()
    cwd: str = "/"
    user: str = ""
    hostname: str = ""
    trees: tuple[TreeMount, ...] = ()
    mounts: tuple[MountRecord, ...] = ()
    host: HostConfig
    platform: str = ""
    editable_files: bool = False


class Steps:
    """`running` are the running steps, by container ID."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self.running: dict[str, Container] = {}
        self._ending: dict[str, trio.Event] = {}

    async def run(self, request: StepRequest, outputs: tuple[int, ...]) -> int:
        """Run a step to its end, and return its exit code. When this method returns, raises or is cancelled, the step's
        snapshots are not mounted any more. After a success, the container is removed in the background (see `ended`), so
        that the next step does not wait for the removal. `outputs` are file descriptors of standard output and error, and
        optionally of standard input; the caller closes them."""
        ports = self._ports
        container = await self.make(request, outputs, reads=len(outputs) > 2)
        code = -1
        with self.listed(container):
            with ports.counters.timed("build", "step"):
                run = await launch(ports, container)
            try:
                code = (await exits.outcome(ports, container, run)).code
            finally:
                if code:
                    await self.end(container, run)
        if not code:
            self._ending[container.id] = trio.Event()
            ports.background.start(self._end_later, container, run)
        return code

    async def make(
        self, request: StepRequest, outputs: tuple[int, ...] = (), *, reads: bool, terminal: bool = False
    ) -> Container:
        """A container that can be launched. `reads`: it has a standard input."""
        if self._ports.state.closing:
            raise Unavailable("cannot run a step: the daemon is shutting down")
        if request.platform and emulation.is_foreign(platforms.parse(request.platform)):
            await trio.to_thread.run_sync(emulation.check, request.platform)
        record = await self._record(request, reads=reads, terminal=terminal)
        if len(self._ending) >= _MOST_ENDING:
            await self.ended()
        return Container(record, Unlisted(request.root, outputs, request.trees, request.editable_files))

    @contextmanager
    def listed(self, container: Container) -> Iterator[None]:
        """The container is in `running` for the duration of the block."""
        self.running[container.id] = container
        try:
            yield
        finally:
            del self.running[container.id]

    async def ended(self) -> None:
        """Wait until the containers of all steps that have succeeded until now are removed."""
        for ending in list(self._ending.values()):
            await ending.wait()

    async def _end_later(self, container: Container, run: Run) -> None:
        try:
            await self.end(container, run)
        finally:
            self._ending.pop(container.id).set()

    async def _record(self, request: StepRequest, *, reads: bool, terminal: bool) -> ContainerRecord:
        ports, host = self._ports, request.host
        env = list(request.env)
        if not any(entry.startswith("PATH=") for entry in env):
            env.append(f"PATH={DEFAULT_PATH}")
        config = ContainerConfig(
            hostname=request.hostname or _HOSTNAME,
            user=request.user,
            env=env,
            working_dir=request.cwd or "/",
            open_stdin=reads,
            tty=terminal,
        )
        # In these network modes there is no sandbox whose address the host name can get
        if host.network_mode in (defaults.HOST_NETWORK, defaults.NO_NETWORK):
            host.extra_hosts = [*(host.extra_hosts or ()), f"{config.hostname}:127.0.0.1"]
        host.log_config = LogConfig(type="none")
        host.ipc_mode = "private"
        # These entitlements are not possible in a user namespace
        if host.privileged or host.network_mode == defaults.HOST_NETWORK:
            host.userns_mode = "host"
        with_defaults(ports.config, config, host)
        for entry in host.extra_hosts or ():
            parse_extra_host(entry)
        validate.check(config, host, facts())
        ident = names.new_id()
        return ContainerRecord(
            id=ident,
            name=f"build-{ident[:12]}",
            created_ns=time.time_ns(),
            args=list(request.args),
            config=config,
            host_config=host,
            image_id="",
            storage_driver=ports.storage_name,
            endpoints=ports.networks.pin(host.network_mode, {})[1],
            endpoints_complete=True,
            mounts=request.mounts,
        )

    async def end(self, container: Container, run: Run) -> None:
        """Kill the step if it still runs, free its addresses, and wait until its monitor has cleaned up."""
        ports, monitor = self._ports, run.monitor
        assert monitor is not None
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _ENDING):
            if not run.exited.is_set() and not monitor.is_over:
                await self._kill(container, run)
            run.settled.set()
            run.finished.set()
            async with trio.open_nursery() as nursery:  # in parallel to the runtime's delete, which the monitor runs
                if container.record.sandbox is not None:
                    nursery.start_soon(ports.networks.release, container.record.sandbox)
                await run_cleanup.clean_up(ports, container, run)
            container.run = None
            await trio.to_thread.run_sync(ports.paths.remove_run_directories, container.id)
            return
        log.error("step %s has not ended within %g s", container.name, _ENDING)

    async def _kill(self, container: Container, run: Run) -> None:
        assert run.monitor is not None
        try:
            await run.monitor.signal(SIGKILL)
        except OrlopError:  # the step has just ended, or its monitor does not answer
            run.monitor.kill()
        await exits.outcome(self._ports, container, run)
