"""Start: from a record to a running process.

   Steps: the network service reserves addresses and ports. The zygote (the parent process of all monitors) forks a monitor,
   and the monitor builds the sandbox with the mounts of the storage driver. The fork and the sandbox are often made before
   the start (see `prepared_sandbox`). The network is attached to the sandbox. The container's files and its OCI spec are
   written. Clients that attached before the start get their streams. The runtime starts the container's process.

When a step fails, the daemon ends the monitor and releases the reservations. The monitor's mounts and network namespace
disappear with the monitor. The row is committed *while* the runtime starts the process. It then contains the network
sandbox, the monitor's pid and the mark `started_before`. If the daemon dies during a start, the next daemon finds the
monitor by its run directory. If the row contains the pid of this monitor, the next daemon adopts the monitor and its network
endpoints. Otherwise the next daemon ends the monitor, because no client was told that the container runs. After a power
failure the restart policies apply.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import Any

import trio
from msgspec.structs import replace

from orlop_engine.calls import asked
from orlop_engine.commands import describe_timeout
from orlop_engine.config import defaults
from orlop_engine.networks.ports import normal_ports
from orlop_engine.networks.records import Sandbox
from orlop_engine.processes.monitor_client import MonitorClient, StartFailed
from orlop_engine.terminals import rows_and_columns
from orlop_engine.types.containers import HostConfig
from orlop_monitor.protocol import Launch, Log, MountPoint, Start, Started
from orlop_sdk import Command, DeadlineExceeded, InvalidParameter, OrlopError, Outcome, Runtime

from . import (
    apparmor_profile,
    bundle,
    checkpoints,
    links,
    log_cache,
    mount_plan,
    netfiles,
    prepared_sandbox,
    user_namespaces,
)
from . import runtime as runtimes
from .container import Container, Joined, Run
from .index import ContainerIndex
from .log_info import log_info
from .monitor_events import on_event, on_resumed
from .ports import Ports
from .runtime import task

__all__ = ["begin", "launch", "network_namespace", "share_names", "task"]

log = logging.getLogger("orlop.containers")

_UNDOING, _ENDING = 30.0, 10.0  # time limits in seconds: for undoing a start, and for the end of its monitor
_CREATE = "failed to create task for container: failed to create shim task"


async def launch(ports: Ports, container: Container, image: str = "") -> Run:
    """Start the container, from a checkpoint if `image` (the checkpoint's directory) is given. When this function returns,
    the container runs or has already exited. If this function raises an error, it has undone all changes."""
    record = container.record
    run = Run(ports.paths.run_dir(record.id))
    container.run = run  # set before the first await, so that a shutdown of the daemon finds this start
    plan, work = None, ""
    try:
        runtime = await ports.drivers.runtime(*record.runtime)
        command = await asked(runtime.run, task(ports.paths, container))
        if image:
            restoring = await checkpoints.runtime_of(ports.drivers, container)
            work = checkpoints.work_directory(ports.paths, container)
            command = await asked(restoring.restore, task(ports.paths, container), image, work)
        # Look up other containers first, so that a missing container is reported before a resource is created.
        user_namespaces.check(ports.ids, record.host_config)
        network = network_namespace(ports, record.host_config)
        share_names(ports.index, container)
        inside = await mount_plan.mounted(ports, container, runtime)
        await apparmor_profile.ensure_profile(record.host_config)
        wanted = _wanted(ports, container, runtime, network, inside)
        run.monitor = await prepared_sandbox.take(ports, container, wanted)
        if network == "new":
            plan = await ports.networks.plan(
                record.id,
                record.name,
                record.config.hostname,
                record.host_config.network_mode,
                record.endpoints,
                set(normal_ports(record.config.exposed_ports or ())),
                record.host_config.port_bindings or {},
                record.host_config.publish_all_ports,
                links.ports(ports.index, ports.networks, record),
            )
        run.monitor = monitor = run.monitor or await prepared_sandbox.fork(ports, container, wanted, runtime)
        with container.publish() as draft:
            draft.begin_log()
        monitor.on_event = lambda event: on_event(ports, container, run, event)
        monitor.on_resumed = partial(on_resumed, ports, container)
        _publish_sandbox(container, None)
        if plan is not None:
            with ports.counters.timed("network", "allocate"):
                _publish_sandbox(container, await ports.networks.attach(plan, monitor.netns_path))
            if plan.sockets:
                await monitor.serve(plan.forwards, plan.sockets)
                for sock in plan.sockets:
                    sock.close()
            await netfiles.answer_names(ports, container)
        await bundle.write(ports, container, monitor, inside.oci, network, inside.shm)
        await _attach_waiters(container, run, monitor)
        started = await _start(ports, container, runtime, monitor, command)
        # The start has been committed already; the pid is saved later (see `lifecycle.start_locked`)
        with container.publish() as draft:
            draft.state = draft.state.after_start(started.pid, started.start_time, started.time_ns)
    except BaseException as error:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _UNDOING):
            await _undo(ports, container, run, plan, deleted=isinstance(error, StartFailed))
        if isinstance(error, StartFailed):
            if error.failed.timed_out:
                raise DeadlineExceeded(f"{_CREATE}: {describe_timeout(command)}") from error
            raise InvalidParameter(
                await _explain(runtime, error) + (checkpoints.complaint(work) if image else "")
            ) from error
        raise
    return run


async def _explain(runtime: Runtime, error: StartFailed) -> str:
    failed = error.failed
    if failed.status or failed.timed_out or failed.log or failed.stderr:
        outcome = Outcome(failed.status, b"", failed.stderr, failed.timed_out)
        return f"{_CREATE}: {await asked(runtime.explain, outcome, failed.log)}"
    return f"failed to create task for container: {failed.message}"


def network_namespace(ports: Ports, host: HostConfig) -> str:
    """The network namespace to use: "new" for a new one, "" for the host's, or the path of another container's network
    namespace."""
    kind = ports.networks.sandbox_kind(host.network_mode)
    if kind.startswith("container:"):
        return ports.index.namespace_of(kind.removeprefix("container:"), "net")
    return "" if kind == defaults.HOST_NETWORK else "new"


def share_names(index: ContainerIndex, container: Container) -> None:
    """If the container shares the network of another container, it also gets the host name of that container, because the
    two containers share /etc/hosts. Docker does the same."""
    mode = container.record.host_config.network_mode
    if mode.startswith("container:"):
        other = index.get(mode.removeprefix("container:")).record.config
        with container.publish() as draft:
            draft.config = replace(draft.config, hostname=other.hostname, domainname=other.domainname)


async def begin(ports: Ports, container: Container) -> None:
    """Prepare the sandbox before the start, unless the mounts depend on other containers or need a call of a volume
    driver."""
    record = container.record
    inside = mount_plan.beforehand(ports, record)
    if inside is None:
        return
    if ports.networks.sandbox_kind(record.host_config.network_mode).startswith("container:"):
        return
    try:
        runtime = await ports.drivers.runtime(*record.runtime)
    except OrlopError:
        return  # the start will fail with the same error, and report it
    if container.run is not None or container.record.removing:
        return  # another client has started the container, or is removing it
    network = network_namespace(ports, record.host_config)
    prepared_sandbox.begin(ports, container, _wanted(ports, container, runtime, network, inside), runtime)


def _wanted(ports: Ports, container: Container, runtime: Runtime, network: str, plan: mount_plan.MountPlan) -> Launch:
    """The request to the monitor to build the sandbox, without the mounts."""
    record, paths = container.record, ports.paths
    ids = user_namespaces.ids_of(ports.ids, record.host_config)
    config = record.host_config.log_config
    log = None
    if config.type != defaults.NO_LOG_DRIVER:
        options = dict(config.config or {})
        copy = log_cache.driver_of_copy(config.type, options)
        log = Log(
            ports.drivers.meant("log", *record.log_driver),
            log_info(paths, container),
            options,
            copy,
            log_cache.options_of_copy(options),
            own=defaults.LOG_DISTRIBUTIONS,
        )
    return Launch(
        id=record.id,
        run_dir=paths.run_dir(record.id),
        root=paths.root(record.id),
        mounts=(),
        network=network,
        detach=runtime.capabilities.detach_mounts,
        keep=tuple(item["source"] for item in plan.oci if item["type"] == "bind"),
        terminal=record.config.tty,
        stdin=record.config.open_stdin,
        log=log,
        stage=paths.stage(record.id) if plan.trees or ids else "",
        trees=plan.trees,
        outputs=container.unlisted is not None and bool(container.unlisted.outputs),
        bound=container.unlisted is not None,
        stubs=_mount_points(container, plan) if container.unlisted else (),
        ids=ids,
        user=user_namespaces.joined(ports.index, record.host_config) if ids else "",
        layers=os.path.join(ports.config.data_root, ports.storage_name) if ids else "",
    )


def _mount_points(container: Container, plan: mount_plan.MountPlan) -> tuple[MountPoint, ...]:
    """The mount points that must exist in the root: /proc, /dev, /sys, and the mount points of the network files and of the
    mounts in `plan`. Default mounts below /dev and /sys, such as /dev/pts, need no mount point in the root."""
    files = [MountPoint(target, "/dev/null") for target in netfiles.targets(container)]
    own = [MountPoint(str(item["destination"]), str(item["source"]) if item["type"] == "bind" else "") for item in plan.oci]
    return (*(MountPoint(path) for path in ("/proc", "/dev", "/sys")), *files, *own)


async def _start(ports: Ports, container: Container, runtime: Runtime, monitor: MonitorClient, command: Command) -> Started:
    this, host = task(ports.paths, container), container.record.host_config
    message = Start(
        run=command,
        delete=await asked(runtime.delete, this),
        pid_file=this.pid_file,
        log_file=this.log,
        console_socket=this.console_socket,
        console_size=rows_and_columns(host.console_size),
        cgroup=runtimes.cgroup_path(ports.config, container.id, host),
    )
    failures: list[Exception] = []
    before = container.record.started_before

    async def save() -> None:
        try:
            async with ports.rows.change(container) as draft:
                draft.started_before, draft.monitor_pid = True, monitor.pid
        except OrlopError as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(save)
        try:
            started = await monitor.start(message)
        except OrlopError as error:  # caught here, because the nursery would wrap it in a group
            failures.insert(0, error)
    if failures:
        with container.publish() as draft:  # the commit of the failure also saves this change
            draft.started_before = before
        raise failures[0]
    return started


def _publish_sandbox(container: Container, sandbox: Sandbox | None) -> None:
    """Publish the network sandbox in the record, because the name server, the network files and an undo use the sandbox in
    the record. The sandbox is committed later, together with the start or its failure."""
    with container.publish() as draft:
        draft.sandbox = sandbox


async def _attach_waiters(container: Container, run: Run, monitor: MonitorClient) -> None:
    """Pass the container's streams to the clients that attached before the start. This happens before the container runs, so
    that the clients miss no output. Clients that attach later connect to the monitor themselves (see `attach.join`)."""
    while container.attach_waiters:
        waiter = container.attach_waiters[0]
        stream = await monitor.attach(waiter.request)
        if waiter in container.attach_waiters:
            container.attach_waiters.remove(waiter)
            waiter.joined.set(Joined(stream, run))
        else:
            await stream.aclose()  # the client disconnected meanwhile


async def _undo(ports: Ports, container: Container, run: Run, plan: Any, *, deleted: bool) -> None:
    """Undo a failed start. If a step fails, the next steps are still tried. Resources that other containers may need are
    released first. The runtime's command `delete` is run last, because it may block until its deadline. `deleted` is true if
    the monitor reported the failure. In this case the monitor has run `delete` already, unless it was killed before that."""
    container.release_attach_waiters()
    sandbox = container.record.sandbox
    _publish_sandbox(container, None)
    try:
        if run.monitor is not None:
            run.monitor.kill()
            with trio.move_on_after(_ENDING):
                await run.monitor.ended()
        try:
            if plan is not None:
                await ports.networks.abandon(plan)  # if `attach` has been called, this only closes the plan's sockets
            if sandbox is not None:
                await ports.networks.release(sandbox)
        finally:
            if run.monitor is not None and (not deleted or runtimes.has_state(ports.paths, container)):
                await runtimes.clean(ports, container)
        if run.volume_users:  # last, because the volumes' driver may hang; what is left ends when the container is removed
            with trio.move_on_after(_ENDING):
                await ports.volumes.unmount(run.volume_users)
    except Exception:
        log.exception("cannot undo the failed start of container %s completely", container.name)
    finally:
        ports.paths.remove_run_directories(container.id)
        container.run = None
        run.settled.set()
        run.finished.set()
