"""Connect and disconnect: a container's networks changed, while it runs or before it does. Durable before it is answered."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from orlop_kernel.engine.containers import netfiles
from orlop_kernel.spi import Conflict, Forbidden, OrlopError
from orlop_kernel.types.containers import EndpointSettings

from . import planning
from .records import NetworkRecord, Sandbox

if TYPE_CHECKING:
    from orlop_kernel.engine.containers.container import Container
    from orlop_kernel.engine.engine import Engine

__all__ = ["connect", "disconnect"]

_log = logging.getLogger("orlop.networks")


def _publish(engine: Engine, action: str, record: NetworkRecord, container: Container) -> None:
    attributes = {"container": container.id, "name": record.name, "type": record.driver}
    engine.events.publish("network", action, record.id, attributes)


def _configured(engine: Engine, container: Container, record: NetworkRecord) -> str | None:
    """Under which name the container's row has this network."""
    for name in container.record.endpoints:
        try:
            if engine.networks.resolve(name).id == record.id:
                return name
        except OrlopError:
            continue  # a network that was removed since
    return None


def _is_mode(engine: Engine, container: Container, record: NetworkRecord) -> bool:
    try:
        return engine.networks.resolve(container.record.host_config.network_mode or "bridge").id == record.id
    except OrlopError:
        return False


def _living(container: Container) -> tuple[Sandbox, str] | None:
    """Sandbox and namespace of a container that runs."""
    sandbox, run = container.record.sandbox, container.run
    if not container.record.state.running or sandbox is None or run is None or run.monitor is None:
        return None
    return sandbox, run.monitor.netns_path


async def connect(engine: Engine, container: Container, network: str, settings: EndpointSettings) -> None:
    async with container.lock:
        record = engine.networks.resolve(network)
        _check_modes(container, record)
        planning.check_settings(record, settings)
        if _configured(engine, container, record) or (_is_mode(engine, container, record) and _living(container)):
            raise Forbidden(f"endpoint with name {container.name} already exists in network {record.name}")
        living = _living(container)
        if living is None and container.record.state.running:
            raise Conflict(f"container {container.id} has no network of its own to connect")
        if living:
            container.record.sandbox = await engine.networks.connect(living[0], record.id, settings, living[1])
        container.record.endpoints[record.name] = settings
        if living:
            await _told(engine, container, living[0])
        container.touch()
        await engine.containers.save(container)
    if living:
        _publish(engine, "connect", record, container)


async def _told(engine: Engine, container: Container, before: Sandbox) -> None:
    """What the container reads of its networks follows. It is connected all the same when that fails."""
    try:
        netfiles.refresh(engine.containers, container, before)
        await netfiles.answer_names(engine.containers, container)
    except (OSError, OrlopError) as error:
        _log.warning("container %s is not told of its networks: %s", container.name, error)


def _check_modes(container: Container, record: NetworkRecord) -> None:
    mode = container.record.host_config.network_mode
    if mode == "host" or mode.startswith("container:") or record.driver == "host":
        raise Forbidden(planning.SHARED_IS_ALONE)
    if mode == "none" or record.driver == "null":
        raise Forbidden(planning.NONE_IS_ALONE)


async def disconnect(engine: Engine, container: Container, network: str) -> None:
    async with container.lock:
        record = engine.networks.resolve(network)
        if container.record.host_config.network_mode == "host":
            raise Forbidden("container cannot be disconnected from host network or connected to host network")
        name = _configured(engine, container, record)
        living = _living(container)
        if living is None and name is None and not _is_mode(engine, container, record):
            raise Forbidden(f"container {container.id} is not connected to network {record.name}")
        sandbox, endpoints = container.record.sandbox, dict(container.record.endpoints)
        mode = container.record.host_config.network_mode
        if living:
            container.record.sandbox = engine.networks.without(living[0], record.id)
        if name is not None:
            del container.record.endpoints[name]
        if _is_mode(engine, container, record):
            _leave_mode(container)
        # The row first: a boot removes an endpoint that no row tells of, but makes none anew
        try:
            await engine.containers.save(container)
            if living:
                await engine.networks.disconnect(living[0], record.id, living[1])
        except BaseException:
            container.record.sandbox, container.record.endpoints = sandbox, endpoints
            container.record.host_config.network_mode = mode
            container.touch()
            engine.containers.background(engine.containers.save, container)
            raise
        if living:
            await _told(engine, container, living[0])
        container.touch()
    if living:
        _publish(engine, "disconnect", record, container)


def _leave_mode(container: Container) -> None:
    """The next start must not join the network again: what is left of the container's networks is its mode now."""
    rest = next(iter(container.record.endpoints), "none")
    container.record.host_config.network_mode = rest
