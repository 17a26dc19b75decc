"""JSON of containers in inspect and list, and the reuse of encoded answers."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from msgspec import UNSET

from orlop_api_docker.container_views import ContainerViews, _form
from orlop_api_docker.responses import encode
from orlop_api_docker.wire import containers as wire
from orlop_api_docker.wire.container_list import human_duration, status_text
from orlop_api_docker.wire.container_networks import network_settings, networks_in_list, published_ports
from orlop_engine.containers.container import Container
from orlop_engine.containers.details import Details, FilePaths, Sizes, Summary
from orlop_engine.containers.health import Health, Result
from orlop_engine.containers.record import ContainerRecord, ImageManifest, MountRecord
from orlop_engine.containers.state import Phase, State
from orlop_engine.networks.status import ContainerNetworks, EndpointStatus
from orlop_engine.types.containers import ContainerConfig, EndpointSettings, Healthcheck, HostConfig
from orlop_sdk import PublishedPort

RUNNING = State(Phase.RUNNING, started_ns=1)
NETWORKS = ContainerNetworks(
    None,
    {"bridge": EndpointStatus("feedbeef", EndpointSettings(aliases=["al"]))},
    {"80/tcp": [PublishedPort(container_port=80, protocol="tcp", host_ip="0.0.0.0", host_port=8080)], "53/udp": []},
)


def made(**fields: Any) -> Container:
    given: dict[str, Any] = {
        "id": "1" * 64,
        "name": "web",
        "created_ns": 1_500_000_000,
        "args": ["sh", "-c", "a b"],
        "config": ContainerConfig(image="busybox", hostname="host"),
        "host_config": HostConfig(network_mode="bridge"),
        "image_id": "sha256:1",
        "storage_driver": "overlay2",
        "state": RUNNING,
    }
    return Container(ContainerRecord(**{**given, **fields}))


class FakeContainers:
    """The part of the engine's facade that `ContainerViews` uses. `shown` counts the calls of `summary` and `describe`."""

    def __init__(self, *containers: Container) -> None:
        self.all = list(containers)
        self.shown = self.images_revision = 0
        self.names: dict[str, list[str]] = {}
        self.links: list[str] | None = None

    def select(self, **_: object) -> list[Container]:
        return self.all

    def linked_names(self) -> dict[str, list[str]]:
        return self.names

    def summary(self, container: Container) -> Summary:
        self.shown += 1
        return Summary(container.record, "busybox", NETWORKS, [])

    async def describe(self, container: Container) -> Details:
        self.shown += 1
        await trio.lowlevel.checkpoint()
        return details(container, links=self.links)

    async def sizes(self, container: Container) -> Sizes:
        await trio.lowlevel.checkpoint()
        return Sizes(0, 5)

    async def measure(self, containers: Sequence[Container]) -> dict[str, Sizes]:
        return {container.id: await self.sizes(container) for container in containers}


def details(container: Container, *, links: list[str] | None = None, networks: ContainerNetworks = NETWORKS) -> Details:
    return Details(
        record=container.record,
        networks=networks,
        mounts=[],
        storage={"UpperDir": "/u"},
        files=FilePaths(),
        log_path="",
        links=links,
        app_armor_profile="",
        execs=sorted(container.execs),
        health=container.health,
    )


def views(*containers: Container) -> tuple[ContainerViews, FakeContainers]:
    fake = FakeContainers(*containers)
    return ContainerViews(cast("Any", SimpleNamespace(containers=fake))), fake


def listed(shown: ContainerViews, *, size: bool = False, **more: bool) -> Any:
    async def main() -> bytes:
        return await shown.listed(everything=True, limit=0, filters={}, size=size, **more)

    return json.loads(trio.run(main))


def inspected(shown: ContainerViews, container: Container, version: tuple[int, int] = (1, 52), *, size: bool = False) -> Any:
    async def main() -> bytes:
        return await shown.inspect(container, version, size=size)

    return json.loads(trio.run(main))


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_list_item_is_encoded_once_per_revision_of_the_container() -> None:
    container = made()
    shown, fake = views(container)
    assert [item["Names"] for item in listed(shown) + listed(shown)] == [["/web"]] * 2
    assert fake.shown == 1
    with container.publish() as draft:
        draft.name = "db"
    assert listed(shown)[0]["Names"] == ["/db"]
    assert fake.shown == 2


def test_list_item_is_encoded_again_when_names_of_images_change() -> None:
    shown, fake = views(made())
    listed(shown)
    fake.images_revision += 1
    listed(shown)
    listed(shown)
    assert fake.shown == 2


