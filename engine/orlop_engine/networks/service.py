"""The networks of the engine: rows, addresses and host ports, and the endpoints of containers.

The rows are in the table `networks`. The addresses and ports in use are only in memory. A starting daemon rebuilds them from
the sandboxes in the rows of running containers. A driver creates its objects before the row is written, and removes them
before the row is deleted. After a crash between these steps, `restore` makes the driver remove objects without a row and
create missing objects.

A start calls `plan`, which reserves addresses and ports, then `attach`, which creates the endpoints. `abandon` frees the
reservations of an unused plan; `release` frees the addresses and ports of a container.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import trio

from orlop_engine.config import Config, defaults
from orlop_engine.drivers import used_network_drivers
from orlop_engine.types.containers import EndpointSettings
from orlop_engine.types.networks import CreateRequest
from orlop_kernel.events import EventBus
from orlop_kernel.store import UNREADABLE, Delete, Put, Store
from orlop_sdk import (
    Conflict,
    DriverError,
    Forbidden,
    InvalidParameter,
    LinkedPort,
    NetworkCapabilities,
    NetworkDriver,
    NotFound,
    OrlopError,
)

from . import creation, files, host, planning, status
from .attachments import Attachments, Listeners
from .names import Names
from .ports import PortBindings, Wanted
from .predefined import PREDEFINED, predefined_records
from .records import AttachedEndpoint, NetworkRecord, Plan, Sandbox, SubnetRecord, decode, encode
from .state import Network, new_id

if TYPE_CHECKING:
    from .preview import Preview

__all__ = ["Networks", "Plan", "Sandbox"]

_log = logging.getLogger("orlop.networks")


class Networks:
    """The networks service, one per daemon. Call `load` first, and `restore` once the running containers are known."""

    def __init__(
        self, store: Store, events: EventBus, drivers: Callable[[str], Awaitable[NetworkDriver]], config: Config
    ) -> None:
        self._store, self._events, self._drivers, self._config = store, events, drivers, config
        self._networks: dict[str, Network] = {}
        self._by_name: dict[str, Network] = {}
        self._changing = trio.Lock()
        self.names = Names(config)
        self._attachments = Attachments(drivers, self._networks, config, self.names.publish)
        self._pruning = False
        self._up = trio.Event()
        """Set when the drivers have restored the networks. This takes longer than all other steps of the daemon's start."""

    # --- start of the daemon ----------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Load the rows and add the predefined networks. Calls no driver, because `restore` calls the drivers."""
        loaded: list[NetworkRecord] = []
        for key, value in self._store.load("networks"):
            try:
                loaded.append(_checked(key, decode(value), loaded))
            except (*UNREADABLE, OrlopError) as error:
                await self._store.quarantine("networks", key, str(error))
        for record in loaded:
            if not record.predefined:
                self._add(record)
        held = {record.name: record for record in loaded if record.predefined}
        records = predefined_records(self._config, held, self._choice, host.bridge_address)
        changed = [record for record in records if held.get(record.name) != record]
        if changed:
            await self._store.commit([Put("networks", record.id, encode(record)) for record in changed])
        for record in records:
            self._add(record)

    def check_config(self, config: Config) -> None:
        """Raise the same errors as `load` with this configuration."""
        held = {record.name: record for record, _ in self.records() if record.predefined}
        predefined_records(config, held, self._choice, host.bridge_address)

    async def restore(self, sandboxes: Iterable[Sandbox]) -> None:
        """Called once, when the daemon starts. Creates all networks, marks the addresses and ports of running containers as
        used, and makes each driver restore the host's objects. If a network cannot be created, each start that needs it
        reports the error. Changes to networks wait until this method is done."""
        try:
            for network in list(self._networks.values()):
                await self._make(network)
            await self._attachments.restore(list(sandboxes), used_network_drivers(self._config.exec_root))
            self.names.keep(self._networks)
            # The tables are published only when all members are known, because until then the previous tables are correct
            for network in self._networks.values():
                self.names.publish(network)
        finally:
            self._up.set()

    async def wait_restored(self) -> None:
        """Wait until the drivers have restored the networks after the daemon's start."""
        await self._up.wait()

    def in_flight(self, endpoint_id: str) -> bool:
        """Whether this endpoint is being created or removed at the moment."""
        return any(endpoint_id in network.planned for network in self._networks.values())

    async def remove_from_host(self) -> None:
        """At a shutdown without running containers: remove the networks' objects from the host. `restore` creates them
        again."""
        await self._up.wait()
        for network in self._networks.values():
            try:
                driver = await self._drivers(network.record.driver)
                await driver.delete_network(network.spec)
            except OrlopError as error:
                _log.warning("cannot remove network %s from the host: %s", network.record.name, error)

    def _add(self, record: NetworkRecord) -> Network:
        network = Network(record)
        self._networks[record.id] = self._by_name[record.name] = network
        return network

    async def _make(self, network: Network) -> None:
        try:
            driver = await self._drivers(network.record.driver)
            await driver.create_network(network.spec)
            network.fault = ""
        except OrlopError as error:
            network.fault = str(error)
            _log.error("cannot create network %s: %s", network.record.name, error)

    async def _mend(self, network: Network) -> None:
        """Create a network again before it is used, if it could not be created before, or is incomplete."""
        if network.fault:
            await self._make(network)
        if network.fault:
            raise DriverError(f"failed to set up container networking: {network.fault}")

    def _pools(self) -> list[tuple[str, int]]:
        return creation.address_pools(self._config, _host_id(self._config.data_root))

    def _choice(self) -> creation.Choice:
        taken = [pool.subnet for network in self._networks.values() for pool in network.pools]
        return creation.Choice(self._pools(), taken, host.used())

    def overlaps_host(self, request: CreateRequest) -> list[str]:
        """The requested subnets that overlap the host's routes or name servers. Containers in these subnets receive traffic
        of the host that is for other hosts, so access control may refuse the subnets."""
        return creation.overlapping(request, host.used() + host.gateway_routes())

    def outside_pools(self, request: CreateRequest) -> list[str]:
        """The requested subnets outside `default-address-pools`. The host's routing table does not contain networks that the
        host reaches only by its default route, such as other subnets of a site. So only subnets in the pools are known to be
        free, because the administrator has chosen the pools."""
        return creation.subnets_outside_pools(request, self._pools())

    # --- lookup -----------------------------------------------------------------------------------------------------

    def resolve(self, name_or_id: str) -> NetworkRecord:
        """Find a network by id, name, or unambiguous prefix of an id, in this order."""
        return self._resolve(name_or_id).record

    def known(self, ref: str) -> NetworkRecord | None:
        """Find a network by full id or name, not by a prefix of the id, because a stored name must never match another
        network whose id begins with the same characters."""
        found = self._known(ref)
        return found.record if found else None

    def _known(self, ref: str) -> Network | None:
        wanted = defaults.DEFAULT_NETWORK if ref == "default" else ref
        return self._networks.get(wanted) or self._by_name.get(wanted)

    def _resolve(self, ref: str) -> Network:
        found = self._known(ref)
        if found is None and ref:
            matches = [network for ident, network in self._networks.items() if ident.startswith(ref)]
            if len(matches) > 1:
                raise InvalidParameter(f"network {ref} is ambiguous ({len(matches)} matches found based on ID prefix)")
            found = matches[0] if matches else None
        if found is None:
            raise NotFound(f"network {ref} not found")
        return found

    def members(self, name_or_id: str) -> Collection[tuple[Sandbox, AttachedEndpoint]]:
        """The running containers of a network, each with its endpoint on this network."""
        return self._resolve(name_or_id).members.values()

    def usage(self, name_or_id: str) -> dict[str, tuple[int, int]]:
        """Subnet -> (number of addresses in use, number of addresses that can still be allocated)."""
        return {str(pool.subnet): pool.usage() for pool in self._resolve(name_or_id).pools}

    def records(self) -> list[tuple[NetworkRecord, bool]]:
        """Returns (row, whether a container uses the network) for all networks, newest first."""
        ordered = sorted(self._networks.values(), key=lambda network: (-network.record.created_ns, network.record.name))
        return [(network.record, network.in_use) for network in ordered]

    # --- changes ----------------------------------------------------------------------------------------------------

    async def create(self, request: CreateRequest) -> NetworkRecord:
        """Create a user-defined network."""
        await self._up.wait()
        creation.check_request(request)
        async with self._changing:
            if request.name in self._by_name:
                raise Conflict(f"network with name {request.name} already exists")
            if request.config_only:
                return await self._create_template(request)
            if request.config_from and request.config_from.network:
                request = creation.apply_template(request, self._template(request.config_from.network))
            driver = await self._drivers(request.driver or defaults.NETWORK_DRIVER)
            if driver.capabilities.predefined_only:
                raise Forbidden(f'only one instance of "{request.driver}" network is allowed')
            record = self._record(request, driver.capabilities)
            network = Network(record)
            await driver.create_network(network.spec)
            try:
                await self._store.commit([Put("networks", record.id, encode(record))])
            except BaseException:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
                    await driver.delete_network(network.spec)
                raise
            self._networks[record.id] = self._by_name[record.name] = network
        self._publish("create", record)
        return record

    async def _create_template(self, request: CreateRequest) -> NetworkRecord:
        """Store a configuration-only network. No driver makes objects for it; as in Docker, inspect shows the driver of the
        network `none`."""
        options = dict(request.options or {})
        ipv4, ipv6 = creation.families(request, options)
        record = NetworkRecord(
            id=new_id(),
            name=request.name,
            driver=defaults.PREDEFINED_NETWORKS[defaults.NO_NETWORK],
            created_ns=time.time_ns(),
            ipam_driver=(request.ipam.driver if request.ipam else "") or "default",
            ipam_options=request.ipam.options if request.ipam else None,
            options=options,
            labels=request.labels or {},
            ipv4=ipv4,
            ipv6=ipv6,
            config_only=True,
            template=creation.template_subnets(request),
        )
        await self._store.commit([Put("networks", record.id, encode(record))])
        self._add(record)
        self._publish("create", record)
        return record

    def _template(self, name: str) -> NetworkRecord:
        found = self.known(name)
        if found is None or not found.config_only:
            raise NotFound(f'configuration network "{name}" does not exist')
        return found

    def _record(self, request: CreateRequest, able: NetworkCapabilities) -> NetworkRecord:
        driver = request.driver or defaults.NETWORK_DRIVER
        options = {**self._config.default_network_opts.get(driver, {}), **(request.options or {})}
        ipv4, ipv6 = creation.families(request, options)
        configs = (request.ipam.config or ()) if request.ipam else ()
        ipam = (request.ipam.driver if request.ipam else "") or "default"
        subnets: tuple[SubnetRecord, ...] = ()
        if ipam == creation.NO_IPAM and not able.several_subnets:
            raise InvalidParameter("ipv4 pool is empty")  # Docker's message: a bridge needs a subnet
        if able.addresses and ipam != creation.NO_IPAM:
            subnets = creation.choose_subnets(ipv4, ipv6, configs, self._choice(), several=able.several_subnets)
        return NetworkRecord(
            id=new_id(),
            name=request.name,
            driver=driver,
            created_ns=time.time_ns(),
            subnets=subnets,
            ipam_driver=ipam,
            ipam_options=request.ipam.options if request.ipam else None,
            options=options,
            labels=request.labels or {},
            ipv4=ipv4,
            ipv6=ipv6,
            config_from=request.config_from.network if request.config_from else "",
            internal=request.internal or bool(able.uplink_option and not options.get(able.uplink_option)),
            attachable=request.attachable,
        )

    async def remove(self, name_or_id: str) -> None:
        await self._up.wait()
        async with self._changing:
            network = self._resolve(name_or_id)
            record = network.record
            if record.predefined:
                raise Forbidden(f"{record.name} is a pre-defined network and cannot be removed")
            if any(other.record.config_from in (record.id, record.name) for other in self._networks.values()):
                raise Forbidden(f'error while removing network: configuration network "{record.name}" is in use')
            if network.in_use:
                users = ", ".join(
                    f'name:"{sandbox.container_name}" id:"{attached.endpoint.id[:12]}"'
                    for sandbox, attached in network.members.values()
                )
                raise Forbidden(
                    f"error while removing network: network {record.name} has active endpoints ({users or 'starting'})"
                )
            # Remove the network from the tables first, because no start may plan an endpoint on a network that is being
            # removed.
            del self._networks[record.id], self._by_name[record.name]
            try:
                driver = await self._drivers(record.driver)
                await driver.delete_network(network.spec)
                await self._store.commit([Delete("networks", record.id)])
            except BaseException as error:
                network.fault = f"its removal failed: {error}"  # the driver may have removed some of the network's objects
                self._networks[record.id] = self._by_name[record.name] = network
                raise
        self.names.drop(record.id)
        self._publish("destroy", record)

    async def prune(self, wanted: Callable[[NetworkRecord], bool]) -> Sequence[str]:
        """Remove the unused user-defined networks for which `wanted` is true. Returns their names."""
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        removed = []
        try:
            for record, in_use in self.records():
                if record.predefined or record.config_only or in_use or not wanted(record):
                    continue
                try:
                    await self.remove(record.id)
                except (Forbidden, NotFound):
                    continue  # meanwhile, the network was removed, or a container uses it
                except DriverError as error:
                    _log.warning("cannot prune network %s: %s", record.name, error)
                    continue
                removed.append(record.name)
        finally:
            self._pruning = False
        self._events.publish("network", "prune", "", {"reclaimed": "0"})
        return removed

    def _publish(self, action: str, record: NetworkRecord) -> None:
        self._events.publish("network", action, record.id, {"name": record.name, "type": record.driver})

    # --- containers -------------------------------------------------------------------------------------------------

    @staticmethod
    def sandbox_kind(network_mode: str) -> str:
        """The kind of sandbox: "new", "host", or "container:ID"."""
        if network_mode == defaults.HOST_NETWORK or network_mode.startswith("container:"):
            return network_mode
        return "new"

    def pin(
        self, network_mode: str, endpoints: Mapping[str, EndpointSettings | None]
    ) -> tuple[str, dict[str, EndpointSettings]]:
        """Called at create. Returns the mode and all requested networks, with abbreviated ids replaced by full ids (see
        `known`). As in Docker, the mode's network is included only if no other network is requested."""
        mode = self._pinned(defaults.DEFAULT_NETWORK if network_mode in ("", "default") else network_mode)
        if mode.startswith("container:"):
            return mode, {}
        found: dict[str, tuple[str, EndpointSettings]] = {}
        for name, given in endpoints.items():
            key = self._pinned(planning.network_of(name, given))
            record = self.known(key)
            settings = msgspec.structs.replace(given, network_id="") if given else EndpointSettings()
            found[record.id if record else key] = (key, settings)
        return mode, dict(found.values()) or {mode: EndpointSettings()}

    def _pinned(self, ref: str) -> str:
        """The full id if `ref` is the beginning of an id; otherwise `ref`, even if no such network exists yet."""
        if ref.startswith("container:") or self._known(ref):
            return ref
        try:
            return self._resolve(ref).record.id
        except NotFound:
            return ref

    def _available(self, endpoints: Mapping[str, EndpointSettings]) -> Mapping[str, EndpointSettings]:
        """The endpoints without the default bridge if daemon.json has `"bridge": "none"`, as in Docker."""
        if self._config.bridge_name:
            return endpoints
        return {name: settings for name, settings in endpoints.items() if name not in (defaults.DEFAULT_NETWORK, "default")}

    def _requests(
        self, network_mode: str, endpoints: Mapping[str, EndpointSettings], *, at_create: bool = False
    ) -> Sequence[planning.Request]:
        found: dict[str, planning.Request] = {}
        for name, settings in self._available(endpoints).items():
            record = self.known(name)
            if record is None:
                raise NotFound(f"network {name} not found")
            if record.config_only:
                raise Forbidden(planning.CONFIG_ONLY)
            found[record.id] = planning.Request(record, settings)
        planning.check_combination(network_mode, [request.record for request in found.values()])
        for request in found.values():
            planning.check_settings(request.record, request.settings, at_create=at_create)
        first = self.known(network_mode)
        return planning.order(found, first.id if first else "")

    def check(self, network_mode: str, endpoints: Mapping[str, EndpointSettings]) -> None:
        """Called at create: refuse requests that can never be started, like `plan`."""
        if not network_mode.startswith("container:"):
            planning.interface_names(self._requests(network_mode, endpoints, at_create=True))

    async def preview(
        self, network_mode: str, endpoints: Mapping[str, EndpointSettings], wanted: Sequence[Wanted]
    ) -> Preview:
        """The networks and published ports of a container that is not created, and all problems that its start would have
        now. Reserves nothing."""
        from .preview import Preview  # imported here, because only dry runs need it

        missing = [name for name in self._available(endpoints) if self.known(name) is None]
        problems = [f"network {name} not found" for name in missing]
        try:
            requests = self._requests(network_mode, {key: each for key, each in endpoints.items() if key not in missing})
        except OrlopError as error:
            return Preview(problems=[*problems, str(error)])
        found = await self._attachments.preview(requests, wanted, missing=bool(missing))
        found.problems[:0] = problems
        return found

    async def plan(
        self,
        container_id: str,
        container_name: str,
        hostname: str,
        network_mode: str,
        endpoints: Mapping[str, EndpointSettings],
        exposed: Collection[str],
        bindings: PortBindings,
        publish_all: bool,
        links: Sequence[LinkedPort] = (),
    ) -> Plan:
        """Reserve addresses and host ports, all or nothing. `endpoints`: all networks of the container, by network name
        or full id. `links`: the container's links on the default bridge."""
        await self._up.wait()
        requests = self._requests(network_mode, endpoints)
        for request in requests:
            await self._mend(self._networks[request.record.id])
        return await self._attachments.plan(
            Plan(container_id, container_name, network_mode, hostname), requests, exposed, bindings, publish_all, links
        )

    async def attach(self, plan: Plan, netns_path: str) -> Sandbox:
        """Connect the namespace to all of the plan's networks, or to none. The caller passes the plan's sockets to the
        monitor, and closes its copies."""
        return await self._attachments.attach(plan, netns_path)

    async def abandon(self, plan: Plan) -> None:
        """Free the reservations of an unused plan. May be called twice."""
        self._attachments.abandon(plan)

    async def release(self, sandbox: Sandbox) -> None:
        """A container has exited: remove its published ports and free its addresses. May be called twice. A driver's failure
        is only logged, because no caller can correct it."""
        await self._up.wait()
        await self._attachments.release(sandbox)

    async def connect(self, sandbox: Sandbox, name_or_id: str, settings: EndpointSettings, netns_path: str) -> Sandbox:
        """Connect a running container to one more network. Call `choose_gateway` afterwards."""
        await self._up.wait()
        network = self._resolve(name_or_id)
        record = network.record
        if record.config_only:
            raise Forbidden(planning.CONFIG_ONLY)
        planning.check_settings(record, settings)
        if self.sandbox_kind(sandbox.network_mode) != "new":
            raise InvalidParameter(planning.SHARED_NAMESPACE)
        await self._mend(network)
        return await self._attachments.connect(sandbox, planning.Request(record, settings), netns_path)

    async def choose_gateway(
        self, sandbox: Sandbox, wanted: Sequence[Wanted], netns_path: str, listeners: Listeners, *, leaving: str = ""
    ) -> Sandbox:
        """Choose the gateway of a running container again, after a `connect` or before a `disconnect` (`leaving`: the id of
        the network to leave). Moves the default route and the published ports to the new gateway. `wanted`: the ports to
        publish if none are published yet. After a failure, all changes are undone."""
        await self._up.wait()
        return await self._attachments.choose_gateway(sandbox, wanted, netns_path, listeners, leaving)

    async def keep_gateway(self, sandbox: Sandbox, netns_path: str, listeners: Listeners) -> None:
        """Called once for each running container after the daemon's start. Sets the gateway of its row again, because the
        previous daemon may have died while it changed the gateway."""
        await self._attachments.keep_gateway(sandbox, netns_path, listeners)

    def without(self, sandbox: Sandbox, name_or_id: str) -> Sandbox:
        """The sandbox after a `disconnect` from this network. Raises `Forbidden` if the container is not on this network."""
        return self._attachments.without(sandbox, self._resolve(name_or_id).record)

    async def disconnect(self, sandbox: Sandbox, name_or_id: str, netns_path: str) -> Sandbox:
        """Disconnect a running container from a network. Call `choose_gateway` first."""
        await self._up.wait()
        return await self._attachments.disconnect(sandbox, self._resolve(name_or_id).record, netns_path)

    def renamed(self, sandbox: Sandbox, name: str) -> Sandbox:
        """The sandbox with the container's new name. Pass it to `update_members` once the row is saved."""
        return self._attachments.renamed(sandbox, name)

    def update_members(self, sandbox: Sandbox) -> None:
        """Update the container's entries in its networks: members and DNS names."""
        self._attachments.update_members(sandbox)

    def host_gateways(self) -> tuple[str, ...]:
        """The addresses that replace `host-gateway` in `--add-host`; without a default bridge, there may be none."""
        bridge = self._by_name.get(defaults.DEFAULT_NETWORK)
        return files.host_gateways(self._config, bridge.record if bridge else None)

    def networks_of(self, sandbox: Sandbox) -> Sequence[NetworkRecord]:
        """The rows of the networks that a container is on."""
        found = (self._networks.get(attached.network.id) for attached in sandbox.endpoints)
        return [network.record for network in found if network is not None]

    def of_container(
        self,
        sandbox: Sandbox | None,
        *,
        endpoints: Mapping[str, EndpointSettings] | None = None,
        exposed: Collection[str] = (),
        running: bool = True,
    ) -> status.ContainerNetworks:
        """The networks of a container. If no endpoint is attached, these are the configured networks, and removed networks
        under their old names."""
        configured: dict[str, tuple[str, EndpointSettings]] = {}
        for name, settings in (endpoints or {}).items() if sandbox is None or not sandbox.endpoints else ():
            record = self.known(name)
            configured[record.name if record else name] = (record.id if record else "", settings)
        found = status.container_networks(sandbox, configured, exposed, running=running)
        # The name of the daemon's own bridge is not shown, as in Docker.
        if defaults.DEFAULT_NETWORK in found.endpoints and self._config.bridge not in ("", "none"):
            return msgspec.structs.replace(found, bridge=self._config.bridge)
        return found


def _checked(key: str, record: NetworkRecord, others: Iterable[NetworkRecord]) -> NetworkRecord:
    """The record, if it is valid and does not conflict with other networks. Otherwise raises an error with the reason."""
    if record.id != key:
        raise ValueError(f"row contains another id: {record.id[:80]!r}")
    if any(other.name == record.name for other in others):
        raise ValueError(f"name {record.name[:80]!r} is used by another network")
    if record.predefined != (record.name in PREDEFINED):
        raise ValueError(f"name {record.name[:80]!r} and the flag `predefined` contradict each other")
    Network(record)  # raises if the record's subnets are invalid
    return record


def _host_id(data_root: str) -> str:
    """An id of this host's daemon, from which its IPv6 prefix is derived."""
    try:
        with open("/etc/machine-id") as file:
            return file.read().strip() + data_root
    except OSError:
        return data_root
