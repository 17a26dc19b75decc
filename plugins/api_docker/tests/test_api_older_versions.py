"""Requests of older API versions."""

from __future__ import annotations

from typing import Any

import pytest

from orlop_api_docker import container_mac
from orlop_api_docker.decode import decode_json
from orlop_api_docker.older_versions import (
    create_warnings,
    flat_read_only,
    settle_connect,
    settle_create,
    settle_endpoint,
    settle_exec,
    settle_update,
)
from orlop_engine.types.containers import (
    BindOptions,
    CreateRequest,
    EndpointSettings,
    ExecConfig,
    Healthcheck,
    HostConfig,
    MountSpec,
    NetworkingConfig,
    PortBinding,
    TmpfsOptions,
    UpdateRequest,
    VolumeOptions,
)
from orlop_sdk import InvalidParameter

NEWEST = (1, 55)


def host(version: tuple[int, int], cgroup_version: int = 1, **given: Any) -> HostConfig:
    request = CreateRequest(host_config=HostConfig(**given))
    settle_create(request, version, cgroup_version)
    assert request.host_config
    return request.host_config


def mount(version: tuple[int, int], **given: Any) -> MountSpec:
    (spec,) = host(version, mounts=[MountSpec(target="/m", **given)]).mounts or ()
    return spec


@pytest.mark.parametrize("version", [(1, 24), (1, 39)])
def test_ipc_mode_is_shareable_by_default_before_api_1_40(version: tuple[int, int]) -> None:
    """From API 1.40 on, the daemon's configuration decides."""
    assert host(version).ipc_mode == "shareable"
    assert host(version, ipc_mode="none").ipc_mode == "none"
    assert host((1, 40)).ipc_mode == host(NEWEST).ipc_mode == ""


def test_create_request_without_host_config_gets_the_defaults_of_its_version() -> None:
    request = decode_json(b'{"Image":"x","HostConfig":null}', CreateRequest)
    settle_create(request, (1, 24), 1)
    assert request.host_config and request.host_config.ipc_mode == "shareable"


def test_default_cgroup_namespace_is_the_hosts_before_api_1_41_on_cgroup_v1() -> None:
    assert host((1, 40)).cgroupns_mode == "host"
    assert host((1, 40), cgroup_version=2).cgroupns_mode == host((1, 41)).cgroupns_mode == ""
    assert host((1, 40), cgroupns_mode="private").cgroupns_mode == "private"


def test_auto_remove_is_ignored_before_api_1_25() -> None:
    assert not host((1, 24), auto_remove=True).auto_remove
    assert host((1, 25), auto_remove=True).auto_remove


def test_request_fields_of_newer_api_versions_are_ignored() -> None:
    given: dict[str, Any] = {"console_size": [3, 4], "annotations": {"a": "b"}}
    assert host((1, 41), **given).console_size == [0, 0]
    assert host((1, 42), **given).console_size == [3, 4]
    assert not host((1, 42), **given).annotations
    assert host((1, 43), **given).annotations == {"a": "b"}


def test_start_interval_of_a_health_check_is_ignored_before_api_1_44() -> None:
    for version, interval in (((1, 43), 0), ((1, 44), 5)):
        request = CreateRequest(healthcheck=Healthcheck(start_interval=5))
        settle_create(request, version, 1)
        assert request.healthcheck and request.healthcheck.start_interval == interval


def test_create_request_with_several_networks_is_refused_before_api_1_44() -> None:
    def create(version: tuple[int, int], *names: str) -> None:
        endpoints = NetworkingConfig(endpoints_config=dict.fromkeys(names))
        settle_create(CreateRequest(networking_config=endpoints), version, 1)

    with pytest.raises(InvalidParameter, match=r"^Container cannot be created with multiple network endpoints: a, b$"):
        create((1, 43), "b", "a")
    create((1, 43), "a")
    create((1, 44), "a", "b")


def test_gateway_priorities_are_ignored_before_api_1_48() -> None:
    for version, priority in (((1, 47), 0), ((1, 48), 7)):
        settings = EndpointSettings(gw_priority=7)
        settle_endpoint(settings, version)
        assert settings.gw_priority == priority
        request = CreateRequest(networking_config=NetworkingConfig(endpoints_config={"a": EndpointSettings(gw_priority=7)}))
        settle_create(request, version, 1)
        assert request.networking_config and request.networking_config.endpoints_config
        assert request.networking_config.endpoints_config["a"] == EndpointSettings(gw_priority=priority)