def test_list_item_with_link_names_is_encoded_again_for_each_request() -> None:
    container = made()
    shown, fake = views(container)
    fake.names = {container.id: ["app/front"]}
    assert listed(shown)[0]["Names"] == ["/web", "/app/front"]
    fake.names = {}
    assert listed(shown)[0]["Names"] == ["/web"]


def test_inspect_answer_is_encoded_once_per_revision_of_the_container_and_version_range() -> None:
    container = made()
    shown, fake = views(container)
    for version in ((1, 24), (1, 44), (1, 45), (1, 47), (1, 48), (1, 51), (1, 52), (1, 55)):
        inspected(shown, container, version)
    assert fake.shown == 4
    container.execs.add("e")
    container.touch()
    assert inspected(shown, container)["ExecIDs"] == ["e"]
    assert fake.shown == 5


def test_inspect_answer_with_sizes_or_links_is_encoded_again_for_each_request() -> None:
    container = made()
    shown, fake = views(container)
    assert inspected(shown, container, size=True)["SizeRootFs"] == 5
    assert "SizeRootFs" not in inspected(shown, container)
    linking = made(host_config=HostConfig(network_mode="bridge", links=["a:b"]))
    for fake.links in (["/a:/web/b"], ["/renamed:/web/b"]):
        assert inspected(shown, linking)["HostConfig"]["Links"] == fake.links
    assert linking.record.host_config.links == ["a:b"]


def test_inspect_answer_about_a_container_that_changes_meanwhile_shows_the_new_revision() -> None:
    """The container changes while the storage driver is being called."""
    container = made()
    shown, fake = views(container)

    @contextmanager
    def changed_meanwhile() -> Any:
        original = fake.describe

        async def describe(found: Container) -> Details:
            with container.publish() as draft:
                draft.name = "db"
            return await original(found)

        cast("Any", fake).describe = describe
        yield
        cast("Any", fake).describe = original

    with changed_meanwhile():
        assert inspected(shown, container)["Name"] == "/db"
    assert inspected(shown, container)["Name"] == "/db"
    assert fake.shown == 1


def test_encoded_answers_about_a_removed_container_are_dropped() -> None:
    container = made()
    shown, fake = views(container)
    listed(shown)
    inspected(shown, container)
    assert len(shown._kept) == 1
    fake.all.clear()
    del container
    gc.collect()
    assert not shown._kept


def test_each_range_of_api_versions_has_one_form_of_the_inspect_answer() -> None:
    versions = ((1, 24), (1, 44), (1, 45), (1, 47), (1, 48), (1, 51), (1, 52), (1, 55))
    assert [_form(version) for version in versions] == ["1.24"] * 2 + ["1.45"] * 2 + ["1.48"] * 2 + ["1.52"] * 2


def test_inspect_answer_contains_the_image_manifest_since_api_1_48() -> None:
    plain, container = made(), made(image_manifest=ImageManifest("sha256:m", 5, "a/b", "linux", "arm", "v7"))
    expected = {
        "mediaType": "a/b",
        "digest": "sha256:m",
        "size": 5,
        "platform": {"architecture": "arm", "os": "linux", "variant": "v7"},
    }
    shown, _ = views(container, plain)
    assert inspected(shown, container, (1, 48))["ImageManifestDescriptor"] == expected
    assert "ImageManifestDescriptor" not in inspected(shown, container, (1, 47))
    assert "ImageManifestDescriptor" not in inspected(shown, plain, (1, 48))
    one, other = listed(shown, manifests=True)
    assert one["ImageManifestDescriptor"] == expected and "ImageManifestDescriptor" not in other
    assert not any("ImageManifestDescriptor" in item for item in listed(shown))


# --- list items -----------------------------------------------------------------------------------------------------


def test_list_item_describes_a_container() -> None:
    shown, _ = views(made(mounts=(MountRecord(type="bind", destination="/b", source="/src"),)))
    (item,) = listed(shown, size=True)
    assert "SizeRw" not in item and item["SizeRootFs"] == 5
    assert item["Status"].startswith("Up ") and item["State"] == "running"
    assert (item["Command"], item["Created"]) == ("sh -c 'a b'", 1)
    assert item["NetworkSettings"]["Networks"]["bridge"]["Aliases"] is None
    (item,) = listed(shown)
    assert "SizeRootFs" not in item


