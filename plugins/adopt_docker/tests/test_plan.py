"""The objects of a Docker root that are adopted, and the reasons why other objects are not adopted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from orlop_adopt_docker import adoption, containers, docker_root, files, report
from orlop_adopt_docker.plan import Plan
from orlop_engine.config import Config
from orlop_engine.containers.record import decode as decode_container
from orlop_engine.containers.state import Phase
from orlop_engine.images.records import ImageRecord
from orlop_engine.networks.records import decode as decode_network
from orlop_engine.volumes.record import decode as decode_volume
from orlop_sdk import InvalidParameter

CONTAINER, OTHER = "c" * 64, "d" * 64
pytestmark = pytest.mark.usefixtures("drivers")


def look(config: Config, root: Any) -> Plan:
    return trio.run(adoption.look, config, str(root.write()))


def stays(plan: Plan) -> dict[str, str]:
    return {f"{item.kind} {item.name}": item.text for item in plan.items if not item.adopted}


def row(plan: Plan, table: str, key: str) -> bytes:
    return next(each.value for each in plan.operations if (each.table, each.key) == (table, key))


def test_plan_adopts_images_containers_volumes_and_networks(config: Config, docker_root: Any) -> None:
    plan = look(config, docker_root)
    assert stays(plan) == {}
    assert not Path(config.data_root, "orlop.db").exists(), "a look changes nothing"
    record = decode_container(row(plan, "containers", CONTAINER))
    assert (record.name, record.image_id, record.args) == ("web", docker_root.image, ["sleep", "9"])
    assert record.state.phase is Phase.EXITED and record.state.exit_code == 3
    assert record.started_before and record.host_config.restart_policy.name == "always"
    settings = record.endpoints["front"]
    assert settings.ipam_config and settings.ipam_config.ipv4_address == "10.9.0.5" and settings.aliases == ["al"]
    (mount,) = record.mounts
    assert (mount.type, mount.name, mount.destination, mount.anonymous) == ("volume", "named", "/data", False)
    network = decode_network(row(plan, "networks", "e" * 64))
    assert [(each.subnet, each.gateway, each.chosen) for each in network.subnets] == [("10.9.0.0/24", "10.9.0.1", True)]
    assert network.labels == {"n": "1"}
    volume = decode_volume(row(plan, "volumes", "named"))
    assert volume.labels == {"a": "b"} and volume.mountpoint == f"{config.data_root}/volumes/named/_data"
    image = json.loads(row(plan, "images", docker_root.image))
    assert [(layer["blob"], layer["chain_id"]) for layer in image["layers"]] == [("", chain) for chain in docker_root.chains]
    assert ImageRecord.__struct_fields__ == tuple(image)
    assert row(plan, "images", "ref:docker.io/library/app:1").decode() == docker_root.image


Change = Callable[[Any], None]


def host(**values: Any) -> Change:
    return lambda root: root.host.update(values)


def network(**values: Any) -> Change:
    return lambda root: root.network.update(values)


REFUSED: dict[str, tuple[Change, str]] = {
    "quota": (host(StorageOpt={"size": "1G"}), "it has a quota"),
    "log driver": (host(LogConfig={"Type": "syslog", "Config": {}}), "its log driver cannot be used: logger: no log driver"),
    "runtime": (host(Runtime="kata"), "unknown or invalid runtime name: kata"),
    "user namespace": (host(UsernsMode="weird"), "invalid user namespace mode"),
    "isolation": (host(Isolation="hyperv"), "invalid isolation"),
    "swarm": (lambda root: root.config["Config"]["Labels"].update({"com.docker.swarm.task.id": "x"}), "a swarm's service"),
    "dead": (lambda root: root.config["State"].update(Dead=True), "its removal was not completed"),
    "image": (lambda root: root.config.update(Image="sha256:" + "0" * 64), "its image is not adopted"),
    "network": (host(NetworkMode="gone"), "its network gone is not adopted"),
    "volume": (lambda root: root.config["MountPoints"]["/data"].update(Name="gone"), "its volume gone is not adopted"),
    "shared": (host(NetworkMode=f"container:{OTHER}"), f"it shares a namespace with container {OTHER[:12]}"),
    "type": (lambda root: root.config.update(Args="no list"), "its configuration is not understood"),
    "name": (lambda root: root.config.update(Name="/no name"), "Invalid container name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unsupported_container_is_not_adopted_and_the_reason_is_reported(
    config: Config, docker_root: Any, case: str
) -> None:
    change, why = REFUSED[case]
    change(docker_root)
    if case == "shared":
        docker_root.config["NetworkSettings"] = {}
    found = stays(look(config, docker_root))
    name = docker_root.config["Name"].removeprefix("/")
    assert list(found) == [f"container {name}"] and why in found[f"container {name}"], found


def test_running_container_is_not_adopted(config: Config, docker_root: Any, monkeypatch: Any) -> None:
    """With live-restore, containers run without a daemon. A process in a cgroup with the container's ID shows that it
    runs."""
    docker_root.config["State"] |= {"Running": True, "Pid": 1}
    monkeypatch.setattr(containers, "_lives", lambda pid, container: (pid, container) == (1, CONTAINER))
    assert "it is still running (live-restore)" in stays(look(config, docker_root))["container web"]
    monkeypatch.undo()
    assert containers._lives(1, CONTAINER) is False and containers._lives(0, "") is False


@pytest.mark.parametrize(
    ("config_mac", "desired", "kept"),
    [("02:42::1", "", "02:42::1"), ("", "02:42::2", "02:42::2"), ("x", "02:42::2", "02:42::2")],
)
def test_adopted_container_keeps_a_mac_address_that_the_user_chose(
    config: Config, docker_root: Any, config_mac: str, desired: str, kept: str
) -> None:
    docker_root.config["Config"]["MacAddress"] = config_mac
    docker_root.config["NetworkSettings"]["Networks"]["front"] |= {"DesiredMacAddress": desired, "MacAddress": "02:42::3"}
    record = decode_container(row(look(config, docker_root), "containers", CONTAINER))
    assert record.endpoints["front"].mac_address == record.config.mac_address == kept


def test_adopted_container_keeps_the_volumes_that_dockerd_recorded(config: Config, docker_root: Any) -> None:
    """A volume of the image, a volume of another container (--volumes-from), --tmpfs and --mount."""
    anonymous = "a" * 64
    docker_root.config["Config"]["Volumes"] = {"/image": {}}
    docker_root.host |= {
        "Tmpfs": {"/t": "size=1m"},
        "VolumesFrom": ["gone"],
        "Mounts": [{"Type": "bind", "Source": "/nowhere", "Target": "/b", "ReadOnly": True}],
    }
    points = docker_root.config["MountPoints"]
    points["/image"] = {"Type": "volume", "Name": "named", "Driver": "local", "Destination": "/image", "RW": True}
    points["/other"] = {"Type": "volume", "Name": "named", "Driver": "local", "Destination": "/other", "RW": False}
    points["/b"] = {"Type": "bind", "Source": "/nowhere", "Destination": "/b", "RW": False, "Propagation": "rprivate"}
    record = decode_container(row(look(config, docker_root), "containers", CONTAINER))
    mounts = {mount.destination: mount for mount in record.mounts}
    assert {path: (mount.type, mount.name, mount.rw) for path, mount in mounts.items()} == {
        "/data": ("volume", "named", True),
        "/image": ("volume", "named", True),
        "/other": ("volume", "named", False),
        "/t": ("tmpfs", "", True),
        "/b": ("bind", "", False),
    }
    assert mounts["/b"].source == "/nowhere" and mounts["/data"].mode == "z"
    points["/image"]["Name"] = anonymous
    assert stays(look(config, docker_root))["container web"] == f"its volume {anonymous} is not adopted"


def test_container_that_shares_a_namespace_with_an_unadopted_container_is_not_adopted(
    config: Config, docker_root: Any
) -> None:
    """The second container shares the network namespace of the first container. The first container is not adopted, because
    it has a quota."""
    docker_root.host["StorageOpt"] = {"size": "1G"}
    docker_root.more[OTHER] = (
        {**docker_root.config, "ID": OTHER, "Name": "/beside", "NetworkSettings": {}},
        {**docker_root.host, "StorageOpt": None, "NetworkMode": f"container:{CONTAINER}"},
    )
    assert set(stays(look(config, docker_root))) == {"container web", "container beside"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (network(scope="swarm"), "it is a network of a swarm"),
        (network(ingress=True), "it is a network of a swarm"),
        (network(name="docker_gwbridge"), "it is a network of a swarm"),
        (network(networkType="macvlan"), 'its driver "macvlan" is not installed'),
        (network(ipamType="other"), 'its IPAM driver "other" is not supported'),
        (network(configOnly=True), "configuration-only networks are not supported"),
        (network(inDelete=True), "its removal was not completed"),
        (network(ipamV4Config="no JSON"), "it is not understood"),
    ],
)
def test_unsupported_network_and_its_containers_are_not_adopted(
    config: Config, docker_root: Any, change: Change, why: str
) -> None:
    change(docker_root)
    found = stays(look(config, docker_root))
    name = docker_root.network["name"]
    assert why in found[f"network {name}"] and found["container web"] == "its network front is not adopted"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"Driver": "rexray"}, 'its driver "rexray" is not installed'),
        ({"Options": {"size": "10G"}}, "its option size is not supported: there are no quotas"),
    ],
)
def test_unsupported_volume_and_its_containers_are_not_adopted(
    config: Config, docker_root: Any, change: dict[str, Any], why: str
) -> None:
    docker_root.volume.update(change)
    found = stays(look(config, docker_root))
    assert found == {"volume named": why, "container web": "its volume named is not adopted"}


def test_files_above_the_size_limit_and_symlinks_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    (tmp_path / "link").symlink_to("file")
    assert files.raw(str(tmp_path / "file"), 100) == b"x" * 100
    with pytest.raises(files.Unreadable, match="it is larger than"):
        files.raw(str(tmp_path / "file"), 99)
    with pytest.raises(files.Unreadable, match="cannot read"):
        files.raw(str(tmp_path / "link"))


def test_image_configuration_with_a_wrong_digest_is_not_adopted(config: Config, docker_root: Any) -> None:
    root = docker_root.write()
    (root / "image/overlay2/imagedb/content/sha256" / docker_root.image[7:]).write_bytes(docker_root.document + b" ")
    found = stays(trio.run(adoption.look, config, str(root)))
    assert found[f"image {docker_root.image}"] == "its configuration is damaged"


def test_container_whose_id_differs_from_its_directorys_name_is_not_adopted(config: Config, docker_root: Any) -> None:
    root = docker_root.write()
    (root / "containers" / CONTAINER).rename(root / "containers" / OTHER)
    found = stays(trio.run(adoption.look, config, str(root)))
    assert "names another container" in found[f"container {OTHER[:12]}"]


def test_volume_with_an_invalid_name_is_not_adopted(config: Config, docker_root: Any) -> None:
    docker_root.volume["Name"] = "x"
    root = docker_root.write()
    (root / "volumes" / ".hidden" / "_data").mkdir(parents=True)
    assert (
        "invalid characters for a local volume name" in stays(trio.run(adoption.look, config, str(root)))["volume .hidden"]
    )


def test_docker_root_on_another_file_system_is_refused(docker_root: Any) -> None:
    root = docker_root.write()
    if os.stat("/dev/shm").st_dev == os.stat(root).st_dev:
        pytest.skip("/dev/shm is on the file system of the tests")
    config = Config(data_root="/dev/shm/orlop-none/data")
    for work in (adoption.look, adoption.adopt):
        with pytest.raises(InvalidParameter, match="it is on another file system than the data root"):
            trio.run(work, config, str(root))
    assert not os.path.exists("/dev/shm/orlop-none")


def test_damaged_objects_are_not_adopted(config: Config, docker_root: Any) -> None:
    root = docker_root.write()
    chain = docker_root.chains[0][7:]
    (root / "image/overlay2/layerdb/sha256" / chain / "cache-id").write_text("../../etc")
    (root / "containers" / OTHER).mkdir()
    (root / "containers" / OTHER / "config.v2.json").write_text("[]")
    plan = trio.run(adoption.look, config, str(root))
    found = stays(plan)
    assert "is damaged" in found[f"layer sha256:{chain}"]
    assert "its layer" in found[f"image {docker_root.image}"]
    assert found["container web"] == "its image is not adopted"
    assert "cannot read" in found[f"container {OTHER[:12]}"]


def test_swarm_and_plugins_and_build_cache_are_reported_as_not_adopted(config: Config, docker_root: Any) -> None:
    root = docker_root.write()
    for path in ("swarm/docker-state.json", f"plugins/{OTHER}/config.json", "165536.165536/x", "buildkit/x"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(json.dumps({"plugin": {"Name": "vieux/sshfs:latest"}}))
    assert {kind for kind, name in (key.split(" ", 1) for key in stays(trio.run(adoption.look, config, str(root))))} == {
        *("swarm", "plugin", "root", "build")
    }


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda root: None, "there is no such directory"),
        (lambda root: root.mkdir(), "it is not the data root of a dockerd"),
        (lambda root: (root / "165536.165536").mkdir(parents=True), "it belongs to a dockerd with userns-remap"),
    ],
    ids=["missing", "empty", "remapped"],
)
def test_directories_without_a_docker_root_are_refused(
    config: Config, tmp_path: Path, prepare: Callable[[Path], None], why: str
) -> None:
    prepare(tmp_path / "x")
    with pytest.raises(InvalidParameter, match=why):
        docker_root.read(str(tmp_path / "x"))


def test_storage_drivers_other_than_overlay2_are_refused(config: Config, docker_root: Any, tmp_path: Path) -> None:
    root = docker_root.write()
    (root / "image/overlay2").rename(root / "image/btrfs")
    with pytest.raises(InvalidParameter, match="its storage driver is btrfs"):
        trio.run(adoption.look, config, str(root))
    vfs = Config(data_root=config.data_root, storage_driver="vfs")
    with pytest.raises(InvalidParameter, match="the storage driver is vfs, and only overlay2"):
        trio.run(adoption.look, vfs, str(root))


def test_report_contains_numbers_and_names_of_the_adopted_objects(config: Config, docker_root: Any) -> None:
    docker_root.host["StorageOpt"] = {"size": "1G"}
    plan = look(config, docker_root)
    assert report.sentence(plan) == "1 image, 0 containers, 1 volume, 1 network; not adopted: 1"
    first, second, *_ = report.table(plan).splitlines()
    assert first.split() == ["KIND", "NAME", "ADOPTED", "REMARK"]
    assert second.split(maxsplit=3) == [
        *("container", "web", "no"),
        "it has a quota (--storage-opt), which the storage driver does not support",
    ]
    document = report.document(plan, done=False)
    assert document["counts"]["container"] == {"adopted": 0, "left": 1} and document["done"] is False
