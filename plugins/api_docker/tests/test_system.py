"""System routes: ping, version, info, events, disk usage."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from msgspec import UNSET
from trio.testing import MockClock

import orlop_kernel.config as kernel
from orlop_api_docker import info_parts
from orlop_api_docker.disk_usage import disk_usage
from orlop_api_docker.system import event_media_type, event_pieces, parse_moment
from orlop_engine.config import AddressPool, Config, RuntimeEntry
from orlop_engine.containers.details import Sizes
from orlop_engine.containers.listing import prunable
from orlop_engine.containers.state import Phase
from orlop_engine.images.details import ListedImage
from orlop_engine.images.names import Names
from orlop_engine.images.records import Image, ImageRecord
from orlop_engine.system import host
from orlop_engine.system.identity import daemon_id
from orlop_engine.system.login import registry_host
from orlop_engine.system.programs import Programs, parse_init_version
from orlop_engine.system.usage import ContainerUsage, DiskUsageService, Measured
from orlop_engine.types.images import ImageDocument
from orlop_engine.volumes.record import VolumeRecord, VolumeUsage
from orlop_kernel.events import EventBus
from orlop_sdk import Command, InvalidParameter

NEWEST = (1, 55)
NO_LIMITS = host.Cgroups("1", False, True, True, True, True, True, True, True)


def test_daemon_id_is_created_once(tmp_path: Path) -> None:
    daemon_id.cache_clear()
    made = daemon_id(str(tmp_path))
    assert len(made) == 36
    daemon_id.cache_clear()
    assert daemon_id(str(tmp_path)) == made


def test_damaged_daemon_id_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "engine-id").write_bytes(b"\xff\x00")
    daemon_id.cache_clear()
    assert len(daemon_id(str(tmp_path))) == 36


def test_os_release_and_meminfo_are_parsed() -> None:
    text = '# c\nNAME="Debian \\"GNU\\""\nPRETTY_NAME=\'Debian 13\'\nVERSION_ID=13\nBAD\n'
    assert host.parse_os_release(text) == {"NAME": 'Debian "GNU"', "PRETTY_NAME": "Debian 13", "VERSION_ID": "13"}
    assert host.parse_meminfo("MemTotal:       2048 kB\nMemFree: 1 kB\n") == 2 << 20
    assert host.parse_meminfo("") == 0


def test_features_of_cgroup_v1_and_v2_are_detected(tmp_path: Path) -> None:
    old, new = tmp_path / "v1", tmp_path / "v2"
    (old / "memory").mkdir(parents=True)
    (old / "memory" / "memory.limit_in_bytes").touch()
    new.mkdir()
    (new / "cgroup.controllers").write_text("cpu memory pids\n")
    first, second = host.cgroups(str(old)), host.cgroups(str(new))
    assert (first.version, first.memory, first.swap, first.pids) == ("1", True, False, False)
    assert (second.version, second.memory, second.cpuset, second.pids, second.oom_kill_disable) == (
        "2",
        True,
        False,
        True,
        False,
    )


def test_host_facts_contain_the_processors_and_memory_of_this_machine() -> None:
    facts = host.facts()
    assert facts.cpus >= 1
    assert facts.memory > 1 << 20
    assert host.architecture("x86_64") == "amd64"
    assert host.open_files() > 2


def test_info_shows_registries_in_the_same_form_as_docker() -> None:
    config = Config(registry_mirrors=("https://m.example/x",), insecure_registries=("r.example:5000", "10.0.0.0/8"))
    found = info_parts.registry(config, NEWEST)
    assert found.allow_nondistributable_artifacts_hostnames is UNSET
    assert info_parts.registry(config, (1, 48)).allow_nondistributable_artifacts_hostnames is None
    assert found.mirrors == ["https://m.example/x/"]
    assert found.insecure_registry_cidrs == ["::1/128", "127.0.0.0/8", "10.0.0.0/8"]
    assert found.index_configs["docker.io"].official
    assert not found.index_configs["r.example:5000"].secure


def test_info_shows_runtimes_and_address_pools_and_security_options() -> None:
    config = Config(
        runtimes={"crun": RuntimeEntry(path="/usr/bin/crun", runtime_args=("-x",))},
        default_address_pools=(AddressPool(base="10.0.0.0/8", size=24),),
        no_new_privileges=True,
    )
    shown = info_parts.runtimes(config, {"crun": {"features": "{}"}}, NEWEST)
    assert {name: item.path for name, item in shown.items()} == {"runc": "runc", "crun": "/usr/bin/crun"}
    assert {name: item.status for name, item in shown.items()} == {"runc": None, "crun": {"features": "{}"}}
    assert info_parts.runtimes(config, {"crun": {"features": "{}"}}, (1, 43))["crun"].status is None
    pools = info_parts.address_pools(config)
    assert isinstance(pools, list)
    assert pools[0].base == "10.0.0.0/8"
    assert info_parts.address_pools(Config()) is UNSET
    for version, options in (
        (NEWEST, ["name=seccomp,profile=builtin", "name=no-new-privileges"]),
        ((1, 24), ["seccomp", "no-new-privileges"]),
    ):
        assert info_parts.security_options(config, NO_LIMITS, True, version=version) == options


def test_info_warns_of_ignored_keys_and_unprotected_addresses() -> None:
    config = Config(daemon=kernel.Config(hosts=("tcp://127.0.0.1:1", "unix:///x")), ip_forward_no_drop=True)
    found = info_parts.warnings(config, NO_LIMITS, False, ["kata"])
    assert found is not None
    text = "\n".join(found)
    assert "WARNING: No memory limit support" in text
    assert "WARNING: IPv4 forwarding is disabled" in text
    assert "API is accessible on http://127.0.0.1:1 without encryption.\n         Access to the remote API" in text
    assert "unix:///x" not in text
    assert "ip-forward-no-drop is ignored" in text
    assert "runtime kata is not installed" in text
    hanging = info_parts.warnings(Config(), host.cgroups(), True, [], ["volume driver x did not answer"])
    assert "WARNING: volume driver x did not answer" in (hanging or [])
    unverified = Config(daemon=kernel.Config(hosts=("tcp://0.0.0.0:2",), tlsverify=False))
    encrypted = "\n".join(info_parts.warnings(unverified, NO_LIMITS, True, []) or [])
    assert "API is accessible on https://0.0.0.0:2 without TLS client verification." in encrypted
    assert "accessible" not in "\n".join(
        info_parts.warnings(Config(daemon=kernel.Config(hosts=("tcp://0.0.0.0:2",), tls=True)), NO_LIMITS, True, []) or []
    )
    everything = host.Cgroups("2", True, True, True, True, True, True, True, False)
    assert info_parts.warnings(Config(), everything, True, []) is None


@pytest.mark.parametrize(
    ("output", "version", "commit"),
    [
        ("runc version 1.1.15+ds1\ncommit: 1.1.15+ds1-2\nspec: 1.2.0\ngo: go1.24\n", "1.1.15+ds1", "1.1.15+ds1-2"),
        ("crun version 1.21\ncommit: 10269840\nrundir: /run/crun\nspec: 1.0.0\n+SYSTEMD +SELINUX\n", "1.21", "10269840"),
        ("", None, None),
    ],
)
def test_runtime_versions_are_parsed(output: str, version: str | None, commit: str | None) -> None:
    found = info_parts.parse_runtime_version(output)
    assert (found.get("version"), found.get("commit")) == (version, commit)


@pytest.mark.parametrize(
    ("output", "commit"),
    [("tini version 0.19.0 - git.de40ad0\n", "de40ad0"), ("tini version 0.19.0\n", "0.19.0"), ("catatonit 0.2\n", "")],
)
def test_init_version_is_parsed(output: str, commit: str) -> None:
    assert parse_init_version(output) == commit


def test_version_of_a_program_is_cached_except_after_a_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Told:
        def version(self) -> Command:
            return Command((str(tmp_path / "runtime"), "--version"))

        def features(self) -> Command:
            return Command((str(tmp_path / "runtime"), "features"))

    async def main() -> None:
        programs, runtime = Programs(), cast(Any, Told())
        assert await programs.runtime_version(runtime) == ""
        assert "failed: " in caplog.text
        (tmp_path / "runtime").write_text(f'#!/bin/sh\necho x >> {tmp_path}/asked\necho "{{ }}"\n')
        (tmp_path / "runtime").chmod(0o755)
        assert await programs.runtime_version(runtime) == "{ }\n"
        assert await programs.runtime_version(runtime) == "{ }\n"
        assert await programs.runtime_status(cast(Any, object())) == {}

    trio.run(main)
    assert (tmp_path / "asked").read_text() == "x\n"


def test_clients_that_request_the_disk_usage_at_the_same_time_share_one_measurement() -> None:
    walks: list[str] = []

    class Volumes:
        async def with_usage(self) -> list[object]:
            walks.append("began")
            await trio.sleep(1)
            walks.append("ended")
            return []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            measuring = DiskUsageService(*cast(Any, (None, None, Volumes(), nursery)))

            async def ask(seconds: float) -> None:
                with trio.move_on_after(seconds):
                    assert (await measuring.measure({"volume"})).volumes == []

            async with trio.open_nursery() as clients:
                clients.start_soon(ask, 0.5)  # one client disconnects; the other still gets its answer
                clients.start_soon(ask, 9)
            assert walks == ["began", "ended"]
            await ask(0.5)
            assert walks == ["began", "ended", "began"]  # the last client left, so the walk was cancelled
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, {"old", "new"}),
        ({"until": ["1h"]}, {"old"}),
        ({"until": ["1970-01-01"]}, set()),
        ({"label": ["keep"]}, {"old"}),
        ({"label": ["keep=no"]}, set()),
        ({"label!": ["keep"]}, {"new"}),
        ({"label": ["keep"], "until": ["3h"]}, set()),
    ],
)
def test_prune_selects_stopped_containers_by_age_and_label(filters: dict[str, list[str]], names: set[str]) -> None:
    """A prune must not remove containers that do not match, because it removes data."""

    def made(name: str, age: float, running: bool = False, **labels: str) -> Any:
        state, config = SimpleNamespace(running=running), SimpleNamespace(labels=labels or None)
        return SimpleNamespace(
            name=name,
            record=SimpleNamespace(created_ns=int((1e6 - age) * 1e9), state=state, removing=False, config=config),
        )

    items = [made("old", 7200, keep="yes"), made("new", 60), made("runs", 7200, running=True)]
    accept = prunable(filters, 1e6)
    assert {item.name for item in items if accept(item)} == names


def test_prune_with_unknown_filters_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="invalid filter 'status'"):
        prunable({"status": ["exited"]}, 1e6)
    with pytest.raises(InvalidParameter, match="more than one until filter specified"):
        prunable({"until": ["1h", "2h"]}, 1e6)


def test_expected_commit_is_shown_before_api_1_49() -> None:
    assert info_parts.commit("abc", (1, 48)) == {"ID": "abc", "Expected": "abc"}
    assert info_parts.commit("abc", (1, 49)) == {"ID": "abc"}


def test_registry_host_of_a_login_is_normalized() -> None:
    assert registry_host("https://index.docker.io/v1/") == "docker.io"
    assert registry_host("") == "docker.io"
    assert registry_host("https://r.example:5000/v2/") == "r.example:5000"
    assert registry_host("r.example") == "r.example"


def test_times_in_query_parameters_are_parsed() -> None:
    assert parse_moment("", "since") is parse_moment("-1", "since") is None
    assert parse_moment("0", "until") == 0
    assert parse_moment("+5", "since") == 5_000_000_000
    assert parse_moment("-5", "since") == -5_000_000_000
    assert parse_moment("1700000000", "since") == 1_700_000_000_000_000_000
    assert parse_moment("1700000000.5", "since") == 1_700_000_000_500_000_000
    assert parse_moment("1.000000001", "since") == 1_000_000_001
    for text in ("2024-01-01", "10m", "--5", "1.x", " 1"):
        with pytest.raises(InvalidParameter, match="invalid until"):
            parse_moment(text, "until")


def test_media_type_of_events_depends_on_the_accept_header_and_the_api_version() -> None:
    assert event_media_type("", (1, 51)) == "application/json"
    assert event_media_type("*/*", (1, 52)) == "application/jsonl"
    assert event_media_type("application/x-ndjson", (1, 24)) == "application/x-ndjson"
    assert event_media_type("application/json-seq", (1, 51)) == "application/json-seq"


def test_form_of_event_records_depends_on_the_api_version() -> None:
    """The records for older clients have the field `status`. From API 1.52 on, clients may get a JSON text sequence."""

    async def records(version: tuple[int, int], sequence: bool) -> list[bytes]:
        bus = EventBus()
        bus.publish("image", "create", "sha256:0", {"name": "x"})
        bus.publish("container", "start", "abc", {"image": "x"})
        pieces: AsyncIterator[bytes] = event_pieces(bus.subscribe(1, time.time_ns()), version, sequence)
        return [piece async for piece in pieces]

    (old,) = trio.run(records, (1, 45), False)
    assert json.loads(old)["status"] == "start"
    both = trio.run(records, (1, 52), True)
    assert [json.loads(piece.removeprefix(b"\x1e"))["Action"] for piece in both] == ["create", "start"]
    assert all(piece.startswith(b"\x1e{") and piece.endswith(b"}\n") for piece in both)
    assert "status" not in json.loads(both[1][1:])


def test_closed_event_stream_ends_its_subscription() -> None:
    async def main() -> int:
        bus = EventBus()
        pieces: Any = event_pieces(bus.subscribe(), (1, 51), False)
        bus.publish("container", "start", "abc", {})
        await pieces.__anext__()
        before = bus.listeners
        await pieces.aclose()
        assert before == 1
        return bus.listeners

    assert trio.run(main) == 0


def test_daemon_id_is_stable_when_it_cannot_be_stored(tmp_path: Path) -> None:
    root = str(tmp_path / "gone")
    made = daemon_id(root)
    assert made == daemon_id(root)
    assert len(made) == 36


VIEWS = cast(Any, SimpleNamespace(items=lambda containers, sizes: [b"{}" for _ in containers]))


def _measured() -> Measured:
    image = Image(ImageRecord("sha256:1", ()), ImageDocument(), b"", Names())
    images = [ListedImage(image, [], [], 70, 50, 1), ListedImage(image, [], [], 60, 50, 0)]
    phases = (Phase.RUNNING, Phase.EXITED, Phase.CREATED)
    found = [
        SimpleNamespace(id=phase, record=SimpleNamespace(state=SimpleNamespace(running=phase is Phase.RUNNING)))
        for phase in phases
    ]
    sizes = (Sizes(3, 3), Sizes(4, 5), None)
    containers = [ContainerUsage(cast(Any, each), size) for each, size in zip(found, sizes, strict=True)]
    volumes = [VolumeUsage(VolumeRecord("a", "local", 0), 2, 5), VolumeUsage(VolumeRecord("b", "local", 0), 0, 6)]
    return Measured(80, images, containers, [*volumes, VolumeUsage(VolumeRecord("c", "x", 0), 0, -1)])


def test_disk_usage_contains_lists_of_objects_before_api_1_52() -> None:
    everything = {"image", "container", "volume", "build-cache"}
    old = disk_usage(_measured(), VIEWS, everything, (1, 41), verbose=False)
    assert (old.layers_size, old.builder_size, old.build_cache) == (80, 0, [])
    assert [volume.usage_data.size for volume in cast(Any, old.volumes)] == [5, 6, -1]
    assert disk_usage(_measured(), VIEWS, everything, (1, 51), verbose=False).image_usage is UNSET
    only = disk_usage(Measured(), VIEWS, {"build-cache"}, (1, 51), verbose=False)
    assert (only.images, only.containers, only.volumes, only.build_cache) == (None, None, None, [])


def test_disk_usage_contains_sums_by_type_since_api_1_52() -> None:
    everything = {"image", "container", "volume", "build-cache"}
    short = cast(Any, disk_usage(_measured(), VIEWS, everything, (1, 52), verbose=False))
    sums = [
        (usage.active_count, usage.total_count, usage.reclaimable, usage.total_size)
        for usage in (short.image_usage, short.container_usage, short.volume_usage, short.build_cache_usage)
    ]
    assert sums == [(1, 2, 60, 80), (1, 3, 4, 7), (1, 3, 6, 11), (0, 0, 0, 0)]
    assert short.image_usage.items is UNSET
    assert short.layers_size == 80, "the lists are there as well"
    long = cast(Any, disk_usage(_measured(), VIEWS, everything, (1, 52), verbose=True))
    assert (long.layers_size, long.images, len(long.image_usage.items)) == (UNSET, UNSET, 2)
    only = cast(Any, disk_usage(Measured(), VIEWS, {"build-cache"}, (1, 52), verbose=False))
    assert (only.image_usage, only.container_usage, only.volume_usage) == (UNSET, UNSET, UNSET)
