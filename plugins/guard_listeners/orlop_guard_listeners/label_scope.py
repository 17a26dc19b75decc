"""The labels of a listener. Only objects that have all of these labels are visible, and new objects get these labels.

This module resolves each name with the engine and replaces the name by the object's ID. So the handler uses the checked
object, even if the object is renamed meanwhile. For a body, the decoded object is checked and labelled, and the handler uses
this object.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from orlop_engine.containers.mount_spec import parse_bind
from orlop_engine.networks.planning import network_of
from orlop_engine.types.containers import CreateRequest, EndpointSettings, ExecConfig, HostConfig, NetworkingConfig
from orlop_engine.types.networks import ConnectRequest, DisconnectRequest
from orlop_engine.types.networks import CreateRequest as NetworkRequest
from orlop_engine.types.volumes import VolumeCreateRequest
from orlop_kernel.routing.call import Call
from orlop_sdk import NotFound

from .listener_policy import ListenerPolicy
from .roles import Scope

if TYPE_CHECKING:
    from orlop_engine.containers.record import ContainerRecord
    from orlop_engine.engine import Engine
    from orlop_engine.volumes.record import VolumeRecord

__all__ = ["LabelScope"]

_SHARED_NETWORKS = frozenset({"bridge", "none"})
"""Predefined networks, which have no labels. They are allowed, because containers use them by default."""


class LabelScope:
    """The scope of one listener with labels. Raises `Denied`, or `NotFound` like the engine."""

    def __init__(self, engine: Engine, policy: ListenerPolicy) -> None:
        self._engine = engine
        self._policy = policy
        self.required_labels = {key: value for key, value in policy.labels if value is not None}
        by_route: dict[Scope, Callable[[Call], Awaitable[None]]] = {
            Scope.FILTER: self._filter,
            Scope.CONTAINER: self._container,
            Scope.EXEC: self._exec,
            Scope.NETWORK: self._network,
            Scope.VOLUME: self._volume,
            Scope.IMAGE: self._image,
            Scope.READ_IMAGE: self._image,
            Scope.IMAGES: self._filter,
            Scope.SAVE: self._save,
            Scope.PULL: self._pull,
            Scope.PUSH: self._push,
            Scope.CREATE: self._create,
            Scope.EXEC_CREATE: self._exec_create,
            Scope.CONNECT: self._connect,
            Scope.DISCONNECT: self._disconnect,
            Scope.NEW_NETWORK: self._new_network,
            Scope.NEW_VOLUME: self._new_volume,
            Scope.BUILD: self._build,
        }
        self._by_route = by_route

    async def __call__(self, call: Call, scope: Scope) -> None:
        """Check that the call only uses objects with the labels, and add labels and filters to the request."""
        if scope in (Scope.OPEN, Scope.ABSENT) or (self._policy.shared_images and scope in (Scope.IMAGES, Scope.READ_IMAGE)):
            return
        judge = self._by_route.get(scope)
        if judge is None:
            raise self._policy.outside(f"{call.request.method} {call.pattern}")
        await judge(call)

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        have = labels or {}
        return all(key in have and value in (None, have[key]) for key, value in self._policy.labels)

    def has_container(self, container_id: str) -> bool:
        found = self._engine.containers.index.by_id.get(container_id)
        return found is not None and self.matches(found.record.config.labels)

    # --- objects, by name or ID ---------------------------------------------------------------------------------------

    def _container_id(self, text: str) -> str:
        container = self._engine.containers.get(text)
        if not self.matches(container.record.config.labels):
            raise self._policy.outside(f"container {text}")
        return container.id

    def _network_id(self, text: str, *, shared: bool = False) -> str:
        record = self._engine.networks.resolve(text)
        if not self.matches(record.labels) and not (shared and record.predefined and record.name in _SHARED_NETWORKS):
            raise self._policy.outside(f"network {text}")
        return record.id

    def check_volume(self, volume: VolumeRecord, anonymous: bool) -> None:
        """Check a volume that a container has or gets. An anonymous volume without the labels is new or comes from a
        container of this scope. It is allowed, unless it uses resources of the host."""
        if self.matches(volume.labels):
            return
        if volume.is_host_path:
            raise self._policy.denied(f"the volume {volume.name}, which is a directory or device of the host,")
        if not anonymous:
            raise self._policy.outside(f"volume {volume.name}")

    def _check_image(self, text: str) -> None:
        """A name may have images of several platforms. All of them must match, because the request may ask for any of
        them."""
        if not all(self.matches(image.config.labels) for image in self._engine.images.all_platforms(text)):
            raise self._policy.outside(f"image {text}")

    def _check_volume_name(self, name: str) -> None:
        """Check that the volume is in the scope or does not exist; a missing volume is created with the labels.
        `check_volume` checks again, because another client may create the volume first."""
        try:
            record = self._engine.volumes.get(name)
        except NotFound:
            if len(self.required_labels) < len(self._policy.labels):
                raise self._policy.outside(f"volume {name}, which does not exist yet,") from None
            return
        if not self.matches(record.labels):
            raise self._policy.outside(f"volume {name}")

    # --- routes by path ---------------------------------------------------------------------------------------------

    async def _filter(self, call: Call) -> None:
        call.only = self._policy.label_texts
        if call.pattern == "/containers/json":
            filters = call.filters()
            for name in (*filters.get("before", ()), *filters.get("since", ())):
                self._container_id(name)  # otherwise the list reveals when a container outside the scope was created

    async def _container(self, call: Call) -> None:
        parent, slash, alias = call.params["id"].removeprefix("/").rpartition("/")
        if slash and call.pattern == "/containers/{id}" and call.flag("link"):  # this request removes a link from its parent
            call.params["id"] = f"{self._container_id(parent)}/{alias}"
        else:
            call.params["id"] = self._container_id(call.params["id"])

    async def _exec(self, call: Call) -> None:
        state = self._engine.execs.get(call.params["id"])
        self._container_id(state.container.id)

    async def _network(self, call: Call) -> None:
        call.params["id"] = self._network_id(call.params["id"])

    async def _volume(self, call: Call) -> None:
        if not self.matches(self._engine.volumes.get(call.params["name"]).labels):
            raise self._policy.outside(f"volume {call.params['name']}")

    async def _image(self, call: Call) -> None:
        self._check_image(call.params["name"])

    async def _save(self, call: Call) -> None:
        """Nothing is checked here, because a name may select several tags. The engine checks each image
        (`ImagePolicy.may_use`)."""

    async def _pull(self, call: Call) -> None:
        if not call.arg("fromImage"):
            raise self._policy.outside("pulling or importing images")
        self.check_pull()

    def check_pull(self) -> None:
        if not self._policy.shared_images:
            raise self._policy.outside("pulling or importing images")

    async def _build(self, call: Call) -> None:
        """Nothing is checked here, because the engine checks the images that a build uses and makes
        (`Restrictions.builds`)."""

    async def _push(self, call: Call) -> None:
        """Check the image. The engine checks it again at the push (`ImagePolicy.may_use`), because the name may be moved
        meanwhile."""
        if not self._policy.shared_images:
            for name in self._engine.images.pushed_names(call.params["name"], call.arg("tag")):
                self._check_image(str(name))

    # --- routes by body ---------------------------------------------------------------------------------------------

    def label_image(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """The labels of an image that a build makes."""
        return self._labelled(given, "an image")

    def _labelled(self, given: Mapping[str, str] | None, what: str) -> dict[str, str]:
        labels = {**self.required_labels, **(given or {})}
        if not self.matches(labels):
            raise self._policy.outside(f"{what} with these labels")
        return labels

    async def _create(self, call: Call) -> None:
        request = await call.json(CreateRequest)
        request.labels = self._labelled(request.labels, "a container")
        if request.image and not self._policy.shared_images:
            self._check_image(request.image)
        if request.host_config is None:
            request.host_config = HostConfig()
        host = request.host_config
        self._joined(host)
        for name in self._volume_names(host):
            self._check_volume_name(name)
        host.links = self._linked(host.links)
        for each in self._pin_networks(request, host).values():
            each.links = self._linked(each.links)

    def _linked(self, links: list[str] | None) -> list[str] | None:
        """Replace the names in links by IDs, so that the links stay with the present containers."""
        split = (link.partition(":") for link in links or ())
        return [f"{self._link_id(name)}:{alias or name}" for name, _, alias in split] or None

    def _link_id(self, name: str) -> str:
        try:
            return self._container_id(name.removeprefix("/"))
        except NotFound:
            raise self._policy.outside(f"a link to container {name}, which does not exist,") from None

    def _joined(self, host: HostConfig) -> None:
        for field in ("network_mode", "ipc_mode", "pid_mode"):
            mode = getattr(host, field)
            if mode.startswith("container:"):
                setattr(host, field, f"container:{self._container_id(mode.removeprefix('container:'))}")
        if not host.network_mode.startswith("container:"):
            self._join_network(host.network_mode or "bridge")
        if host.volumes_from:
            split = [text.partition(":") for text in host.volumes_from]
            host.volumes_from = [f"{self._container_id(name)}{colon}{mode}" for name, colon, mode in split]
            for text in host.volumes_from:
                self._check_volumes_of(self._engine.containers.get(text.partition(":")[0]).record)

    def _check_volumes_of(self, record: ContainerRecord) -> None:
        """Check the volumes of a container in this scope. The container may have volumes outside the scope. A new container
        must not get such volumes."""
        for mount in record.mounts:
            if mount.type == "volume" and not mount.anonymous:
                self._check_volume_name(mount.name)
            elif mount.type == "volume":
                with suppress(NotFound):  # the volume was removed, and will be created empty
                    self.check_volume(self._engine.volumes.get(mount.name), True)

    def _pin_networks(self, request: CreateRequest, host: HostConfig) -> dict[str, EndpointSettings]:
        """Replace the names of networks by IDs, because a name may later belong to a network outside the scope. The network
        mode stays unchanged."""
        if host.network_mode.startswith("container:"):
            return {}
        given = request.networking_config and request.networking_config.endpoints_config
        pinned: dict[str, EndpointSettings] = {}
        for name, settings in (given or {host.network_mode or "bridge": None}).items():
            pinned[name] = settings or EndpointSettings()
            pinned[name].network_id = self._join_network(network_of(name, settings))
        request.networking_config = NetworkingConfig(endpoints_config={**pinned})
        return pinned

    def _join_network(self, name: str) -> str:
        """The network's ID. A network that does not exist yet is refused, because another client could create it."""
        try:
            return self._network_id(name, shared=True)
        except NotFound:
            raise self._policy.outside(f"network {name}, which does not exist,") from None

    @staticmethod
    def _volume_names(host: HostConfig) -> Iterator[str]:
        for text in host.binds or ():
            record = parse_bind(text)
            if record.type == "volume" and not record.anonymous:
                yield record.name
        for spec in host.mounts or ():
            if spec.type == "volume" and spec.source:
                yield spec.source

    async def _exec_create(self, call: Call) -> None:
        await self._container(call)
        if (await call.json(ExecConfig)).privileged:
            raise self._policy.denied("a privileged exec")

    async def _connect(self, call: Call) -> None:
        request = await call.json(ConnectRequest)
        request.container = self._container_id(request.container)
        if request.endpoint_config:
            request.endpoint_config.links = self._linked(request.endpoint_config.links)
        call.params["id"] = self._network_id(call.params["id"], shared=True)

    async def _disconnect(self, call: Call) -> None:
        request = await call.json(DisconnectRequest)
        request.container = self._container_id(request.container)
        call.params["id"] = self._network_id(call.params["id"], shared=True)

    async def _new_network(self, call: Call) -> None:
        request = await call.json(NetworkRequest)
        request.labels = self._labelled(request.labels, "a network")

    async def _new_volume(self, call: Call) -> None:
        request = await call.json(VolumeCreateRequest)
        if request.name:
            self._check_existing(request.name)
        request.labels = self._labelled(request.labels, "a volume")

    def _check_existing(self, name: str) -> None:
        try:
            record = self._engine.volumes.get(name)
        except NotFound:
            return
        if not self.matches(record.labels):
            raise self._policy.outside(f"volume {name}")
