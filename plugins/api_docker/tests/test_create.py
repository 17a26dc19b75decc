"""Create requests, compared with the recorded results of a real dockerd: merged, refused, or accepted with a warning."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from engine_fixture import engine_fixture

from orlop_api_docker import container_mac
from orlop_api_docker import containers as routes
from orlop_engine.containers import validate, volumes
from orlop_engine.containers.configuration import merge_config
from orlop_engine.containers.container import Container
from orlop_engine.containers.mount_spec import parse_spec
from orlop_engine.images.catalog import Catalog
from orlop_engine.images.records import ImageRecord
from orlop_engine.images.references import parse
from orlop_engine.restrictions import Restrictions
from orlop_engine.spec.host import Host
from orlop_engine.types.containers import (
    ContainerConfig,
    CreateRequest,
    DriverConfig,
    EndpointSettings,
    Healthcheck,
    HostConfig,
    MountSpec,
    NetworkingConfig,
    PortBinding,
    VolumeOptions,
)
from orlop_engine.types.images import ImageConfig, ImageDocument
from orlop_engine.volumes.record import VolumeRecord
from orlop_sdk import DriverError, Forbidden, InvalidParameter

FACTS = Host(
    cgroup_version=1, cpus=2, memory=1 << 30, hugetlb_sizes=(), thermal_paths=(), time_namespace=True, apparmor=False
)
E, C = ["img-entry"], ["img-cmd"]


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "both", "only_entrypoint", "only_cmd", "neither"),
    [
        (None, None, (E, C), (E, None), (None, C), (None, None)),
        (None, [], (E, C), (E, None), (None, C), (None, None)),
        (None, ["y"], (E, ["y"]), (E, ["y"]), (None, ["y"]), (None, ["y"])),
        ([], None, ([], C), ([], None), ([], C), ([], None)),
        ([], [], ([], C), ([], None), ([], C), ([], None)),
        ([], ["y"], ([], ["y"]), ([], ["y"]), ([], ["y"]), ([], ["y"])),
        ([""], None, (None, None), (None, None), (None, None), (None, None)),
        ([""], [], (None, []), (None, []), (None, []), (None, [])),
        ([""], ["y"], (None, ["y"]), (None, ["y"]), (None, ["y"]), (None, ["y"])),
        (["x"], None, (["x"], None), (["x"], None), (["x"], None), (["x"], None)),
        (["x"], [], (["x"], []), (["x"], []), (["x"], []), (["x"], [])),
        (["x"], ["y"], (["x"], ["y"]), (["x"], ["y"]), (["x"], ["y"]), (["x"], ["y"])),
    ],
)
def test_entrypoint_and_cmd_are_merged_like_in_docker(entrypoint, cmd, both, only_entrypoint, only_cmd, neither):
    given = ContainerConfig(entrypoint=entrypoint, cmd=cmd)
    for expected, image in (
        (both, ImageConfig(entrypoint=E, cmd=C)),
        (only_entrypoint, ImageConfig(entrypoint=E)),
        (only_cmd, ImageConfig(cmd=C)),
        (neither, ImageConfig()),
    ):
        merged = merge_config(given, image, "f" * 64)
        assert (merged.entrypoint, merged.cmd) == expected


@pytest.mark.parametrize(
    ("given", "image", "merged"),
    [
        ("/a/b/", "", "/a/b"),
        ("//", "/img", "/"),
        ("", "/img//x/../y/.", "/img/y"),
        ("", "relative/", "relative/"),
        ("", "", ""),
    ],
)
def test_working_directory_is_normalized(given, image, merged):
    made = merge_config(ContainerConfig(working_dir=given), ImageConfig(working_dir=image), "f" * 64)
    assert made.working_dir == merged


# --- refused or accepted with a warning --------------------------------------------------------------------------------


def check(config: dict[str, Any], host: dict[str, Any]) -> list[str]:
    return validate.check(ContainerConfig(**config), HostConfig(**host), FACTS)


OTHERS = {"network_mode": "container:x"}
PORTS = {"80/tcp": [PortBinding(host_port="8080")]}


@pytest.mark.parametrize("field", ["interval", "timeout", "start_period", "start_interval"])
def test_health_check_durations_below_one_millisecond_are_refused(field):
    name = "".join(word.capitalize() for word in field.split("_"))
    for ns in (-1, 1, 999_999):
        with pytest.raises(InvalidParameter, match=rf"^{name} in Healthcheck cannot be less than 1ms$"):
            check({"healthcheck": Healthcheck(**{field: ns})}, {})
    assert check({"healthcheck": Healthcheck(**{field: 1_000_000})}, {}) == []


@pytest.mark.parametrize(
    ("config", "host", "why"),
    [
        ({"hostname": "h"}, OTHERS, "hostname and the network mode"),
        ({}, {**OTHERS, "links": ["a:b"]}, "container type network can't be used with links. This would result in"),
        ({}, {**OTHERS, "dns": ["1.1.1.1"]}, "dns and the network mode"),
        ({}, {**OTHERS, "extra_hosts": ["a:1.1.1.1"]}, "custom host-to-IP mapping and the network mode"),
        ({}, {**OTHERS, "port_bindings": PORTS}, "port publishing and the container type network mode"),
        ({}, {**OTHERS, "publish_all_ports": True}, "port publishing and the container type network mode"),
        ({"exposed_ports": {"80/tcp": {}}}, OTHERS, "port exposing and the container type network mode"),
        ({}, {"network_mode": "host", "links": ["a:b"]}, "host type networking can't be used with links. This would"),
        ({"hostname": "h"}, {"uts_mode": "host"}, "hostname and the UTS mode"),
    ],
)
def test_conflicting_options_are_refused(config, host, why):
    with pytest.raises(InvalidParameter) as caught:
        check(config, host)
    assert str(caught.value).startswith(f"conflicting options: {why}")


@pytest.mark.parametrize("mode", ["container:", "container"])
def test_network_mode_container_without_a_name_is_refused(mode):
    with pytest.raises(InvalidParameter, match=r"^Invalid network mode: invalid container format container:<name|id>$"):
        check({}, {"network_mode": mode})


def test_ports_published_in_network_mode_host_are_discarded_with_a_warning():
    warning = "Published ports are discarded when using host network mode"
    assert check({}, {"network_mode": "host", "port_bindings": PORTS}) == [warning]
    assert check({}, {"network_mode": "host", "port_bindings": {"80/tcp": None}}) == [warning]
    assert check({}, {"network_mode": "host", "publish_all_ports": True}) == []
    assert check({}, {"network_mode": "none", "port_bindings": PORTS}) == []


@pytest.mark.parametrize(
    "entry", ["a:host-gateway", "a=host-gateway", "a:1.1.1.1", "a: 1.1.1.1", "a:::1", "a:[::1]", "a=::1", "a:::ffff:1.2.3.4"]
)
def test_valid_extra_hosts_are_accepted(entry):
    assert check({}, {"extra_hosts": [entry]}) == []


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("a:notanip", 'invalid IP address in add-host: "notanip"'),
        ("a=notanip", 'invalid IP address in add-host: "notanip"'),
        ("a:", 'invalid IP address in add-host: ""'),
        ("a:1.2.3.04", 'invalid IP address in add-host: "1.2.3.04"'),
        ("a:1.1.1.1:5", 'invalid IP address in add-host: "1.1.1.1:5"'),
        ("a:[::1", 'invalid IP address in add-host: "[::1"'),
        ("a:fe80::1%eth0", 'invalid IP address in add-host: "fe80::1%eth0"'),
        ("a:[host-gateway]", 'invalid IP address in add-host: "[host-gateway]"'),
        ("a:1.1.1.1\n6.6.6.6 b", 'invalid IP address in add-host: "1.1.1.1\n6.6.6.6 b"'),
        ("a", 'bad format for add-host: "a"'),
        (":1.1.1.1", 'bad format for add-host: ":1.1.1.1"'),
    ],
)
def test_invalid_extra_hosts_are_refused(entry, why):
    with pytest.raises(InvalidParameter) as caught:
        check({}, {"extra_hosts": [entry]})
    assert str(caught.value) == why


@pytest.mark.parametrize("server", ["zzz", "", "[::1]", "1.1.1.1\nsearch evil"])
def test_invalid_name_servers_are_refused(server):
    with pytest.raises(InvalidParameter, match=r"^bad nameserver address "):
        check({}, {"dns": [server]})


def test_valid_name_servers_are_accepted():
    assert check({}, {"dns": ["1.1.1.1", "::1", "fe80::1%eth0"]}) == []


# --- the container-wide MAC address ---------------------------------------------------------------------------------

A, B = "02:42:ac:11:00:99", "02:42:ac:11:00:98"
NO_MATCH = "the container-wide MAC address must match the endpoint-specific MAC address for the main network"
NOT_MAIN = "if a container-wide MAC address is supplied, HostConfig.NetworkMode must match the identity of a network"


def asks(mode: str = "", mac: str = "", **endpoints: str) -> CreateRequest:
    settings: dict[str, EndpointSettings | None] = {
        name: EndpointSettings(mac_address=address) if address else None for name, address in endpoints.items()
    }
    networking = NetworkingConfig(endpoints_config=settings) if endpoints else None
    return CreateRequest(mac_address=mac, host_config=HostConfig(network_mode=mode), networking_config=networking)


def macs(request: CreateRequest) -> dict[str, str]:
    given = (request.networking_config and request.networking_config.endpoints_config) or {}
    return {name: settings.mac_address if settings else "" for name, settings in given.items()}


@pytest.mark.parametrize(
    ("request_", "version", "wide", "endpoints"),
    [
        (asks(mac=A), (1, 45), A, {}),
        (asks("net", A, net=""), (1, 45), A, {"net": A}),
        (asks("default", A, bridge=A), (1, 45), A, {"bridge": A}),
        (asks("", A, default=""), (1, 45), A, {"default": A}),
        (asks("", A, bridge="", net=B), (1, 45), A, {"bridge": A, "net": B}),
        (asks("net", "", net=B), (1, 45), B, {"net": B}),
        (asks("net", "", net="", other=B), (1, 45), "", {"net": "", "other": B}),
        (asks("host", A), (1, 45), "", {}),
        (asks("none", A, none=B), (1, 45), "", {"none": B}),
        (asks("container:x", A), (1, 44), "", {}),
        (asks("", A, net=B), (1, 43), A, {"net": A}),
        (asks("net", "", net=B), (1, 43), "", {"net": ""}),
    ],
)
def test_mac_address_outside_the_network_settings_is_set_for_the_main_network(request_, version, wide, endpoints):
    warned = [container_mac.DEPRECATED] if request_.mac_address and version >= (1, 44) else []
    assert container_mac.settle(request_, version) == warned
    assert (request_.mac_address or "", macs(request_)) == (wide, endpoints)


@pytest.mark.parametrize(
    ("request_", "version", "why"),
    [
        (asks("", A, bridge=B), (1, 44), NO_MATCH),
        (asks("net", A.upper(), net=A), (1, 44), NO_MATCH),
        (asks("", A, net=""), (1, 44), NOT_MAIN),
        (asks("host", A), (1, 43), "conflicting options: mac-address and the network mode"),
        (asks("none", A), (1, 43), "conflicting options: mac-address and the network mode"),
        (asks("container:x", A), (1, 43), "conflicting options: mac-address and the network mode"),
    ],
)
def test_conflicting_mac_addresses_are_refused(request_, version, why):
    with pytest.raises(InvalidParameter) as caught:
        container_mac.settle(request_, version)
    assert str(caught.value).startswith(why)


# --- volumes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/data", "/data/", "//data", "/x/../data"])
def test_volume_options_apply_when_the_target_path_is_not_normalized(target):
    made: list[tuple[Any, ...]] = []

    async def ensure(name: str, driver: str, options: dict[str, str], labels: dict[str, str]) -> tuple[VolumeRecord, bool]:
        made.append((name, driver, options, labels))
        return VolumeRecord(name, driver or "local", 0, labels=labels), True

    options = VolumeOptions(
        labels={"a": "1"}, driver_config=DriverConfig(name="local", options={"type": "tmpfs", "device": "tmpfs"})
    )
    spec = MountSpec(type="volume", source="v", target=target, volume_options=options)
    service = cast("Any", SimpleNamespace(ensure=ensure))
    trio.run(volumes.ensure, service, (parse_spec(spec),), HostConfig(mounts=[spec]), [], {"role": "x"})
    assert made == [("v", "local", {"type": "tmpfs", "device": "tmpfs"}, {"a": "1", "role": "x"})]


def test_anonymous_volume_gets_the_requested_labels():
    made: list[dict[str, str]] = []

    async def ensure(name: str, driver: str, options: dict[str, str], labels: dict[str, str]) -> tuple[VolumeRecord, bool]:
        made.append(labels)
        return VolumeRecord(name, driver or "local", 0, labels=labels), True

    spec = MountSpec(type="volume", target="/data", volume_options=VolumeOptions(labels={"a": "1"}))
    service = cast("Any", SimpleNamespace(ensure=ensure))
    trio.run(volumes.ensure, service, (parse_spec(spec),), HostConfig(mounts=[spec]), [])
    assert made == [{"com.docker.volume.anonymous": "", "a": "1"}]


def test_policy_can_refuse_an_existing_volume_because_of_its_labels():
    """Volumes are created one after another. Meanwhile, another client may create a volume with one of the names."""
    made: list[str] = []

    async def ensure(name: str, *_: Any) -> tuple[VolumeRecord, bool]:
        labels = {"team": "db"} if name == "theirs" else {}
        return VolumeRecord(name, "local", 0, labels=labels), name != "mine"

    def vet(volume: VolumeRecord, anonymous: bool) -> None:
        assert anonymous == (volume.name not in ("mine", "theirs", "after"))
        if volume.labels:
            raise Forbidden(volume.name)

    names = ("mine", "", "theirs", "after")
    planned = tuple(parse_spec(MountSpec(type="volume", source=name, target="/d")) for name in names)
    service = cast("Any", SimpleNamespace(ensure=ensure))
    with pytest.raises(Forbidden, match="theirs"):
        trio.run(volumes.ensure, service, planned, HostConfig(), made, {}, vet)
    assert made == [planned[1].name, "theirs"]  # these volumes are discarded


def test_change_counter_of_the_catalog_grows_with_each_change_of_an_image_name() -> None:
    catalog = Catalog()
    catalog.put(ImageRecord("sha256:1", ()), ImageDocument(), b"")
    seen = {catalog.changes}
    catalog.point(parse("x:1"), "sha256:1")
    seen.add(catalog.changes)
    catalog.drop(parse("x:1"))
    seen.add(catalog.changes)
    assert len(seen) == 3


def test_image_policy_is_applied_to_the_image_to_which_the_name_was_resolved(tmp_path: Path) -> None:
    """The name may move to another image between the check of the request and the creation."""
    judged = []

    def may_use(image: Any) -> bool:
        judged.append(image.id)
        return False

    policy: Any = SimpleNamespace(may_use=may_use, denied=lambda what: Forbidden(f"{what} is not allowed"))

    async def main() -> None:
        async with engine_fixture(tmp_path, None) as home:
            before = [*home.index.by_id]
            home.engine.images = SimpleNamespace(
                changes=0, resolve=lambda reference, newest: SimpleNamespace(id="sha256:1", architecture="")
            )
            with pytest.raises(Forbidden, match="image x is not allowed"):
                await home.containers.create("new", "", CreateRequest(image="x"), images=policy)
            assert [*home.index.by_id] == before

    trio.run(main)
    assert judged == ["sha256:1"]


# --- the body of a start --------------------------------------------------------------------------------------------


class _Pieces:
    """A request body that arrives in these pieces. The handler reads chunked bodies and bodies with a length alike."""

    def __init__(self, pieces: tuple[bytes, ...]) -> None:
        self._left = iter(pieces)

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._left:
            return piece
        raise StopAsyncIteration


def start(*pieces: bytes, fails: bool = False, restrictions: Restrictions | None = None) -> int:
    """The number of containers that the request has started. If the start `fails`, a host port is in use."""
    started: list[Container] = []
    container = cast("Container", object())

    async def start_container(*args: Any) -> None:
        if fails:
            raise DriverError("address already in use")
        started.append(args[0])

    async def run(operation: Any) -> None:
        await operation()

    async def port_holder(error: BaseException) -> str:
        return f"port 80 is held by {error}"

    containers = SimpleNamespace(start=start_container, get=lambda name: container, port_holder=port_holder)
    own = routes._Routes(cast("Any", SimpleNamespace(containers=containers, run=run)), cast("Any", None))
    call = SimpleNamespace(
        request=SimpleNamespace(body=_Pieces(pieces)), params={"id": "x"}, arg=lambda name: "", restrictions=restrictions
    )
    trio.run(own.start, cast("Any", call))
    return len(started)


@pytest.mark.parametrize("pieces", [(), (b"{}",), (b"null",), (b"{}  ", b"  ")])
def test_start_request_with_an_empty_body_of_an_old_client_is_accepted(pieces):
    assert start(*pieces) == 1


def test_error_of_a_start_names_the_holder_of_a_port_only_without_restrictions() -> None:
    with pytest.raises(DriverError, match=r"^address already in use \(port 80 is held by address already in use\)$"):
        start(fails=True)
    with pytest.raises(DriverError, match=r"^address already in use$"):
        start(fails=True, restrictions=Restrictions(hide_host=True))


@pytest.mark.parametrize("pieces", [(b'{"a":11}',), (b'{"Binds"', b":[]}")])
def test_start_request_with_a_body_is_refused(pieces):
    with pytest.raises(InvalidParameter, match=r"^starting container with non-empty request body was deprecated since API"):
        start(*pieces)
