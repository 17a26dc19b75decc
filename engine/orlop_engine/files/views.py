"""A worker's view of a container's files: the mounted root, and the mounts inside it.

The root of a running container is already mounted in the mount namespace of its monitor, and the worker joins this
namespace. For any other container, the worker mounts the root itself. To read files, it mounts the root read-only, so
that a start need not wait for a slow reader. To write files, it mounts the root writable, and the container's lock is
held meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import trio

from orlop_engine.containers import prepared_sandbox
from orlop_engine.containers.container import Container
from orlop_engine.containers.ports import Ports
from orlop_monitor.unpack.request import Bind, View
from orlop_sdk import Conflict

__all__ = ["Seen", "opened"]

_UNMOUNTING = 20.0  # seconds that a volume driver has to unmount the volumes of a view, even if the client has disconnected


class Seen(NamedTuple):
    """A view, and its file descriptors. In the message to the worker, these descriptors come before all other
    descriptors."""

    view: View
    fds: tuple[int, ...]


@asynccontextmanager
async def opened(ports: Ports, container: Container, *, mounts: bool, write: bool = False) -> AsyncIterator[Seen]:
    """Prepare a view. With `mounts`, the view includes volumes and binds. Without `mounts`, it is only the root, as for an
    export."""
    async with AsyncExitStack() as stack:
        readonly = write and container.record.host_config.readonly_rootfs
        namespace = _namespace(container)
        if namespace < 0 and write:
            await stack.enter_async_context(container.lock)
            namespace = _namespace(container)  # the container may have been started during the wait for the lock
            if namespace < 0 and container.id not in ports.index:
                raise Conflict(f"container {container.id} has been removed")
        if namespace >= 0:
            stack.callback(os.close, namespace)
            user = _user_namespace(container)
            if user >= 0:
                stack.callback(os.close, user)
            root, mapped = ports.paths.root(container.id), user >= 0
            binds = await _binds(ports, container, stack, mapped=mapped) if mounts else ()
            view = View(root, binds=binds, joined=True, writable=write, readonly=readonly, mapped=mapped)
            yield Seen(view, (namespace, user) if mapped else (namespace,))
            return
        if write:
            await prepared_sandbox.drop(ports, container)
        binds = await _binds(ports, container, stack) if mounts else ()
        layers = tuple(await ports.storage.mounts(container.id, readonly=not write))
        yield Seen(View(_mount_point(ports), layers, binds, writable=write, readonly=readonly), ())


def _mount_point(ports: Ports) -> str:
    """An empty directory on which all workers mount. Each worker has its own mount namespace, so workers do not see the
    mounts of other workers, and no mount remains when the daemon is killed."""
    path = os.path.join(ports.config.exec_root, "files")
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def _namespace(container: Container) -> int:
    """A file descriptor of the mount namespace of a running container's monitor; -1 if no monitor is running."""
    run = container.run
    if run is None or run.monitor is None or run.finished.is_set() or not container.record.state.running:
        return -1
    try:
        fd = os.open(f"/proc/{run.monitor.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    if run.monitor.is_over:  # the pid may have been reused before the open
        os.close(fd)
        return -1
    return fd


def _user_namespace(container: Container) -> int:
    """A file descriptor of a running container's user namespace; -1 when the container has the host's user namespace. The
    monitor's pid cannot have been reused, because its mount namespace is still open."""
    assert container.run is not None and container.run.monitor is not None
    path = container.run.monitor.userns_path
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path else -1


async def _unmount(ports: Ports, users: list[str]) -> None:
    if users:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _UNMOUNTING):
            await ports.volumes.unmount(users)


async def _binds(ports: Ports, container: Container, stack: AsyncExitStack, *, mapped: bool = False) -> tuple[Bind, ...]:
    """The binds of the container's volumes, images and host directories. `mapped`: the container runs with a user namespace.
    In this case the monitor has mounted the volumes and images in its stage directory. Volumes that their drivers mount for
    the view are unmounted when `stack` is closed."""
    found: list[Bind] = []
    users: list[str] = []
    stack.push_async_callback(_unmount, ports, users)
    for number, record in enumerate(container.record.mounts):
        sources: Sequence[str] = ()
        if mapped and record.type in ("volume", "image"):
            source = f"{ports.paths.stage(container.id)}/{number}"
            found.append(Bind(source, record.destination, not record.rw or record.type == "image"))
            continue
        if record.type == "bind":
            sources = [record.source]
        elif record.type == "volume":
            # A volume that is mounted only in the container's namespace cannot be reached.
            mounted = await ports.volumes.mount(record.name, container.id, users)
            sources = [mount.source for mount in mounted if mount.type == "bind"]
        elif record.type == "image" and (image := ports.images.get(record.name)) is not None:
            layers = tuple(await ports.storage.mounts(image.snapshot, readonly=True))
            found.append(Bind("", record.destination, True, record.subpath, layers))
        found += [Bind(source, record.destination, not record.rw, record.subpath) for source in sources]
    directory = ports.paths.directory(container.id)
    for name in ("resolv.conf", "hostname", "hosts"):
        if os.path.exists(f"{directory}/{name}"):
            found.append(Bind(f"{directory}/{name}", f"/etc/{name}"))
    return tuple(found)
