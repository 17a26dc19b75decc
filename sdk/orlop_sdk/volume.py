"""The contract of a volume driver, which manages volumes by name and describes how to mount them.

The daemon calls `mounts` for each start of a container that uses the volume. It calls `remove` only if no container uses the
volume. If a driver itself mounts its volumes on the host, it also implements `VolumeMounts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from .common import Mount
from .storage import Usage

__all__ = ["Volume", "VolumeCapabilities", "VolumeContext", "VolumeDriver", "VolumeMounts"]


class VolumeCapabilities(msgspec.Struct, frozen=True):
    """`scope`: "local" or "global", as `GET /volumes` shows it."""

    scope: str = "local"


class VolumeContext(msgspec.Struct, frozen=True):
    """Argument of a volume factory. `root` is the driver's private directory below data-root: `volumes` for the driver
    `local`, `volume-drivers/NAME` for other drivers. The directory exists."""

    root: str


class Volume(msgspec.Struct, frozen=True):
    """A volume as the driver knows it. `mountpoint` is the path of its content on the host, "" when it has none yet.
    `options` are the options given to `create`. `status` is information of the driver, which `docker volume inspect` shows;
    it must be representable as JSON."""

    name: str
    mountpoint: str
    options: dict[str, str] = {}
    status: dict[str, Any] = {}


@runtime_checkable
class VolumeDriver(Protocol):
    """Every method may be called again, even if a crash interrupted an earlier call at any point. Methods may be called
    concurrently. `get`, `mounts` and `usage` raise `NotFound("get NAME: no such volume")` for an unknown name.

    The daemon calls each async method with a deadline, and may cancel it at any await. `capabilities` is read once."""

    @property
    def capabilities(self) -> VolumeCapabilities: ...

    async def create(self, name: str, options: Mapping[str, str]) -> Volume:
        """Create a volume, or return the existing volume unchanged. If the name or an option is invalid, creates nothing and
        raises `InvalidParameter`."""
        ...

    async def remove(self, name: str) -> None:
        """Remove a volume with its content. Succeeds if the volume does not exist."""
        ...

    async def get(self, name: str) -> Volume: ...

    async def mounts(self, name: str) -> Sequence[Mount]:
        """The mounts that show the volume at a mount point. A container's monitor makes these mounts. If the volume is a
        plain directory, the result is one bind mount."""
        ...

    async def usage(self, name: str) -> Usage:
        """Disk usage of a volume; `size` is -1 when the driver cannot tell (a network file system)."""
        ...

    async def names(self) -> Sequence[str]:
        """The names of all volumes of this driver."""
        ...


@runtime_checkable
class VolumeMounts(Protocol):
    """Methods of a volume driver that mounts its volumes on the host while containers use them.

    The daemon calls `mount` before each start of a container, and before other uses of the content (to fill a new volume,
    and for `docker cp`). After the use, when no mount namespace of the container exists any more, it calls `unmount` with
    the same `user`. `mounts` of such a driver may return nothing while the volume is not in use."""

    async def mount(self, name: str, user: str) -> Sequence[Mount]:
        """Make the volume usable, and return the mounts that show it, as `mounts` does. `user` is a different string for
        each use. If this method raises, the daemon calls `unmount`, because the volume may be mounted nevertheless."""
        ...

    async def unmount(self, name: str, user: str) -> None:
        """End a use. The daemon also calls this method for a `user` for whom `mount` failed or was interrupted. If it
        raises, the daemon logs the error, and does not call it again."""
        ...
