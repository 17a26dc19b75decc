"""A volume driver whose volumes belong to a plugin with Docker's protocol (moby volume/drivers/proxy.go and adapter.go)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from orlop_sdk import DriverError, Mount, NotFound, OrlopError, Usage, Volume, VolumeCapabilities

from .address import Address
from .client import Client, Refused

__all__ = ["DockerVolumes"]

_ACTIVATION = 10.0  # seconds for each of the two calls when the driver is loaded
_SCOPES = ("local", "global")


class _Manifest(msgspec.Struct, rename="pascal"):
    implements: list[str] | None = None


class _Scope(msgspec.Struct, rename="pascal", frozen=True):
    scope: str = ""


class _Capabilities(msgspec.Struct, rename="pascal"):
    capabilities: _Scope = _Scope()


class _Volume(msgspec.Struct, rename="pascal"):
    name: str = ""
    mountpoint: str = ""
    status: dict[str, Any] | None = None


class _Got(msgspec.Struct, rename="pascal"):
    volume: _Volume | None = None


class _Listed(msgspec.Struct, rename="pascal"):
    volumes: list[_Volume] | None = None


class _Mounted(msgspec.Struct, rename="pascal"):
    mountpoint: str = ""


class _Done(msgspec.Struct):
    pass


class DockerVolumes:
    """Implements `VolumeDriver` and `VolumeMounts`. Making it calls the plugin."""

    def __init__(self, name: str, address: Address) -> None:
        self._client = Client(name, address)
        manifest = self._client.call_blocking("Plugin.Activate", b"", _Manifest, _ACTIVATION)
        if "VolumeDriver" not in (manifest.implements or ()):
            offers = ", ".join(manifest.implements or ()) or "nothing"
            raise DriverError(f"{self._client.label} does not implement VolumeDriver, but {offers}")
        self._capabilities = VolumeCapabilities(self._scope())

    def _scope(self) -> str:
        """As in Docker, a plugin without the method, or with an unknown scope, is local."""
        try:
            found = self._client.call_blocking("VolumeDriver.Capabilities", b"{}", _Capabilities, _ACTIVATION)
        except Refused:
            return "local"
        scope = found.capabilities.scope.lower()
        return scope if scope in _SCOPES else "local"

    @property
    def capabilities(self) -> VolumeCapabilities:
        return self._capabilities

    async def create(self, name: str, options: Mapping[str, str]) -> Volume:
        try:
            return await self._get(name)
        except (Refused, NotFound):
            pass  # as in Docker, each error of the plugin means that there is no such volume
        await self._client.call("VolumeDriver.Create", {"Name": name, "Opts": dict(options) or None}, _Done)
        return Volume(name, "", dict(options))

    async def remove(self, name: str) -> None:
        try:
            await self._client.call("VolumeDriver.Remove", {"Name": name}, _Done)
        except Refused as error:
            try:
                names = await self.names()
            except OrlopError:
                raise error from None
            if name in names:
                raise

    async def _get(self, name: str) -> Volume:
        found = (await self._client.call("VolumeDriver.Get", {"Name": name}, _Got)).volume
        if found is None:
            raise NotFound(f"get {name}: no such volume")
        return Volume(name, found.mountpoint, {}, found.status or {})

    async def get(self, name: str) -> Volume:
        try:
            return await self._get(name)
        except Refused as error:
            if name in await self.names():
                raise
            raise NotFound(f"get {name}: no such volume") from error

    async def mounts(self, name: str) -> Sequence[Mount]:
        """The mount of a volume that is in use. If it is not in use, its mount point may be missing or empty."""
        mountpoint = (await self.get(name)).mountpoint
        return (self._mount(mountpoint),) if mountpoint else ()

    def _mount(self, mountpoint: str) -> Mount:
        """Raises `DriverError` for a path that must be a mistake: `/` would show the whole host, and a relative path means
        another directory for each process."""
        parts = [part for part in mountpoint.split("/") if part not in ("", ".")]
        if not mountpoint.startswith("/") or not parts or ".." in parts or "\0" in mountpoint:
            raise DriverError(
                f"{self._client.label}: the mount point {mountpoint[:4096]!r} is not an absolute path below / without .."
            )
        return Mount("bind", mountpoint, "", ("rbind", "rprivate"))

    async def mount(self, name: str, user: str) -> Sequence[Mount]:
        found = await self._client.call("VolumeDriver.Mount", {"Name": name, "ID": user}, _Mounted)
        return (self._mount(found.mountpoint),)

    async def unmount(self, name: str, user: str) -> None:
        await self._client.call("VolumeDriver.Unmount", {"Name": name, "ID": user}, _Done)

    async def usage(self, name: str) -> Usage:
        await self.get(name)
        return Usage(-1)

    async def names(self) -> Sequence[str]:
        listed = await self._client.call("VolumeDriver.List", {}, _Listed)
        return sorted({volume.name for volume in listed.volumes or ()})
