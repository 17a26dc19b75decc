"""Makes `LogInfo`, the description of a container for log drivers."""

from __future__ import annotations

import os

from orlop_sdk import LogInfo
from orlop_sdk.base import rfc3339

from .container import Container
from .paths import ContainerPaths

__all__ = ["log_info"]


def log_info(paths: ContainerPaths, container: Container) -> LogInfo:
    record = container.record
    return LogInfo(
        container_id=record.id,
        container_name=f"/{record.name}",
        image_id=record.image_id,
        image_name=record.config.image,
        command=" ".join(record.args),
        created=rfc3339(record.created_ns),
        directory=paths.directory(record.id),
        labels=record.config.labels or {},
        env=tuple(record.config.env or ()),
        hostname=os.uname().nodename,
    )