def test_list_item_contains_health_only_on_request() -> None:
    container = made()
    shown, _ = views(container)
    assert "Health" not in listed(shown)[0]
    assert listed(shown, health=True)[0]["Health"] == {"Status": "none", "FailingStreak": 0}
    container.health = cast("Any", SimpleNamespace(status="unhealthy", streak=3))
    (item,) = listed(shown, health=True)
    assert item["Health"] == {"Status": "unhealthy", "FailingStreak": 3}
    assert item["Status"].endswith("(unhealthy)")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (180, "3 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (3 * 86400, "3 days"),
        (20 * 86400, "2 weeks"),
        (70 * 86400, "2 months"),
        (3 * 365 * 86400, "3 years"),
    ],
)
def test_durations_have_the_same_words_as_in_docker(seconds: float, words: str) -> None:
    assert human_duration(seconds) == words


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (State(), "Created"),
        (RUNNING, "Up 5 seconds"),
        (State(Phase.PAUSED, started_ns=1), "Up 5 seconds (Paused)"),
        (State(Phase.RESTARTING, started_ns=1, finished_ns=1, exit_code=3), "Restarting (3) 5 seconds ago"),
        (State(Phase.EXITED, started_ns=1, finished_ns=1, exit_code=137), "Exited (137) 5 seconds ago"),
        (State(Phase.DEAD), "Dead"),
    ],
)
def test_status_texts_are_the_same_as_in_docker(state: State, text: str) -> None:
    assert status_text(state, False, "", 5_000_000_001) == text


# --- networks and mounts --------------------------------------------------------------------------------------------


def test_list_item_contains_published_and_exposed_ports() -> None:
    assert published_ports(NETWORKS) == [
        {"PrivatePort": 53, "Type": "udp"},
        {"IP": "0.0.0.0", "PublicPort": 8080, "PrivatePort": 80, "Type": "tcp"},
    ]
    assert network_settings(NETWORKS)["Ports"] == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "53/udp": None}


def test_networks_of_a_stopped_container_have_no_addresses_in_api_answers() -> None:
    settings = network_settings(NETWORKS)
    assert settings["SandboxID"] == settings["SandboxKey"] == settings["IPAddress"] == ""
    assert settings["IPPrefixLen"] == 0
    assert settings["Networks"]["bridge"]["NetworkID"] == "feedbeef"
    assert settings["Networks"]["bridge"]["Aliases"] == ["al"]
    assert networks_in_list(NETWORKS)["bridge"]["Aliases"] is None


def test_network_aliases_include_the_short_container_id_before_api_1_45() -> None:
    both = {name: EndpointStatus("", EndpointSettings(aliases=["al", "host"])) for name in ("mine", "bridge")}
    networks = ContainerNetworks(None, both, {})
    for version, expected in (((1, 44), ["al", "host", "1" * 12]), ((1, 45), ["al", "host"])):
        found = wire.container_view(details(made(), networks=networks), version).network_settings["Networks"]
        assert found["mine"]["Aliases"] == expected
        assert found["bridge"]["Aliases"] == ["al", "host"]


def test_fields_of_the_default_bridge_are_missing_in_network_settings_since_api_1_52() -> None:
    shown = wire.container_view(details(made()), (1, 52))
    assert shown.log_lost is UNSET
    lost = wire.container_view(details(made(log_lost=2, log_lost_before=3, log_lost_reason="full")), (1, 52)).log_lost
    assert json.loads(encode(lost)) == {"Count": 5, "Reason": "full"}
    assert set(shown.network_settings) == {"SandboxID", "SandboxKey", "Ports", "Networks"}
    assert "Bridge" in wire.container_view(details(made()), (1, 51)).network_settings


def test_api_answers_contain_the_mount_points_of_a_container() -> None:
    volume = MountRecord(type="volume", destination="/v", name="vol", source="/volumes/vol", driver="local")
    bind = MountRecord(type="bind", destination="/b", source="/src", rw=False)
    first, second = json.loads(encode(wire.mount_points([volume, bind])))
    assert (first["Name"], first["Source"], first["Driver"], first["RW"]) == ("vol", "/volumes/vol", "local", True)
    assert (second["Source"], second["RW"]) == ("/src", False) and "Name" not in second and "Driver" not in second


def test_inspect_shows_health() -> None:
    container = made()
    container.health = Health(Healthcheck())
    container.health.judge(Result(1, 2, 3, "bad"))
    shown = wire.container_view(details(container), (1, 52)).state.health
    assert shown == {
        "Status": "starting",
        "FailingStreak": 1,
        "Log": [
            {
                "Start": "1970-01-01T00:00:00.000000001Z",
                "End": "1970-01-01T00:00:00.000000002Z",
                "ExitCode": 3,
                "Output": "bad",
            }
        ],
    }
