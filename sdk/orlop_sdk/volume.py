"""The contract of a volume driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from .common import Mount
from .storage import Usage

__all__ = ["Volume", "VolumeCapabilities", "VolumeContext", "VolumeDriver"]


class VolumeCapabilities(msgspec.Struct, frozen=True):
    """`scope`: "local" or "global", as `GET /volumes` shows it."""

    scope: str = "local"


class VolumeContext(msgspec.Struct, frozen=True):
    """What the kernel gives a volume factory. `root` is the driver's alone, below data-root
    (`volumes` for `local`, `volume-drivers/NAME` for others); it exists."""

    root: str


class Volume(msgspec.Struct, frozen=True):
    """A volume as the driver knows it. `mountpoint` is where its content is on the host, "" when not there yet."""

    name: str
    mountpoint: str
    options: dict[str, str] = {}


@runtime_checkable
class VolumeDriver(Protocol):
    """Every method may be called again after a crash. Unknown names raise `NotFound("get NAME: no such volume")`."""

    @property
    def capabilities(self) -> VolumeCapabilities: ...

    async def create(self, name: str, options: Mapping[str, str]) -> Volume:
        """Make it, or return the existing one unchanged. `InvalidParameter` for options that are unknown or wrong."""
        ...

    async def remove(self, name: str) -> None:
        """Remove it with its content. Already gone: no error."""
        ...

    async def get(self, name: str) -> Volume: ...

    async def mounts(self, name: str) -> Sequence[Mount]:
        """What a monitor mounts so that the mount point shows the volume. A plain directory is one bind mount."""
        ...

    async def usage(self, name: str) -> Usage: ...

    async def names(self) -> Sequence[str]: ...
