"""The engine's check finds each single inconsistency, and finds nothing in a sound state."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from orlop_engine.check.compare import compare
from orlop_engine.check.facts import Blob, Facts, Process, RunFacts, StorageFacts, VolumeFacts
from orlop_engine.containers.record import ContainerRecord, MountRecord
from orlop_engine.containers.state import Phase, State
from orlop_engine.images.layers import init_layer
from orlop_engine.images.records import ImageRecord, Layer
from orlop_engine.networks.records import AttachedEndpoint, NetworkRecord, Sandbox
from orlop_engine.networks.records import encode as encode_network
from orlop_engine.types.containers import ContainerConfig, EndpointSettings, HostConfig
from orlop_engine.volumes.record import VolumeRecord
from orlop_engine.volumes.record import encode as encode_volume
from orlop_kernel.store import TABLES, Examined
from orlop_monitor.protocol import ExitRecord, InitRecord, MonitorRecord
from orlop_monitor.protocol import Status as MonitorStatus
from orlop_sdk import Drift, Endpoint, EndpointState, NetworkSpec
from orlop_sdk.findings import ERROR, INFO, WARNING, Finding

RUNS, STOPPED, STRANGER = "a" * 64, "b" * 64, "c" * 64
IMAGE, BLOB, CHAIN = ("sha256:" + digit * 64 for digit in "123")
NETWORK = "4" * 64
Spoil = Callable[[Facts], Any]


def container(id: str, name: str, **more: Any) -> ContainerRecord:
    config, host = ContainerConfig(image="busybox"), HostConfig()
    return ContainerRecord(
        id=id,
        name=name,
        created_ns=1,
        args=["true"],
        config=config,
        host_config=host,
        image_id=IMAGE,
        storage_driver="overlay2",
        **more,
    )


def sandbox(network: str = NETWORK) -> Sandbox:
    endpoint = Endpoint(id="5" * 64, network=NetworkSpec(network, "front"), container_id=RUNS, netns="/proc/9/fd/3")
    attached = AttachedEndpoint(driver="bridge", endpoint=endpoint, state=EndpointState(), settings=EndpointSettings())
    return Sandbox(container_id=RUNS, container_name="runs", network_mode="bridge", endpoints=(attached,))


def put(facts: Facts, record: ContainerRecord) -> None:
    facts.database.rows["containers"][record.id] = msgspec.json.encode(record)


def running(**more: Any) -> ContainerRecord:
    state = State(Phase.RUNNING, pid=77, pid_start_time=5, started_ns=9)
    return container(RUNS, "runs", **{"state": state, "sandbox": sandbox(), **more})


def sound() -> Facts:
    """A sound daemon with a running container, a stopped container, an image, a volume and a network."""
    facts = Facts("/data", "/run/o", Examined({table: {} for table in TABLES}), serving=True, daemon_pid=1000)
    mount = MountRecord("volume", "/x", name="vol")
    put(facts, running())
    put(facts, container(STOPPED, "stopped", mounts=(mount,)))
    layer = Layer(BLOB, "", 10, "sha256:" + "9" * 64, CHAIN, 5)
    facts.database.rows["images"] = {
        IMAGE: msgspec.json.encode(ImageRecord(IMAGE, (layer,))),
        "ref:docker.io/library/busybox:latest": IMAGE.encode(),
    }
    facts.database.rows["networks"][NETWORK] = encode_network(
        NetworkRecord(id=NETWORK, name="front", driver="bridge", created_ns=1)
    )
    facts.database.rows["volumes"]["vol"] = encode_volume(VolumeRecord("vol", "local", 1))
    facts.directories = frozenset({RUNS, STOPPED})
    facts.runs = {RUNS[:32]: living()}
    facts.mount_points = frozenset({RUNS[:32]})
    facts.blobs = {IMAGE: Blob(100), BLOB: Blob(10)}
    facts.storage = StorageFacts("overlay2", frozenset({RUNS, STOPPED, CHAIN}))
    facts.volumes = {"local": VolumeFacts(frozenset({"vol"}))}
    facts.networks = {"bridge": ()}
    facts.mounts = ("/run/o/mnt", "/data/volumes/vol/_data", "/data/volumes")
    facts.cgroups = {RUNS: {"/cg/" + RUNS: 3}}
    facts.runtime_states = {RUNS: ("/run/o/runtime-runc/" + RUNS,)}
    facts.processes = (Process(1001, "orlop-zygote", 1000, 1), Process(55, "orlop-monitor", 1001, 1))
    return facts


def living() -> RunFacts:
    return RunFacts(
        monitor=MonitorRecord(55, 4, RUNS),
        init=InitRecord(77, 5, 9),
        alive=True,
        init_alive=True,
        status=MonitorStatus("running", 55, 77),
        sandbox_agrees=True,
    )


def adopted(facts: Facts) -> None:
    """A state that was adopted from a dockerd: only the image's unpacked files are stored, and a container has its own
    init layer."""
    layer = Layer("", "", 0, "sha256:" + "9" * 64, CHAIN, 5)
    facts.database.rows["images"][IMAGE] = msgspec.json.encode(ImageRecord(IMAGE, (layer,)))
    facts.blobs = {IMAGE: Blob(100)}
    facts.storage = StorageFacts("overlay2", frozenset({RUNS, STOPPED, CHAIN, f"init-{STOPPED}"}))


def found(spoil: Spoil) -> list[Finding]:
    facts = sound()
    spoil(facts)
    return compare(facts)


def test_check_finds_nothing_in_a_consistent_state() -> None:
    assert compare(sound()) == []
    facts = sound()
    facts.serving, facts.daemon_pid, facts.processes = False, 0, facts.processes[1:]
    assert compare(facts) == []


def with_run(**changes: Any) -> Spoil:
    return lambda facts: setattr(facts, "runs", {RUNS[:32]: replace(living(), **changes)})


def with_row(record: ContainerRecord) -> Spoil:
    return lambda facts: put(facts, record)


def with_(**values: Any) -> Spoil:
    def spoil(facts: Facts) -> None:
        for name, value in values.items():
            old = getattr(facts, name)
            setattr(facts, name, old | value if isinstance(old, frozenset | dict) else (*old, *value))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "severity", "thing", "text", "step"),
    [
        (with_run(alive=False), ERROR, "container runs", "is recorded as running, but its monitor is dead", ""),
        (with_run(status=None), ERROR, "container runs", "does not answer", ""),
        (with_run(status=MonitorStatus("ended", 55)), ERROR, "container runs", '"ended"', ""),
        (with_run(init=None), ERROR, "container runs", "the record of its init process is missing", ""),
        (with_run(init=InitRecord(78, 5, 9)), ERROR, "container runs", "its init process is 78, not 77", ""),
        (with_run(monitor=MonitorRecord(55, 4, STRANGER)), ERROR, "container runs", "belongs to container cccc", ""),
        (with_run(exit=ExitRecord(0, 1)), ERROR, "container runs", "has an exit record", ""),
        (with_run(sandbox_agrees=False), ERROR, "container runs", "network namespace", ""),
        (with_run(damaged=("init.json",)), ERROR, "container runs", "init.json in its run directory cannot be read", ""),
        (lambda facts: setattr(facts, "runs", {}), ERROR, "container runs", "has no run directory", ""),
        (with_(runs={STRANGER[:32]: RunFacts()}), WARNING, f"run {STRANGER[:32]}", "to no container", "remove-run"),
        (
            with_(runs={STRANGER[:32]: replace(living(), monitor=MonitorRecord(66, 1, STRANGER))}),
            ERROR,
            f"run {STRANGER[:32]}",
            "belongs to no container, and its monitor (pid 66) is alive",
            "remove-run",
        ),
        (with_(runs={STOPPED[:32]: RunFacts()}), WARNING, "container stopped", "has a run directory", "remove-run"),
        (with_(runs={STOPPED[:32]: RunFacts(init_alive=True)}), ERROR, "container stopped", "its init process is alive", ""),
        (with_(mount_points={STRANGER[:32]}), WARNING, f"mount point {STRANGER[:32]}", "no container", "remove-run"),
        (
            with_(mount_points={f"{STRANGER[:32]}.stage"}),
            WARNING,
            f"mount point {STRANGER[:32]}",
            "no container",
            "remove-run",
        ),
        (
            with_(processes=[Process(66, "orlop-monitor", 1, 0)]),
            ERROR,
            "process 66 (orlop-monitor)",
            "without a run",
            "kill",
        ),
        (with_(processes=[Process(9, "orlop-zygote", 1, 0)]), WARNING, "process 9 (orlop-zygote)", "earlier", "kill"),
        (with_(processes=[Process(9, "orlop-unpack", 1, 0)]), WARNING, "process 9 (orlop-unpack)", "orphaned", "kill"),
        (with_(cgroups={STOPPED: {"/cg/x": 2}}), ERROR, "cgroup /cg/x", "with 2 processes in it", "remove-cgroup"),
        (with_(cgroups={STRANGER: {"/cg/x": 0}}), WARNING, "cgroup /cg/x", "belongs to no container", "remove-cgroup"),
        (
            with_(runtime_states={STOPPED: ("/run/o/runtime-runc/x",)}),
            WARNING,
            "runtime state runtime-runc/x",
            "belongs to a container that is not running",
            "remove-tree",
        ),
        (with_(directories={STRANGER}), WARNING, f"directory containers/{STRANGER}", "no container", "discard-container"),
        (with_(directories={"notes"}), WARNING, "directory containers/notes", "no container", ""),
        (
            lambda facts: setattr(facts, "directories", frozenset({RUNS})),
            ERROR,
            "container stopped",
            f"has a row, but its directory containers/{STOPPED} and its log are missing",
            "make-directory",
        ),
        (
            lambda facts: setattr(facts, "storage", StorageFacts("overlay2", frozenset({RUNS, CHAIN}))),
            ERROR,
            "container stopped",
            "has no root file system",
            "",
        ),
        (
            lambda facts: setattr(facts, "storage", StorageFacts("overlay2", frozenset({RUNS, STOPPED}))),
            ERROR,
            f"image {IMAGE[:19]}",
            f"its layer {CHAIN[:19]} is not in storage",
            "",
        ),
        (lambda facts: setattr(facts, "storage", StorageFacts("o", failure="why")), ERROR, "storage driver o", "why", ""),
        (with_(blobs={BLOB: Blob(11)}), ERROR, f"image {IMAGE[:19]}", "has 11 bytes, not 10", "remove-blob"),
        (with_(blobs={BLOB: Blob(10, sound=False)}), ERROR, "content", "does not match its digest", "remove-blob"),
        (
            with_(blobs={"sha256:" + "7" * 64: Blob(1)}),
            WARNING,
            "blob sha256:777777777777",
            "belongs to no image",
            "collect",
        ),
        (lambda facts: facts.blobs.pop(BLOB), ERROR, f"image {IMAGE[:19]}", "is not in the content store", ""),
        (with_(odd_blobs=["x"]), WARNING, "file content/blobs/sha256/x", "is not a blob", ""),
        (
            with_(volumes={"local": VolumeFacts(frozenset({"vol", "new"}))}),
            WARNING,
            "volume new",
            "no database row",
            "adopt-volumes",
        ),
        (with_(volumes={"local": VolumeFacts()}), ERROR, "volume vol", "its data is missing", ""),
        (with_(volumes={"nfs": VolumeFacts(failure="why")}), ERROR, "volume driver nfs", "why", ""),
        (
            lambda facts: facts.database.rows["volumes"].clear(),
            ERROR,
            "container stopped",
            "volume vol, which has no row",
            "",
        ),
        (with_(mounts=["/run/o/mnt/x"]), WARNING, "mount /run/o/mnt/x", "left in the host's mount namespace", "unmount"),
        (
            with_(mounts=["/data/overlay2/x/merged"]),
            WARNING,
            "mount /data/overlay2/x/merged",
            "left in the host's mount namespace",
            "",
        ),
        (
            with_row(running(sandbox=sandbox("6" * 64))),
            ERROR,
            "container runs",
            "on the network front, which has no row",
            "",
        ),
        (
            with_row(container(STOPPED, "stopped", sandbox=sandbox())),
            WARNING,
            "container stopped",
            "has addresses",
            "release-network",
        ),
        (with_(networks={"bridge": (Drift("stray", "link x", "y"),)}), WARNING, "link x", "y (network bridge)", ""),
        (
            with_(networks={"bridge": (Drift("missing", "link x", "y", "make it"),)}),
            ERROR,
            "link x",
            "y (network bridge)",
            "repair-network",
        ),
        (with_(network_failures={"macvlan": "why"}), ERROR, "network driver macvlan", "why", ""),
        (
            lambda facts: facts.database.rows["images"].update({"ref:x": b"sha256:0"}),
            ERROR,
            "image name x",
            "which has no row",
            "",
        ),
    ],
)
def test_check_finds_each_single_inconsistency(spoil: Spoil, severity: str, thing: str, text: str, step: str) -> None:
    findings = [each for each in found(spoil) if each.object == thing and text in each.text]
    assert len(findings) == 1, found(spoil)
    (finding,) = findings
    assert finding.severity == severity
    assert (finding.remedy.step if finding.remedy else "") == step
    assert bool(finding.repair) == bool(step)


@pytest.mark.parametrize(
    ("table", "key", "row", "text"),
    [
        ("containers", "x", b'{"id": "\xff"}', "cannot be read"),
        ("containers", "x", json.dumps({"id": 7}).encode(), "cannot be read"),
        ("images", "ref:x", b"\xff", "cannot be read"),
        ("images", "resume:x", b"[]", "cannot be read"),
        ("networks", "x", b"\xa1\xff", "cannot be read"),
        ("volumes", "x", b"\xc1", "cannot be read"),
        ("volumes", "other", encode_volume(VolumeRecord("vol", "local", 1)), "contains another name: vol"),
    ],
)
def test_check_reports_an_invalid_row(table: str, key: str, row: bytes, text: str) -> None:
    findings = found(lambda facts: facts.database.rows[table].update({key: row}))
    assert [each.severity for each in findings if each.object == f"row {table}/{key}" and text in each.text] == [ERROR]


def test_check_reports_rows_with_the_same_name() -> None:
    findings = found(with_row(container("d" * 64, "runs")))
    assert "2 rows have this name" in [each.text for each in findings if each.object == "container name runs"]


def test_check_offers_no_removal_of_unknown_files_while_rows_may_be_missing() -> None:
    def spoil(facts: Facts) -> None:
        facts.database = facts.database._replace(damaged_files=("orlop.db.damaged-1",))
        facts.directories |= {STRANGER}
        facts.storage = StorageFacts("overlay2", facts.storage.keys | {STRANGER})  # type: ignore[operator]
        facts.blobs = {**facts.blobs, "sha256:" + "7" * 64: Blob(1)}

    findings = found(spoil)
    assert len(findings) == 3
    assert [each for each in findings if each.remedy] == []
    assert {each.severity for each in findings} == {WARNING}


def test_check_of_the_engine_reports_nothing_if_the_database_is_damaged() -> None:
    """If the database cannot be read, the check of the engine reports nothing."""

    def spoil(facts: Facts) -> None:
        facts.database = Examined({table: {} for table in TABLES}, damage=("malformed",))

    assert found(spoil) == []


def test_check_does_not_report_files_of_quarantined_rows() -> None:
    def spoil(facts: Facts) -> None:
        facts.database = facts.database._replace(quarantined=(("containers", STRANGER, "why"),))
        facts.directories |= {STRANGER}
        facts.storage = StorageFacts("overlay2", facts.storage.keys | {STRANGER})  # type: ignore[operator]

    assert found(spoil) == []


@pytest.mark.parametrize("chain", [CHAIN, ""])
def test_init_layer_whose_layer_below_exists_is_not_reported(chain: str) -> None:
    def spoil(facts: Facts) -> None:
        facts.storage = StorageFacts("overlay2", facts.storage.keys | {init_layer(chain)})  # type: ignore[operator]

    assert found(spoil) == []


def test_check_does_not_report_layers_that_containers_of_a_removed_image_use() -> None:
    def spoil(facts: Facts) -> None:
        facts.database.rows["images"].clear()
        facts.blobs = {}

    assert found(spoil) == []


def test_check_finds_nothing_in_state_that_was_adopted_from_dockerd() -> None:
    assert found(adopted) == []

    def orphaned(facts: Facts) -> None:
        adopted(facts)
        facts.storage = StorageFacts("overlay2", frozenset({RUNS, STOPPED, CHAIN, "init-" + "e" * 64}))

    (finding,) = found(orphaned)
    assert finding.object == "snapshot init-eeeeeeeeeeeeee"


def test_check_does_not_report_state_that_the_next_daemon_start_repairs() -> None:
    """A crash leaves such a state; while no daemon runs, no client sees the inconsistency."""

    def spoil(facts: Facts) -> None:
        facts.serving, facts.processes = False, ()
        facts.runs = {RUNS[:32]: replace(living(), alive=False, status=None), STRANGER[:32]: RunFacts()}
        facts.directories |= {STRANGER}
        facts.cgroups = {STRANGER: {"/cg/x": 1}}

    findings = found(spoil)
    assert {each.severity for each in findings} == {INFO}
    assert len(findings) == 4
