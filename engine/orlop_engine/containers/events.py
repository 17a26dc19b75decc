"""Events of containers."""

from __future__ import annotations

from orlop_engine.config import defaults
from orlop_engine.networks.records import NetworkRecord
from orlop_kernel.events import EventBus

from .container import Container

__all__ = ["ContainerEvents", "attributes"]


def attributes(container: Container, **more: str) -> dict[str, str]:
    """The attributes of an event: the container's labels, image and name, and the attributes in `more`."""
    record = container.record
    return {**(record.config.labels or {}), **more, "image": record.config.image, "name": record.name}


class ContainerEvents:
    """Publishes events of containers, and of the networks and volumes that they use."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus

    def publish(self, container: Container, action: str, **more: str) -> None:
        """Publish an event of a container. `more` are attributes in addition to labels, image and name. Unlisted containers
        have no events."""
        if container.unlisted is not None:
            return
        self.bus.publish("container", action, container.id, attributes(container, **more))

    def publish_network(self, container: Container, action: str, network: NetworkRecord) -> None:
        """Publish an event of a network, about a container that joins or leaves the network."""
        about = {"container": container.id, "name": network.name, "type": network.driver}
        self.bus.publish("network", action, network.id, about)

    def publish_volumes(self, container: Container, action: str) -> None:
        """Publish the events `mount` and `unmount` of the container's volumes. No driver is called, because the monitor
        mounts the volumes."""
        for mount in container.record.mounts:
            if mount.type != "volume":
                continue
            about = {"driver": mount.driver or defaults.VOLUME_DRIVER, "container": container.id}
            if action == "mount":
                about |= {
                    "destination": mount.destination,
                    "read/write": str(mount.rw).lower(),
                    "propagation": mount.propagation,
                }
            self.bus.publish("volume", action, mount.name, about)
