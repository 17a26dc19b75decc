"""Containers: the index of all containers, and the entry points of every operation on them.

Owns the in-memory index (by id and by name), the rows of table `containers`, `<data-root>/containers/<id>/`, and below
exec-root the run directories (`run/<id>`) and the mount points of roots (`mnt/<id>`). After a crash the rows are
authoritative; directories without a row are removed.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVarTuple, Unpack

import msgspec
import trio

from orlop_engine.futures import Future
from orlop_engine.images.policy import UNRESTRICTED, ImagePolicy
from orlop_engine.images.service import ImageUser
from orlop_engine.networks.records import Sandbox
from orlop_engine.processes import runs
from orlop_engine.system.programs import Programs
from orlop_engine.types.containers import CreateRequest, EndpointSettings, HostConfig
from orlop_engine.volumes.record import VolumeCheck
from orlop_kernel.store import UNREADABLE, Put
from orlop_sdk import Conflict, InvalidParameter, NotFound, OrlopError
from orlop_sdk.base import rfc3339

from . import create, labels, launch, lifecycle, links, listing, names, removal, restore, view
from .container import Container
from .prepared_sandbox import PreparedSandbox
from .record import ContainerRecord, decode, encode

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

__all__ = ["Containers"]

log = logging.getLogger("orlop.containers")

Args = TypeVarTuple("Args")

# Long enough to be unique, short enough for the path of a unix socket (108 bytes) below any exec-root.
_RUN_NAME = 32
_ID = re.compile(r"[0-9a-f]{64}")


class _OnNetworks(msgspec.Struct):
    sandbox: Sandbox | None = None


def _sandbox(key: str, row: bytes) -> Sandbox | None:
    """The sandbox in a row that cannot be decoded otherwise."""
    try:
        sandbox = msgspec.json.decode(row, type=_OnNetworks).sandbox
    except UNREADABLE:
        return None
    return sandbox if sandbox and sandbox.container_id == key else None


class Containers:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.index: dict[str, Container] = {}
        self.names: dict[str, str] = {}
        self.closing = False
        self.now_restarting: set[str] = set()
        self.pending_removal: set[str] = set()
        """Containers whose rows are deleted, and whose files are about to be."""
        self.quarantined: dict[str, Sandbox | None] = {}
        """Quarantined containers: their rows could not be decoded. The value is the network sandbox, if that was
        readable."""
        self.prepared_sandboxes: dict[str, PreparedSandbox] = {}
        self.networks_restored = False
        """Set once the networks have restored the sandboxes of living containers at boot: from then on these must be
        released."""
        self._image_changes = 0
        self.programs = Programs()
        self.containers_root = os.path.join(engine.config.data_root, "containers")
        self.runs_root = os.path.join(engine.config.exec_root, "run")
        os.makedirs(self.containers_root, mode=0o710, exist_ok=True)
        os.makedirs(self.runs_root, mode=0o700, exist_ok=True)

    # --- index ------------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        for key, row in self.engine.store.load("containers"):
            try:
                self.add(Container(self._checked(key, decode(row))))
            except UNREADABLE as error:
                await self.engine.store.quarantine("containers", key, str(error))
                self.quarantined[key] = _sandbox(key, row)

    def _checked(self, key: str, record: ContainerRecord) -> ContainerRecord:
        """Validate a decoded record. Its id must equal the key, because paths are made from it, and its name must be
        unique."""
        if record.id != key or not _ID.fullmatch(key):
            raise ValueError(f"it says that its id is {record.id[:80]!r}")
        if holder := self.names.get(record.name):
            raise ValueError(f"its name {record.name[:80]!r} is that of container {holder[:12]}")
        labels.shed(record, labels.deciding(self.engine.config))
        return record

    def add(self, container: Container) -> None:
        self.index[container.id] = container
        self.names[container.name] = container.id

    def forget(self, container: Container) -> None:
        self.index.pop(container.id, None)
        if self.names.get(container.name) == container.id:
            del self.names[container.name]

    def get(self, text: str) -> Container:
        """Find a container by full id, full name, or a unique prefix of its id."""
        if not text:
            raise InvalidParameter('invalid name or ID supplied: ""')
        found = self.index.get(text)
        if found is not None:
            return found
        name = text.removeprefix("/")
        if (container_id := self.names.get(name)) and container_id in self.index:
            return self.index[container_id]
        if "/" in name and (linked := links.resolve(self, name)):
            return linked
        matches = [item for key, item in self.index.items() if key.startswith(text)]
        if len(matches) > 1:
            raise InvalidParameter(f"multiple IDs found with provided prefix: {text}")
        if not matches:
            raise NotFound(f"No such container: {text}")
        return matches[0]

    @contextmanager
    def reserve_name(self, wanted: str, container_id: str) -> Iterator[str]:
        """Reserve a name (`wanted`, or a generated one) for a container that is being created."""
        name = wanted or names.generate(self.names, container_id)
        if holder := self.names.get(name):
            raise create.conflict(name, holder)
        self.names[name] = container_id
        try:
            yield name
        except BaseException:
            del self.names[name]
            raise

    async def rename(self, container: Container, given: str) -> None:
        old = container.record.name
        with ExitStack() as stack:
            try:
                new = stack.enter_context(self.reserve_name(names.check(f"/{given.removeprefix('/')}"), container.id))
            except (Conflict, InvalidParameter) as error:
                raise type(error)(f"Error when allocating new name: {error}") from error
            record, before = container.record, container.record.sandbox
            after = self.engine.networks.renamed(before, new) if before is not None else None
            with container.change(name=new, sandbox=after):
                await self.save(container)
        if self.names.get(old) == container.id:
            del self.names[old]
        if after is not None and record.sandbox is after:
            self.engine.networks.update_members(after)
        container.touch()

    def counts(self) -> dict[str, int]:
        states = [item.record.state for item in self.index.values()]
        paused = sum(state.paused for state in states)
        running = sum(state.running for state in states) - paused
        return {
            "total": len(states),
            "running": running,
            "paused": paused,
            "stopped": len(states) - running - paused,
        }

    def any_alive(self) -> bool:
        """Whether any container runs, or a monitor is still cleaning up after one."""
        known = any(item.record.state.running or item.run is not None for item in self.index.values())
        return known or any(self.quarantined_alive())

    def quarantined_alive(self) -> Iterator[str]:
        """The quarantined containers that are still running."""
        return (key for key in self.quarantined if runs.monitor_lives(self.run_dir(key)))

    def users_of_images(self) -> dict[str, list[ImageUser]]:
        """Image id -> the containers that were created from the image, or mount it."""
        users: dict[str, list[ImageUser]] = {}
        for item in self.index.values():
            mounted = (mount.name for mount in item.record.mounts if mount.type == "image")
            for image_id in {item.record.image_id, *mounted}:
                users.setdefault(image_id, []).append(ImageUser(item.id, item.record.state.running))
        return users

    def users_of_volumes(self) -> dict[str, list[str]]:
        """Volume name -> the containers that use it, in one pass over all containers."""
        found: dict[str, list[str]] = {}
        for item in self.index.values():
            for name in {mount.name for mount in item.record.mounts if mount.name}:
                found.setdefault(name, []).append(item.id)
        return found

    # --- paths ------------------------------------------------------------------------------------------------------

    def directory(self, container_id: str) -> str:
        return os.path.join(self.containers_root, container_id)

    @staticmethod
    def run_name(container_id: str) -> str:
        """The name of the run directory and of the root's mount point."""
        return container_id[:_RUN_NAME]

    def run_dir(self, container_id: str) -> str:
        return os.path.join(self.runs_root, self.run_name(container_id))

    def root(self, container_id: str) -> str:
        """The mount point of the container's root. It is mounted only in the mount namespace of the monitor."""
        return os.path.join(self.engine.config.exec_root, "mnt", self.run_name(container_id))

    def stage(self, container_id: str) -> str:
        """The directory beside the root where the monitor prepares further mounts, if there are any. As hidden as the
        root."""
        return self.root(container_id) + runs.STAGE

    def by_run_name(self, name: str) -> Container | None:
        return next((item for key, item in self.index.items() if key.startswith(name)), None)

    def remove_run(self, name: str) -> None:
        for mount_point in (name, name + runs.STAGE):
            try:
                os.rmdir(os.path.join(self.engine.config.exec_root, "mnt", mount_point))
            except FileNotFoundError:
                pass
            except OSError as error:
                log.warning("cannot remove mount point of %s: %s", name, error)
        # Last, because the next boot finds the mount points by this directory.
        shutil.rmtree(os.path.join(self.runs_root, name), ignore_errors=True)

    def remove_run_directories(self, container_id: str) -> None:
        self.remove_run(self.run_name(container_id))

    def settle(self, container: Container) -> None:
        """Forget the run: its monitor has ended and has cleaned up."""
        container.run = None
        self.remove_run_directories(container.id)

    def namespace_of(self, text: str, kind: str) -> str:
        """The path of a running container's namespace, for another container to join."""
        other = self.get(text)
        if not other.record.state.running or other.record.state.restarting:
            raise Conflict(f"cannot join {kind} namespace of a non running container: {other.id}")
        return f"/proc/{other.record.state.pid}/ns/{kind}"

    # --- state ------------------------------------------------------------------------------------------------------

    async def save(self, container: Container) -> None:
        """Commit the row and drop the cached views of the record, whether or not the commit succeeds. The row of a
        container that was removed meanwhile is not written again."""
        container.touch()
        if container.id in self.index and not container.row_going:
            await self.engine.store.commit([Put("containers", container.id, encode(container.record))])

    def attributes(self, container: Container, **more: str) -> dict[str, str]:
        record = container.record
        return {**(record.config.labels or {}), **more, "image": record.config.image, "name": record.name}

    def created(self, record: ContainerRecord) -> str:
        return rfc3339(record.created_ns)

    def restarting_now(self, container: Container) -> bool:
        return container.id in self.now_restarting

    def background(self, operation: Callable[[Unpack[Args]], Awaitable[object]], *args: *Args) -> None:
        """Start a task that no caller waits for. An exception is logged, and does not affect other containers."""

        async def guarded() -> None:
            try:
                await operation(*args)
            except Exception:
                log.exception("a background task of a container failed")

        self.engine.nursery.start_soon(guarded)

    # --- network ----------------------------------------------------------------------------------------------------

    def check_networks(self, host: HostConfig, endpoints: Mapping[str, EndpointSettings]) -> None:
        """Refuse impossible endpoints. A missing network is no error before the start, because clients take a 404 of
        create for a missing image, and pull."""
        with suppress(NotFound):
            self.engine.networks.check(host.network_mode, endpoints)

    async def release_network(self, container: Container) -> None:
        async with container.network_lock:
            sandbox, container.record.sandbox = container.record.sandbox, None
            if sandbox is None:
                return
            with self.engine.counters.timed("network", "release"):
                await self.engine.networks.release(sandbox)
        self._network_events(container, sandbox, "disconnect")

    def publish_network(self, container: Container, action: str) -> None:
        if container.record.sandbox is not None:
            self._network_events(container, container.record.sandbox, action)

    def _network_events(self, container: Container, sandbox: Any, action: str) -> None:
        for network in self.engine.networks.networks_of(sandbox):
            self.engine.events.publish(
                "network", action, network.id, {"container": container.id, "name": network.name, "type": network.driver}
            )

    def network_settings(self, container: Container) -> dict[str, Any]:
        record = container.record
        return self.engine.networks.settings(
            record.sandbox,
            endpoints=record.endpoints,
            exposed=set(record.config.exposed_ports or ()),
            running=record.state.running,
        )

    def ports(self, container: Container, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        """`Ports` of a list item: published ports with their host address, exposed ports without."""
        out: list[dict[str, Any]] = []
        if not container.record.state.running:
            return out
        for port, bindings in sorted((settings.get("Ports") or {}).items()):
            number, _, protocol = port.partition("/")
            base = {"PrivatePort": int(number), "Type": protocol or "tcp"}
            if bindings:
                out += [{"IP": b["HostIp"], "PublicPort": int(b["HostPort"]), **base} for b in bindings]
            else:
                out.append(base)
        return out

    # --- views ------------------------------------------------------------------------------------------------------

    def volume_mountpoints(self, record: ContainerRecord) -> dict[str, str]:
        return {mount.name: self.engine.volumes.mountpoint(mount.name) for mount in record.mounts if mount.type == "volume"}

    def log_path(self, container: Container) -> str:
        driver = self.engine.drivers.log(container.record.host_config.log_config.type)
        return driver.path(launch.log_info(self, container))

    def image_name(self, record: ContainerRecord) -> str:
        """The image name given at create, or the image's id when the name now refers to another image or none."""
        with suppress(NotFound):
            if self.engine.images.resolve(record.config.image).id == record.image_id:
                return record.config.image
        return record.image_id

    async def inspect(self, container: Container, version: tuple[int, int], size: bool = False) -> bytes:
        key = "inspect" if version >= (1, 45) else "inspect, old"
        # The target of a link may be renamed, which clears the views of the target only.
        kept = not size and not container.record.host_config.links
        found = container.views.get(key) if kept else None
        if found is None:
            graph = await self.engine.storage.describe(container.id)
            sizes = await self._sizes(container) if size else None
            shown = view.inspect(self, container, graph, version)
            if sizes is not None:
                shown.size_rw, shown.size_root_fs = sizes
            found = msgspec.json.encode(shown)
            if kept:
                container.views[key] = found
        return found

    async def _sizes(self, container: Container) -> tuple[int, int]:
        """(bytes that the container has written, those plus the size of its image)."""
        usage = await self.engine.storage.usage(container.id)
        image = self.engine.images.get(container.record.image_id)
        return usage.size, usage.size + (image.size if image else 0)

    async def summaries(self, *, everything: bool, limit: int, filters: listing.Filters, size: bool) -> bytes:
        chosen = listing.select(self, everything=everything, limit=limit, filters=filters)
        sizes: dict[str, tuple[int, int]] = {}

        async def measure(item: Container) -> None:
            try:
                sizes[item.id] = await self._sizes(item)
            except OrlopError as error:  # removed meanwhile, or a failure of the driver: list the others all the same
                log.warning("cannot measure container %s: %s", item.name, error)

        async with trio.open_nursery() as nursery:
            for item in chosen if size else ():
                nursery.start_soon(measure, item)
        linked = links.names(self)
        self._forget_image_names()
        return (
            b"[" + b",".join(view.summary(self, item, linked.get(item.id, ()), sizes.get(item.id)) for item in chosen) + b"]"
        )

    def _forget_image_names(self) -> None:
        """Drop the cached list items when images have changed, because the items contain image names."""
        if self._image_changes != self.engine.images.changes:
            self._image_changes = self.engine.images.changes
            for item in self.index.values():
                item.views.pop("list", None)

    # --- operations -------------------------------------------------------------------------------------------------

    async def create(
        self,
        name: str,
        platform: str,
        request: CreateRequest,
        volume_labels: Mapping[str, str] | None = None,
        vet: VolumeCheck | None = None,
        *,
        images: ImagePolicy = UNRESTRICTED,
        flat_readonly: bool = False,
    ) -> create.Created:
        with self.engine.counters.timed("container", "create"):
            created = await create.create(
                self, name, platform, request, volume_labels, vet, images=images, flat_readonly=flat_readonly
            )
        launch.begin(self, created.container)
        return created

    async def start(self, container: Container, checkpoint: str = "", directory: str = "") -> None:
        await lifecycle.start(self, container, checkpoint, directory)

    async def start_locked(self, container: Container, *, again: bool = False) -> None:
        await lifecycle.start_locked(self, container, again=again)

    async def stop(self, container: Container, signal: str, seconds: int | None) -> None:
        await lifecycle.stop(self, container, signal, seconds)

    async def restart(self, container: Container, signal: str, seconds: int | None) -> None:
        await lifecycle.restart(self, container, signal, seconds)

    async def kill(self, container: Container, signal: str) -> None:
        await lifecycle.kill(self, container, signal)

    async def pause(self, container: Container) -> None:
        await lifecycle.pause(self, container)

    async def unpause(self, container: Container) -> None:
        await lifecycle.unpause(self, container)

    async def rename_to(self, container: Container, given: str) -> None:
        await lifecycle.rename(self, container, given)

    async def remove(self, container: Container, force: bool, volumes: bool) -> None:
        with self.engine.counters.timed("container", "delete"):
            await removal.remove(self, container, force=force, volumes=volumes)

    async def auto_remove(self, container: Container) -> None:
        await removal.auto_remove(self, container)

    async def discard_files(self, container_id: str) -> None:
        await removal.discard_files(self, container_id)

    async def prune(self, filters: listing.Filters) -> tuple[list[str], int]:
        """Remove stopped containers. Returns (ids, reclaimed bytes)."""
        accept = listing.prunable(filters, time.time())
        gone, space = [], 0
        for container in [item for item in self.index.values() if accept(item)]:
            try:
                usage = await self.engine.storage.usage(container.id)
                await removal.remove(self, container, force=False, volumes=False)
            except (Conflict, NotFound):
                continue  # started or removed meanwhile
            except OrlopError as error:
                log.warning("container %s cannot be pruned: %s", container.name, error)
                continue
            gone.append(container.id)
            space += usage.size
        self.engine.events.publish("container", "prune", "", {"reclaimed": str(space)})
        return gone, space

    def waiting(self, container: Container, condition: str) -> Future[int]:
        """The exit code, as soon as `condition` holds. The future is taken at once, so that no exit is missed. Removal
        of the container ends every wait."""
        if condition == "removed" or container.removed.is_set():
            return container.removed
        if condition == "next-exit" or container.record.state.running:
            return container.next_exit
        ended: Future[int] = Future()
        ended.set(container.record.state.exit_code)
        return ended

    async def restore(self) -> None:
        await restore.restore(self)

    async def shutdown(self, *, leave_running: bool) -> None:
        with trio.CancelScope():
            await restore.shutdown(self, leave_running=leave_running)
