"""The networks of a container: connect and disconnect a running or stopped container, and release its addresses and ports
after a run. Both operations of clients commit their change to the container's row before the request is answered. After
a crash, the next daemon connects the container as its row says.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import NamedTuple

import trio
from msgspec.structs import replace

from orlop_engine.config import defaults
from orlop_engine.networks import planning
from orlop_engine.networks.ports import Wanted, normal_ports, wanted_ports
from orlop_engine.networks.records import NetworkRecord, Sandbox
from orlop_engine.processes.monitor_client import MonitorClient
from orlop_engine.types.containers import EndpointSettings
from orlop_sdk import Conflict, Forbidden, InvalidParameter, OrlopError, Unavailable

from . import netfiles
from .container import Container
from .ports import Ports
from .services import Networks
from .waits import decided

__all__ = ["announce", "complete", "connect", "disconnect", "keep_gateway", "release"]

_log = logging.getLogger("orlop.networks")
_UNDO_SECONDS = 20


async def release(ports: Ports, container: Container) -> None:
    """Release the addresses and ports of a run."""
    async with container.network_lock:
        sandbox = container.record.sandbox
        if sandbox is None:
            return
        with container.publish() as draft:  # the commit of the exit or of the removal also saves this change
            draft.sandbox = None
        with ports.counters.timed("network", "release"):
            await ports.networks.release(sandbox)
    _announce(ports, container, sandbox, "disconnect")


def announce(ports: Ports, container: Container, action: str) -> None:
    """Publish an event for each network of the container."""
    if container.record.sandbox is not None:
        _announce(ports, container, container.record.sandbox, action)


def _announce(ports: Ports, container: Container, sandbox: Sandbox, action: str) -> None:
    for network in ports.networks.networks_of(sandbox):
        ports.events.publish_network(container, action, network)


def _configured(networks: Networks, container: Container, record: NetworkRecord) -> list[str]:
    """The keys of `record.endpoints` of the container that refer to this network (by name or id)."""
    return [name for name in container.record.endpoints if networks.known(name) == record]


def complete(networks: Networks, container: Container) -> None:
    """Complete a record that an older daemon wrote: add the network that the network mode (`HostConfig.NetworkMode`) names,
    and replace abbreviated ids of networks by full ids. The next commit also writes this change to the row."""
    record = container.record
    if record.endpoints_complete:
        return
    mode = record.host_config.network_mode or defaults.DEFAULT_NETWORK
    endpoints = {mode: EndpointSettings(), **record.endpoints} if not mode.startswith("container:") else {}
    with suppress(InvalidParameter):  # an abbreviated id has become ambiguous; the next start reports this
        mode, endpoints = networks.pin(mode, endpoints)
    with container.publish() as draft:
        draft.endpoints, draft.endpoints_complete = endpoints, True
        draft.host_config = replace(record.host_config, network_mode=mode)


class _Running(NamedTuple):
    sandbox: Sandbox
    monitor: MonitorClient


def _running(container: Container) -> _Running | None:
    """Sandbox and monitor of a container that runs in its own network namespace; None for other containers."""
    sandbox, run = container.record.sandbox, container.run
    if not container.record.state.running or sandbox is None or run is None or run.monitor is None:
        return None
    if not run.settled.is_set():  # without the monitor's answer, the path of the network namespace is unknown
        raise Unavailable(f"cannot change the networks of container {container.name}: its monitor has not answered yet")
    return _Running(sandbox, run.monitor)


async def connect(ports: Ports, container: Container, network: str, settings: EndpointSettings) -> None:
    await decided(container)
    async with container.lock, container.network_lock:
        record = ports.networks.resolve(network)
        _check_combination(ports.networks, container, record)
        planning.check_settings(record, settings)
        running = _running(container)
        if running is None and container.record.state.running:
            raise Conflict(f"container {container.id} has no separate network, so it cannot be connected")
        if _configured(ports.networks, container, record):
            if running is None:
                return  # as in Docker, this is no error, and the container keeps its settings
            raise Forbidden(f"endpoint with name {container.name} already exists in network {record.name}")
        if running:
            await _join(ports, container, running, record, _key(network, record), settings)
        else:
            async with ports.rows.change(container) as draft:
                draft.endpoints = {**draft.endpoints, _key(network, record): settings}
    if running:
        ports.events.publish_network(container, "connect", record)


def _key(given: str, record: NetworkRecord) -> str:
    """The key under which the row lists the network: its id if the client gave the full id, otherwise its name. An id in the
    row never refers to another network, not even if this network is removed and a new network gets the same name."""
    return record.id if given == record.id else record.name


async def _join(
    ports: Ports, container: Container, running: _Running, record: NetworkRecord, key: str, settings: EndpointSettings
) -> None:
    """Connect the running container to one more network and choose the container's gateway again. A failure undoes all
    changes."""
    netns, endpoints = running.monitor.netns_path, container.record.endpoints
    grown = await ports.networks.connect(running.sandbox, record.id, settings, netns)
    # The record is published before it is committed, because the endpoint already exists, and because the network files are
    # made from the published record.
    _publish(container, grown, {**endpoints, key: settings})
    now = grown
    try:
        await _refresh_network_files(ports, container, running.sandbox)
        # Save the row before the gateway changes. A starting daemon removes network interfaces that are in no row, and the
        # kernel removes the default routes of these interfaces.
        await ports.rows.save(container)
        now = await ports.networks.choose_gateway(grown, _wanted(container), netns, running.monitor)
        if now is not grown:
            _publish(container, now)
            await ports.rows.save(container)
    except BaseException:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _UNDO_SECONDS):
            now = await _with_gateway(ports.networks, container, _Running(now, running.monitor), leaving=record.id)
            now = await ports.networks.disconnect(now, record.id, netns)
        _publish(container, now, endpoints)
        ports.background.start(ports.rows.save, container)
        await _refresh_network_files(ports, container, grown)
        raise


def _publish(container: Container, sandbox: Sandbox, endpoints: dict[str, EndpointSettings] | None = None) -> None:
    with container.publish() as draft:
        draft.sandbox = sandbox
        if endpoints is not None:
            draft.endpoints = endpoints


def _wanted(container: Container) -> list[Wanted]:
    config, host = container.record.config, container.record.host_config
    return wanted_ports(normal_ports(config.exposed_ports or ()), host.port_bindings or {}, host.publish_all_ports)


async def _refresh_network_files(ports: Ports, container: Container, before: Sandbox) -> None:
    """Update the container's network files, and the names for which its monitor answers DNS queries. A failure is logged;
    the container stays connected."""
    try:
        netfiles.refresh(ports, container, before)
        await netfiles.answer_names(ports, container)
    except Exception as error:  # for example, the container's processes have replaced these files
        _log.warning("cannot update network files of container %s: %s", container.name, error)


def _check_combination(networks: Networks, container: Container, record: NetworkRecord) -> None:
    """Raise if the container's networks cannot be combined with this network. The check uses the container's current
    networks, because the container may have left the network that its network mode names."""
    mode = container.record.host_config.network_mode
    if mode == defaults.HOST_NETWORK or mode.startswith("container:"):
        raise InvalidParameter(planning.SHARED_NAMESPACE)
    present = [found for found in map(networks.known, container.record.endpoints) if found and found != record]
    planning.check_combination(mode, [*present, record])


async def disconnect(ports: Ports, container: Container, network: str) -> None:
    await decided(container)
    async with container.lock, container.network_lock:
        record = ports.networks.resolve(network)
        if container.record.host_config.network_mode == defaults.HOST_NETWORK:
            raise InvalidParameter(planning.HOST_NETWORK_FIXED)
        names = _configured(ports.networks, container, record)
        running = _running(container)
        if running is None and not names:
            raise Forbidden(f"container {container.id} is not connected to network {record.name}")
        endpoints = container.record.endpoints
        if running:
            ports.networks.without(running.sandbox, record.id)  # raises an error if the container is not on this network
            sandbox = await _with_gateway(ports.networks, container, running, leaving=record.id)
            _publish(container, sandbox)  # the gateway has changed, even if a later step fails
        # Save the row before the endpoint is removed. A starting daemon removes an endpoint that is in no row, but does not
        # create a missing endpoint again.
        try:
            async with ports.rows.change(container) as draft:
                draft.endpoints = {name: each for name, each in endpoints.items() if name not in names}
                if running:
                    draft.sandbox = ports.networks.without(sandbox, record.id)
            if running:
                await ports.networks.disconnect(sandbox, record.id, running.monitor.netns_path)
        except BaseException:
            if running:
                _publish(container, sandbox, endpoints)
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _UNDO_SECONDS):
                    _publish(container, await _with_gateway(ports.networks, container, _Running(sandbox, running.monitor)))
            ports.background.start(ports.rows.save, container)
            raise
        if running:
            await _refresh_network_files(ports, container, running.sandbox)
        container.touch()
    if running:
        ports.events.publish_network(container, "disconnect", record)


async def _with_gateway(networks: Networks, container: Container, running: _Running, leaving: str = "") -> Sandbox:
    """Choose the container's default gateway again, before the container leaves the network `leaving`. A failure is logged
    and does not prevent leaving, as in Docker."""
    monitor = running.monitor
    try:
        return await networks.choose_gateway(
            running.sandbox, _wanted(container), monitor.netns_path, monitor, leaving=leaving
        )
    except OrlopError as error:
        _log.error("container %s has no gateway until its next start: %s", container.name, error)
        return running.sandbox


async def keep_gateway(networks: Networks, container: Container) -> None:
    """Set the gateway again when the daemon starts, because a crash may have interrupted a change of the gateway. A
    container with only one network is skipped, because its gateway never changes."""
    await networks.wait_restored()
    async with container.lock, container.network_lock:
        running = _running(container)
        if running is None or len(running.sandbox.endpoints) < 2:
            return
        try:
            await networks.keep_gateway(running.sandbox, running.monitor.netns_path, running.monitor)
        except OrlopError as error:
            _log.error("container %s may have no gateway until its next start: %s", container.name, error)
