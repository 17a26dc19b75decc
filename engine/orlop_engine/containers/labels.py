"""Labels that decide who may reach a container (those of `listeners`) come from who makes it, never from its image: an image
could name any team, and its container would be that team's however it is run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop_engine.types.containers import ContainerConfig
from orlop_engine.types.images import ImageConfig
from orlop_kernel.config import Config

if TYPE_CHECKING:
    from .record import ContainerRecord

__all__ = ["deciding", "of_image_alone", "shed"]


def deciding(config: Config) -> frozenset[str]:
    """Names of the labels that a listener goes by."""
    return frozenset(label.partition("=")[0] for listener in config.listeners for label in listener.labels)


def of_image_alone(given: ContainerConfig, image: ImageConfig) -> tuple[str, ...]:
    return tuple(sorted(set(image.labels or ()) - set(given.labels or ())))


def shed(record: ContainerRecord, names: frozenset[str]) -> None:
    """Take away those of the names that the container has from its image. Also at boot: a listener may be younger."""
    for name in names.intersection(record.image_labels):
        if record.config.labels:
            record.config.labels.pop(name, None)
