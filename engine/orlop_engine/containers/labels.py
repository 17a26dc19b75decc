"""Labels can decide which clients have access to a container: in daemon.json, a socket (an entry of `listeners`) may be
limited to containers with certain labels. These labels must come from the create request. Labels of the image do not count,
because otherwise the author of an image could decide which clients have access to containers of the image.
"""

from __future__ import annotations

from orlop_engine.config import Config
from orlop_engine.types.containers import ContainerConfig
from orlop_engine.types.images import ImageConfig

from .record import ContainerRecord

__all__ = ["deciding", "of_image_alone", "shed"]


def deciding(config: Config) -> frozenset[str]:
    """Names of the labels that listeners filter by."""
    return frozenset(label.partition("=")[0] for listener in config.daemon.listeners for label in listener.labels)


def of_image_alone(given: ContainerConfig, image: ImageConfig) -> tuple[str, ...]:
    return tuple(sorted(set(image.labels or ()) - set(given.labels or ())))


def shed(record: ContainerRecord, names: frozenset[str]) -> None:
    """Remove the labels in `names` that came from the image. The daemon also calls this function when it starts, because a
    listener may have been added since the container was created."""
    for name in names.intersection(record.image_labels):
        if record.config.labels:
            record.config.labels.pop(name, None)