def test_bind_options_of_newer_api_versions_are_ignored() -> None:
    def options(version: tuple[int, int]) -> BindOptions | None:
        return mount(version, type="bind", bind_options=BindOptions(non_recursive=True, create_mountpoint=True)).bind_options

    assert options((1, 39)) == BindOptions()
    assert options((1, 41)) == BindOptions(non_recursive=True)
    assert options((1, 42)) == BindOptions(non_recursive=True, create_mountpoint=True)


def test_options_for_another_mount_type_are_ignored_before_api_1_42() -> None:
    both: dict[str, Any] = {"volume_options": VolumeOptions(no_copy=True), "tmpfs_options": TmpfsOptions(mode=5)}
    old = mount((1, 41), type="tmpfs", **both)
    assert (old.volume_options, old.tmpfs_options) == (None, both["tmpfs_options"])
    old = mount((1, 41), type="volume", **both)
    assert (old.volume_options, old.tmpfs_options) == (both["volume_options"], None)
    new = mount((1, 42), type="tmpfs", **both)
    assert new.volume_options == both["volume_options"]  # the field stays, and is refused later


@pytest.mark.parametrize(
    ("since", "given", "words"),
    [
        ((1, 44), {"type": "bind", "bind_options": BindOptions(read_only_force_recursive=True)}, "ReadOnlyForceRecursive"),
        ((1, 45), {"type": "volume", "volume_options": VolumeOptions(subpath="x")}, "VolumeOptions.Subpath"),
        ((1, 48), {"type": "image"}, 'Mount type "Image"'),
    ],
)
def test_mount_options_of_newer_api_versions_are_refused(since: tuple[int, int], given: dict[str, Any], words: str) -> None:
    """The refused request has the API version before the version that introduced the option."""
    with pytest.raises(InvalidParameter, match=rf"{words} needs API v1\.{since[1]} or newer"):
        mount((since[0], since[1] - 1), **given)
    mount(since, **given)


def test_read_only_bind_mounts_are_recursive_since_api_1_44() -> None:
    assert flat_read_only((1, 43)) and not flat_read_only((1, 44))


def test_pids_limit_can_be_updated_since_api_1_40() -> None:
    for version, limit in (((1, 39), None), ((1, 40), 5)):
        request = UpdateRequest(pids_limit=5)
        settle_update(request, version)
        assert request.pids_limit == limit


def test_console_size_of_an_exec_is_ignored_before_api_1_42() -> None:
    for version, size in (((1, 41), None), ((1, 42), [3, 4])):
        config = ExecConfig(console_size=[3, 4])
        settle_exec(config, version)
        assert config.console_size == size


def test_mac_address_outside_the_network_settings_is_refused_since_api_1_52() -> None:
    request = CreateRequest(mac_address="02:42:ac:11:00:05")
    assert container_mac.settle(request, (1, 51)) == [container_mac.DEPRECATED]
    with pytest.raises(InvalidParameter, match=r"MacAddress is not supported by API v1\.52 and newer: set MacAddress of a"):
        container_mac.settle(CreateRequest(mac_address="02:42:ac:11:00:05"), (1, 52))


def test_mac_address_in_a_request_to_connect_a_network_is_ignored_before_api_1_54() -> None:
    for version, address in (((1, 53), ""), ((1, 54), "02:42:ac:11:00:05")):
        settings = EndpointSettings(mac_address="02:42:ac:11:00:05")
        settle_connect(settings, version)
        assert settings.mac_address == address


def test_blkio_limits_of_devices_can_be_updated_since_api_1_55() -> None:
    for version, kept in (((1, 54), None), ((1, 55), [])):
        request = UpdateRequest(blkio_device_read_bps=[], blkio_weight_device=[], blkio_device_write_iops=[])
        settle_update(request, version)
        assert request.blkio_device_read_bps == request.blkio_weight_device == request.blkio_device_write_iops == kept


def test_published_port_without_a_host_port_causes_a_warning_since_api_1_52() -> None:
    ports = {"80/tcp": [], "81/tcp": [PortBinding(host_port="8081")], "82/tcp": None}
    request = CreateRequest(host_config=HostConfig(port_bindings=ports))
    assert create_warnings(request, (1, 51)) == []
    assert [text.split(" has ")[0] for text in create_warnings(request, (1, 52))] == [
        "Published port 80/tcp",
        "Published port 82/tcp",
    ]
    assert create_warnings(CreateRequest(), (1, 52)) == []
