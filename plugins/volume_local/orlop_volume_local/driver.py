"""The driver. Blocking operations run on worker threads."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
import trio

from orlop_sdk import (
    DeadlineExceeded,
    DriverError,
    Mount,
    NotFound,
    Unavailable,
    Usage,
    Volume,
    VolumeCapabilities,
    VolumeContext,
)
from orlop_sdk.files import Trash, tree_usage
from orlop_sdk.snapshots import fsync_directory

from .options import Kept, address_to_resolve, check_name, check_options, kept_options, mount_of, with_address

__all__ = ["LocalVolumes"]

T = TypeVar("T")

_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_SECONDS = 20.0


class LocalVolumes:
    """Implements `VolumeDriver`."""

    def __init__(self, context: VolumeContext) -> None:
        self._root = context.root
        self._staging = os.path.join(context.root, ".new")
        self._trash: Trash | None = None
        self._mounting = trio.Lock()
        self._slow = trio.CapacityLimiter(4)
        self._looks = trio.CapacityLimiter(16)
        self._programs = trio.CapacityLimiter(4)
        self._sweep()

    @property
    def capabilities(self) -> VolumeCapabilities:
        return VolumeCapabilities(scope="local")

    def _path(self, name: str, *names: str) -> str:
        return os.path.join(self._root, name, *names)

    def _sweep(self) -> None:
        """Clean up after a crash: remove incomplete volumes, and continue to delete removed volumes."""
        if os.path.isdir(trash := os.path.join(self._root, ".trash")):
            self._trash = Trash(trash)
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._staging):
                shutil.rmtree(os.path.join(self._staging, name), ignore_errors=True)

    async def _run(self, what: str, work: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
        try:
            return await trio.to_thread.run_sync(work, limiter=limiter)
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise DriverError(f"cannot {what}: {error.strerror}{where}") from error

    async def create(self, name: str, options: Mapping[str, str]) -> Volume:
        check_name(name)
        check_options(options)
        await self._run(f"create volume {name}", lambda: self._make(name, options))
        return await self.get(name)

    def _make(self, name: str, options: Mapping[str, str]) -> None:
        directory = self._path(name)
        if os.path.isdir(self._path(name, "_data")):
            return
        if os.path.isdir(directory):  # an administrator made the directory, for example to mount a disk for the volume
            _fill(directory, options)
        else:
            staged = os.path.join(self._staging, secrets.token_hex(8))
            os.makedirs(self._staging, 0o700, exist_ok=True)
            os.mkdir(staged)
            try:
                _fill(staged, options)
                os.rename(staged, directory)
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                raise
        fsync_directory(self._root)

    async def remove(self, name: str) -> None:
        check_name(name)
        async with self._mounting:
            if await self._run("check mounts", lambda: os.path.ismount(self._path(name, "_data"))):
                await self._mount_program("umount", self._path(name, "_data"))
        await self._run(f"remove volume {name}", lambda: self._discard(name))

    def _discard(self, name: str) -> None:
        if self._trash is None:
            self._trash = Trash(os.path.join(self._root, ".trash"))
        self._trash.take(self._path(name))

    async def _kept(self, name: str) -> Kept:
        """The options of an existing volume."""
        check_name(name)

        def read() -> Kept:
            if not os.path.isdir(self._path(name, "_data")):
                raise NotFound(f"get {name}: no such volume")
            try:
                with open(self._path(name, "opts.json"), "rb") as file:
                    return msgspec.json.decode(file.read(), type=Kept)
            except FileNotFoundError:
                return Kept()
            except msgspec.DecodeError as error:
                raise DriverError(
                    f"cannot read options of volume {name}: {self._path(name, 'opts.json')}: {error}"
                ) from error

        return await self._run(f"read options of volume {name}", read)

    async def get(self, name: str) -> Volume:
        kept = await self._kept(name)
        return Volume(name, self._path(name, "_data"), kept.options())

    async def mounts(self, name: str) -> Sequence[Mount]:
        kept = await self._kept(name)
        data = self._path(name, "_data")
        if not kept.needs_mount:
            return (Mount("bind", data, "", ("bind", "rprivate")),)
        host = address_to_resolve(kept)
        if host:
            kept = with_address(kept, await _resolve(host))
        mount = mount_of(kept)
        if mount.type == "bind" and not await self._exists(mount.source):
            raise DriverError(
                f"cannot mount volume {name}: failed to mount local volume: mount {mount.source}:{data}: "
                "no such file or directory"
            )
        if mount.type == "tmpfs":
            await self._mount_shared(mount, data)
            return (Mount("bind", data, "", ("bind", "rprivate")),)
        return (mount,)

    async def _exists(self, path: str) -> bool:
        """Whether `path` exists. On a network file system whose server does not answer, this call never returns, and the
        thread is abandoned at the caller's deadline. A separate limiter keeps threads available for other calls."""
        look = functools.partial(os.path.exists, path)
        return await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=self._looks)

    async def _mount_shared(self, mount: Mount, data: str) -> None:
        """Mount a tmpfs volume on the host. So all containers share the volume, and its content stays when a container
        ends."""
        async with self._mounting:
            if not await self._run("check mounts", lambda: os.path.ismount(data)):
                options = ["-o", ",".join(mount.options)] if mount.options else []
                await self._mount_program("mount", "-t", mount.type, *options, mount.source, data)

    async def _mount_program(self, *argv: str) -> None:
        """Run a mount program on a thread that can be abandoned, because a program blocked in the kernel ignores SIGKILL."""

        def run() -> subprocess.CompletedProcess[bytes]:
            return subprocess.run(
                argv, env=_ENV, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False
            )

        try:
            with trio.fail_after(_SECONDS + 1):
                result = await trio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=self._programs)
        except (subprocess.TimeoutExpired, trio.TooSlowError):
            raise DeadlineExceeded(f"cannot {argv[0]} {argv[-1]}: no answer within {_SECONDS:g} s") from None
        if result.returncode:
            raise DriverError(f"cannot {argv[0]} {argv[-1]}: {result.stderr.decode(errors='replace').strip()}")

    async def usage(self, name: str) -> Usage:
        """The usage of a plain directory or a tmpfs. For other mounts, the size is -1."""
        kept = await self._kept(name)
        if kept.needs_mount and kept.mount_type != "tmpfs":
            return Usage(-1)
        return await self._run(f"measure volume {name}", lambda: tree_usage(self._path(name, "_data")), self._slow)

    async def names(self) -> Sequence[str]:
        def read() -> list[str]:
            try:
                found = os.listdir(self._root)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return []
                raise
            return sorted(name for name in found if name[0] != "." and os.path.isdir(self._path(name, "_data")))

        return await self._run("list volumes", read)


def _fill(directory: str, options: Mapping[str, str]) -> None:
    os.chmod(directory, 0o701)  # noqa: S103 - Docker's mode of a volume
    if options:
        fd = os.open(os.path.join(directory, "opts.json"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, msgspec.json.encode(kept_options(options)))
            os.fsync(fd)
        finally:
            os.close(fd)
    os.mkdir(os.path.join(directory, "_data"))
    os.chmod(os.path.join(directory, "_data"), 0o755)  # noqa: S103 - containers of any user read it, as with Docker
    fsync_directory(directory)


async def _resolve(host: str) -> str:
    try:
        found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"error resolving passed in network volume address: lookup {host}: {error.strerror}") from error
    return str(found[0][4][0])
