"""The volume service on the fake driver: names, filters, removal, crash recovery."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio

from orlop_engine.containers.record import MountRecord
from orlop_engine.containers.volumes import ensure
from orlop_engine.types.containers import HostConfig
from orlop_engine.volumes.record import VolumeRecord, encode
from orlop_engine.volumes.service import Volumes
from orlop_kernel.store import Put, Store
from orlop_sdk import Conflict, DriverError, InvalidParameter, NotFound, Unavailable, VolumeContext, VolumeDriver
from orlop_sdk.testing.volume import Factory as VolumeFactory
from orlop_sdk.testing.volume import FakeVolume, VolumeSuite


class TestFakeVolume(VolumeSuite):
    @pytest.fixture
    def factory(self) -> VolumeFactory:
        return FakeVolume


class World:
    """The service, its driver and the events it published."""

    def __init__(self, root: Path, store: Store) -> None:
        (root / "volumes").mkdir(exist_ok=True)
        self.driver: VolumeDriver = FakeVolume(VolumeContext(str(root / "volumes")))
        self.events: list[tuple[str, str, str, dict[str, str]]] = []
        self.used: dict[str, list[str]] = {}
        self.store = store
        self.volumes = Volumes(store, self, self._find, lambda: self.used)  # type: ignore[arg-type]  # an EventBus's publish is all it needs

    async def _find(self, name: str, made_with: str) -> VolumeDriver:
        if name not in ("local", "fake"):
            raise NotFound(f'cannot find volume driver "{name}": installed volume drivers are: local')
        return self.driver

    def publish(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        self.events.append((type, action, actor_id, dict(attributes)))


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    """Run a test. Each call uses the store and the directory of the previous call, so two calls simulate a restart."""

    def runner(test: Callable[[World], Awaitable[None]]) -> None:
        async def main() -> None:
            async with Store.open(str(tmp_path / "orlop.db")) as store:
                world = World(tmp_path, store)
                await world.volumes.load()
                await test(world)

        trio.run(main)

    return runner


Run = Callable[[Callable[[World], Awaitable[None]]], None]


def test_created_volume_exists_after_a_restart(run: Run) -> None:
    async def before(world: World) -> None:
        record = await world.volumes.create("data", "", {"note": "n"}, {"a": "b"})
        assert world.volumes.get("data").labels == {"a": "b"}
        assert await world.volumes.create("data", "local", {}, {"other": "label"}) == record
        assert world.events == [("volume", "create", "data", {"driver": "local"})]
        assert record.mountpoint == world.volumes.mountpoint("data") != ""

    async def after(world: World) -> None:
        assert world.volumes.get("data").options == {"note": "n"}
        (mount,) = await world.volumes.mounts("data")
        assert mount.source == world.volumes.mountpoint("data")

    run(before)
    run(after)


def test_container_uses_an_existing_volume_of_any_driver(run: Run) -> None:
    """As in dockerd, the request fails only if it names another driver (moby volume/service, checkConflict)."""

    async def test(world: World) -> None:
        await world.volumes.create("data", "fake", {}, {})
        made: list[str] = []
        planned = (MountRecord("volume", "/data", name="data"), MountRecord("volume", "/new", name="new"))
        mounts = await ensure(cast(Any, world.volumes), planned, HostConfig(), made)
        assert [(mount.name, mount.driver) for mount in mounts] == [("data", "fake"), ("new", "local")]
        assert made == ["new"]
        with pytest.raises(Conflict, match="driver 'fake' already has volume 'data'"):
            await ensure(cast(Any, world.volumes), planned, HostConfig(volume_driver="local"), made)

    run(test)


def test_anonymous_volumes_have_random_names_and_a_label(run: Run) -> None:
    async def test(world: World) -> None:
        record = await world.volumes.create("", "", {}, {})
        assert len(record.name) == 64 and set(record.name) <= set("0123456789abcdef")
        assert record.labels == {"com.docker.volume.anonymous": ""}

    run(test)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("a", ""), InvalidParameter, "create a: volume name is too short, names should be at least two alphanumeric"),
        (("a/b", ""), InvalidParameter, 'create a/b: "a/b" includes invalid characters for a local volume name'),
        (("..", ""), InvalidParameter, "includes invalid characters"),
        (("ok", "nope"), NotFound, 'create ok: error looking up volume plugin nope: plugin "nope" not found'),
        (("ok", "", {"foo": "1"}), InvalidParameter, 'create ok: invalid option: "foo"'),
        (("data", "fake"), Conflict, "create data: driver 'local' already has volume 'data': volume name must be unique"),
    ],
)
def test_invalid_create_requests_are_refused_with_the_error_messages_of_docker(
    run: Run, arguments: tuple[Any, ...], error: type[Exception], text: str
) -> None:
    async def test(world: World) -> None:
        await world.volumes.create("data")
        with pytest.raises(error) as raised:
            await world.volumes.create(*arguments)
        assert text in str(raised.value)
        assert [volume.name for volume in world.volumes.list({})] == ["data"]

    run(test)


def test_filters_select_volumes(run: Run) -> None:
    async def test(world: World) -> None:
        await world.volumes.create("one", "", {}, {"k": "v"})
        await world.volumes.create("two", "fake", {}, {"k": "w"})
        world.used["two"] = ["c"]

        def names(**wanted: list[str]) -> list[str]:
            return [volume.name for volume in world.volumes.list(wanted)]

        assert names() == ["one", "two"]
        assert names(dangling=["true"]) == ["one"]
        assert names(dangling=["0"]) == ["two"]
        assert names(driver=["fake"]) == ["two"]
        assert names(label=["k"]) == ["one", "two"]
        assert names(label=["k=v"]) == ["one"]
        assert names(name=["^t"]) == ["two"]
        assert names(name=["["]) == []
        with pytest.raises(InvalidParameter, match=r"invalid filter 'dangling=\[x\]'"):
            names(dangling=["x"])
        with pytest.raises(InvalidParameter, match="invalid filter 'foo'"):
            names(foo=["x"])

    run(test)


def test_unused_volume_can_be_removed_once(run: Run) -> None:
    async def test(world: World) -> None:
        await world.volumes.create("data")
        world.used["data"] = ["c1", "c2"]
        with pytest.raises(Conflict, match=r"remove data: volume is in use - \[c1, c2\]"):
            await world.volumes.remove("data")
        world.used.clear()
        with world.volumes.hold(["data"]), pytest.raises(Conflict, match="in use by a container that is being created"):
            await world.volumes.remove("data")
        await world.volumes.remove("data")
        assert await world.driver.names() == []
        assert world.events[-1] == ("volume", "destroy", "data", {"driver": "local"})
        with pytest.raises(NotFound, match="get data: no such volume"):
            await world.volumes.remove("data")
        await world.volumes.remove("data", force=True)

    run(test)


def test_prune_removes_only_unused_anonymous_volumes_by_default(run: Run) -> None:
    async def test(world: World) -> None:
        anonymous = (await world.volumes.create()).name
        for name, options in (("named", {}), ("used", {}), ("optioned", {"note": "x"}), ("labelled", {})):
            await world.volumes.create(name, "", options, {"keep": "1"} if name == "labelled" else {})
        world.used["used"] = ["c"]
        Path(world.volumes.mountpoint(anonymous), "file").write_text("12345")
        assert await world.volumes.prune({}) == ([anonymous], 5)
        assert world.events[-1] == ("volume", "prune", "", {"reclaimed": "5"})
        assert await world.volumes.prune({"all": ["true"], "label!": ["keep"]}) == (["named"], 0)
        assert await world.volumes.prune({}, named=True) == (["labelled"], 0)
        assert [volume.name for volume in world.volumes.list({})] == ["optioned", "used"]
        with pytest.raises(InvalidParameter, match="invalid filter 'all': strconv"):
            await world.volumes.prune({"all": ["x"]})

    run(test)


def test_disk_usage_of_a_volume_includes_its_size_and_number_of_containers(run: Run) -> None:
    async def test(world: World) -> None:
        await world.volumes.create("data")
        Path(world.volumes.mountpoint("data"), "file").write_text("12345")
        world.used["data"] = ["c1", "c2"]
        (shown,) = await world.volumes.with_usage()
        assert (shown.record.name, shown.users, shown.size) == ("data", 2, 5)

    run(test)


def test_interrupted_removal_is_finished_when_the_daemon_starts(run: Run) -> None:
    async def before(world: World) -> None:
        record = await world.volumes.create("data")
        await world.store.commit([Put("volumes", "data", encode(msgspec.structs.replace(record, removing=True)))])

    async def after(world: World) -> None:
        assert world.volumes.list({}) == []
        assert await world.driver.names() == []

    run(before)
    run(after)


@pytest.mark.parametrize("finished", [False, True])
def test_failed_removal_by_a_driver_is_repeated_before_the_name_is_used_again(run: Run, finished: bool) -> None:
    async def test(world: World) -> None:
        async def broken(name: str) -> None:
            raise DriverError("the disk is on fire")

        await world.volumes.create("data")
        Path(world.volumes.mountpoint("data"), "old").write_text("")
        remove = world.driver.remove
        world.driver.remove = broken  # type: ignore[method-assign]  # an injected fault
        with pytest.raises(DriverError, match="remove data: the disk is on fire"):
            await world.volumes.remove("data")
        assert world.volumes.list({}) == []
        world.driver.remove = remove  # type: ignore[method-assign]
        if finished:
            await world.volumes.finish_removal("data")
            assert await world.driver.names() == [] and world.events[-1][1] == "destroy"
            await world.volumes.finish_removal("data")  # does nothing, because the removal is complete
        record = await world.volumes.create("data")
        assert list(Path(record.mountpoint).iterdir()) == [], "the old content must not show up in a new volume"

    run(test)


def test_volume_without_a_row_is_adopted_and_invalid_rows_are_quarantined(run: Run) -> None:
    async def before(world: World) -> None:
        await world.driver.create("orphan", {"note": "n"})
        await world.store.commit([Put("volumes", "bad", b"\xc1")])

    async def after(world: World) -> None:
        assert world.volumes.get("orphan").options == {"note": "n"}
        assert [(table, key) for table, key, _ in world.store.quarantined()] == [("volumes", "bad")]

    run(before)
    run(after)


def test_volume_is_not_kept_when_its_row_cannot_be_saved(run: Run) -> None:
    async def test(world: World) -> None:
        async def full(operations: Any) -> None:
            raise Unavailable("no space left on device")

        commit, world.store.commit = world.store.commit, full  # type: ignore[method-assign]
        with pytest.raises(Unavailable):
            await world.volumes.create("data")
        world.store.commit = commit  # type: ignore[method-assign]
        assert not await world.driver.names()

    run(test)


def test_concurrent_requests_for_one_name_create_one_volume(run: Run) -> None:
    async def test(world: World) -> None:
        made: list[tuple[VolumeRecord, bool]] = []

        async def create() -> None:
            made.append(await world.volumes.ensure("data", "local", {}, {}))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(create)
        assert [record for record, _ in made] == [made[0][0]] * 5
        assert sorted(new for _, new in made) == [False] * 4 + [True]
        assert len(world.events) == 1

    run(test)


def test_volume_row_whose_key_differs_from_the_name_in_the_row_is_quarantined(run: Run) -> None:
    async def before(world: World) -> None:
        await world.store.commit([Put("volumes", "data", encode(VolumeRecord("other", "local", 0)))])

    async def after(world: World) -> None:
        assert [(key, reason) for _, key, reason in world.store.quarantined()] == [
            ("data", "row contains another name: 'other'")
        ]
        with pytest.raises(NotFound):
            world.volumes.get("other")

    run(before)
    run(after)


def test_disk_usage_leaves_out_volumes_that_keep_nothing_on_disk(run: Run) -> None:
    """Volumes with options, such as network shares, are not included in the disk usage, because their data is not in the
    data root."""

    async def test(world: World) -> None:
        await world.volumes.create("data")
        await world.volumes.create("remote", "local", {"note": "n"})
        assert [each.record.name for each in await world.volumes.with_usage()] == ["data"]

    run(test)


def test_volume_for_a_container_needs_no_options_or_labels(run: Run) -> None:
    async def test(world: World) -> None:
        made, new = await world.volumes.ensure("data", "", None, None)
        assert (made.name, new, made.options, made.labels) == ("data", True, {}, {})
        labelled, _ = await world.volumes.ensure("other", "", {"note": "n"}, {"a": "b"})
        assert (labelled.options, labelled.labels) == ({"note": "n"}, {"a": "b"})

    run(test)


def test_removed_volume_has_no_row_in_the_store(run: Run) -> None:
    async def before(world: World) -> None:
        await world.volumes.create("data")
        await world.volumes.remove("data")
        assert list(world.store.load("volumes")) == []
        await world.volumes.create("data")  # the name is free
        await world.volumes.remove("data")

    async def after(world: World) -> None:
        assert world.volumes.list({}) == []

    run(before)
    run(after)


def test_prune_is_refused_while_another_prune_is_running(run: Run) -> None:
    async def test(world: World) -> None:
        await world.volumes.create("")
        refused: list[str] = []

        async def prune() -> None:
            try:
                await world.volumes.prune({})
            except Conflict as error:
                refused.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(prune)
            nursery.start_soon(prune)
        assert refused == ["a prune operation is already running"]

    run(test)
