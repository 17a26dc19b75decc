"""All containers in memory, by id and by name. When the daemon starts, it builds the index from the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orlop_engine.images.records import ImageUser
from orlop_engine.networks.records import Sandbox
from orlop_sdk import Conflict, InvalidParameter, NotFound

from . import names
from .container import Container

__all__ = ["ContainerIndex"]


class ContainerIndex:
    """Iterating over the index yields all containers. `find_linked` resolves the additional names ("parent/alias") that
    `--link` gives to containers."""

    def __init__(self, find_linked: Callable[[ContainerIndex, str], Container | None] = lambda index, name: None) -> None:
        self.by_id: dict[str, Container] = {}
        self.names: dict[str, str] = {}
        """Name -> id, including names reserved for containers that are being created."""
        self.quarantined: dict[str, Sandbox | None] = {}
        """Ids of quarantined containers, whose rows could not be decoded. The value is the network sandbox from the row,
        None if the sandbox could not be decoded either."""
        self.pending_removal: set[str] = set()
        """Ids of containers whose rows have been deleted, but whose files have not been deleted yet."""
        self._find_linked = find_linked

    def __iter__(self) -> Iterator[Container]:
        return iter(self.by_id.values())

    def __contains__(self, container_id: str) -> bool:
        return container_id in self.by_id

    def __len__(self) -> int:
        return len(self.by_id)

    # --- lookup -----------------------------------------------------------------------------------------------------

    def get(self, text: str) -> Container:
        """Find a container by full id, full name, or a unique prefix of its id."""
        if not text:
            raise InvalidParameter('invalid name or ID supplied: ""')
        found = self.by_id.get(text)
        if found is not None:
            return found
        name = text.removeprefix("/")
        if (container_id := self.names.get(name)) and container_id in self.by_id:
            return self.by_id[container_id]
        if "/" in name and (linked := self._find_linked(self, name)):
            return linked
        matches = [item for key, item in self.by_id.items() if key.startswith(text)]
        if len(matches) > 1:
            raise InvalidParameter(f"multiple IDs found with provided prefix: {text}")
        if not matches:
            raise NotFound(f"No such container: {text}")
        return matches[0]

    def by_run_name(self, name: str) -> Container | None:
        """The container whose run directory has this name."""
        return next((item for key, item in self.by_id.items() if key.startswith(name)), None)

    def namespace_of(self, text: str, kind: str) -> str:
        """The path of a running container's namespace, which another container can join."""
        other = self.get(text)
        if not other.record.state.running or other.record.state.restarting:
            raise Conflict(f"cannot join {kind} namespace of a non running container: {other.id}")
        return f"/proc/{other.record.state.pid}/ns/{kind}"

    # --- changes ----------------------------------------------------------------------------------------------------

    def add(self, container: Container) -> None:
        self.by_id[container.id] = container
        self.names[container.name] = container.id

    def forget(self, container: Container) -> None:
        self.by_id.pop(container.id, None)
        self.release_name(container.name, container.id)

    def release_name(self, name: str, container_id: str) -> None:
        """Free a name, if the name belongs to this container."""
        if self.names.get(name) == container_id:
            del self.names[name]

    @contextmanager
    def reserve_name(self, wanted: str, container_id: str) -> Iterator[str]:
        """Reserve a name for a container that is being created or renamed: the name `wanted`, or a generated name if
        `wanted` is "". If the `with` block fails, the name is free again."""
        name = wanted or names.generate(self.names, container_id)
        self.check_free(name)
        self.names[name] = container_id
        try:
            yield name
        except BaseException:
            del self.names[name]
            raise

    def check_free(self, name: str) -> None:
        """Raise `Conflict`, with Docker's message, if a container has this name, or if the name is reserved for one."""
        if holder := self.names.get(name):
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{holder}". You have to remove (or '
                "rename) that container to be able to reuse that name."
            )

    # --- summaries --------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        states = [item.record.state for item in self]
        paused = sum(state.paused for state in states)
        running = sum(state.running for state in states) - paused
        return {
            "total": len(states),
            "running": running,
            "paused": paused,
            "stopped": len(states) - running - paused,
        }

    def users_of_images(self) -> dict[str, list[ImageUser]]:
        """Image id -> the containers that were created from the image, or mount it."""
        users: dict[str, list[ImageUser]] = {}
        for item in self:
            mounted = (mount.name for mount in item.record.mounts if mount.type == "image")
            for image_id in {item.record.image_id, *mounted}:
                users.setdefault(image_id, []).append(ImageUser(item.id, item.record.state.running))
        return users

    def users_of_volumes(self) -> dict[str, list[str]]:
        """Volume name -> the containers that use it, in one pass over all containers."""
        found: dict[str, list[str]] = {}
        for item in self:
            for name in {mount.name for mount in item.record.mounts if mount.name}:
                found.setdefault(name, []).append(item.id)
        return found
