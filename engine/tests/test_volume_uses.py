"""Volumes that their drivers mount for containers: each mount has an unmount, also after errors and after a crash."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio

from orlop_engine.containers import volumes as container_volumes
from orlop_engine.containers.record import MountRecord
from orlop_engine.types.containers import HostConfig
from orlop_engine.volumes.service import Volumes
from orlop_kernel.store import Delete, Put, Store
from orlop_sdk import (
    Conflict,
    DeadlineExceeded,
    DriverError,
    Mount,
    NotFound,
    OrlopError,
    Unavailable,
    Volume,
    VolumeContext,
)
from orlop_sdk.testing.volume import FakeVolume


class Mounting(FakeVolume):
    """Records the calls. `errors` are raised by the methods with these names."""

    def __init__(self, context: VolumeContext) -> None:
        super().__init__(context)
        self.mounted: dict[str, str] = {}
        self.errors: dict[str, OrlopError] = {}

    def _act(self, method: str) -> None:
        if error := self.errors.get(method):
            raise error

    async def mount(self, name: str, user: str) -> Sequence[Mount]:
        self.mounted[user] = name
        self._act("mount")
        return await super().mounts(name)

    async def mounts(self, name: str) -> Sequence[Mount]:
        return ()

    async def unmount(self, name: str, user: str) -> None:
        self._act("unmount")
        assert self.mounted.pop(user) == name

    async def remove(self, name: str) -> None:
        self._act("remove")
        await super().remove(name)

    async def get(self, name: str) -> Volume:
        self._act("get")
        found = await super().get(name)
        return Volume(name, found.mountpoint, found.options, {"users": len(self.mounted)})


class World:
    def __init__(self, store: Store, driver: Mounting) -> None:
        self.store, self.driver = store, driver
        self.missing = False
        self.volumes = Volumes(store, self, self._find, dict)  # type: ignore[arg-type]  # an EventBus's publish is all it needs

    async def _find(self, name: str, made_with: str) -> Mounting:
        if self.missing and name != "local":
            raise Unavailable("cannot find it in /x.sock")
        return self.driver

    def publish(self, *_: object) -> None:
        pass

    def rows(self) -> int:
        return len(list(self.store.load("intents")))


Run = Callable[[Callable[[World], Awaitable[None]]], None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a test. Each call uses the store and the driver of the previous call, so two calls simulate a restart."""
    (tmp_path / "v").mkdir()
    driver = Mounting(VolumeContext(str(tmp_path / "v")))

    def runner(test: Callable[[World], Awaitable[None]]) -> None:
        async def main() -> None:
            async with Store.open(str(tmp_path / "orlop.db")) as store:
                world = World(store, driver)
                await world.volumes.load()
                await test(world)

        trio.run(main)

    return runner


def test_each_use_mounts_the_volume_with_another_user_and_unmounts_it_once(run: Run) -> None:
    async def test(world: World) -> None:
        await world.volumes.create("data", "plugin")
        users: list[str] = []
        for container in ("c1", "c1", "c2"):
            (mount,) = await world.volumes.mount("data", container, users)
            assert mount.type == "bind"
        assert len(set(users)) == len(world.driver.mounted) == world.rows() == 3
        assert sorted(world.volumes.users_for("c1")) == sorted(users[:2])
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.volumes.unmount, users[:2])
                nursery.start_soon(world.volumes.unmount, users[:2])
        assert [*world.driver.mounted] == users[2:] and world.rows() == 1

    run(test)


def test_next_daemon_knows_the_uses_of_an_earlier_daemon(run: Run) -> None:
    async def before(world: World) -> None:
        await world.volumes.create("data", "plugin")
        for container in ("running", "ended", "removed"):
            await world.volumes.mount("data", container, [])
        await world.store.commit([Put("intents", "volume-use:damaged", b"[")])

    async def after(world: World) -> None:
        assert len(world.driver.mounted) == 3
        await world.volumes.unmount(world.volumes.users_for("ended"))
        await world.volumes.unmount_orphans(lambda key: key != "removed")
        assert [*world.driver.mounted] == world.volumes.users_for("running") and world.rows() == 1
        assert [key for _, key, _ in world.store.quarantined()] == ["volume-use:damaged"]

    run(before)
    run(after)


@pytest.mark.parametrize("error", [DriverError("no"), Unavailable("gone")])
def test_failed_mount_is_followed_by_an_unmount(run: Run, error: OrlopError) -> None:
    async def test(world: World) -> None:
        await world.volumes.create("data", "plugin")
        world.driver.errors["mount"] = error
        users: list[str] = []
        with pytest.raises(type(error), match=str(error)):
            await world.volumes.mount("data", "c", users)
        assert not world.driver.mounted and not users and not world.rows()

    run(test)


def test_mount_that_hangs_is_ended_by_the_next_daemon(run: Run) -> None:
    async def before(world: World) -> None:
        await world.volumes.create("data", "plugin")
        world.driver.errors["mount"] = DeadlineExceeded("late")
        with pytest.raises(DeadlineExceeded):
            await world.volumes.mount("data", "c", [])
        assert world.driver.mounted

    async def after(world: World) -> None:
        await world.volumes.unmount_orphans(lambda _: False)
        assert not world.driver.mounted and not world.rows()

    run(before)
    run(after)


@pytest.mark.parametrize("missing", [False, True])
def test_use_ends_even_if_the_driver_cannot_unmount(run: Run, missing: bool) -> None:
    async def test(world: World) -> None:
        await world.volumes.create("data", "plugin")
        users: list[str] = []
        await world.volumes.mount("data", "c", users)
        world.driver.errors["unmount"] = DriverError("no")
        world.missing = missing
        await world.volumes.unmount(users)
        assert not world.volumes.users_for("c") and not world.rows()

    run(test)


def test_driver_without_mounts_of_its_own_has_no_uses(run: Run) -> None:
    async def test(world: World) -> None:
        world.volumes._drivers = _plain(FakeVolume(VolumeContext(world.driver._root)))
        await world.volumes.create("data")
        users: list[str] = []
        assert await world.volumes.mount("data", "c", users) and not users and not world.rows()

    run(test)


def _plain(driver: FakeVolume) -> Callable[[str, str], Awaitable[FakeVolume]]:
    async def find(name: str, made_with: str) -> FakeVolume:
        return driver

    return find


def test_volume_that_its_driver_refuses_to_remove_stays_in_the_list(run: Run) -> None:
    async def test(world: World) -> None:
        await world.volumes.create("data", "plugin")
        world.driver.errors["remove"] = DriverError("busy")
        for force in (False, True):
            with pytest.raises(DriverError, match="remove data: busy"):
                await world.volumes.remove("data", force=force)
            assert [record.name for record in world.volumes.list({})] == ["data"]

    run(test)


@pytest.mark.parametrize("missing", [False, True])
def test_forced_removal_forgets_a_volume_whose_driver_cannot_be_reached(run: Run, missing: bool) -> None:
    async def test(world: World) -> None:
        await world.volumes.create("data", "plugin")
        world.driver.errors["remove"] = Unavailable("gone")
        world.missing = missing
        with pytest.raises(Unavailable, match="remove data: "):
            await world.volumes.remove("data")
        assert [record.name for record in world.volumes.list({})] == ["data"]
        await world.volumes.remove("data", force=True)
        with pytest.raises(NotFound):
            world.volumes.get("data")
        assert not list(world.store.load("volumes"))

    run(test)


def test_forced_removal_never_removes_a_volume_that_is_in_use(run: Run) -> None:
    async def test(world: World) -> None:
        await world.volumes.create("data", "plugin")
        world.missing = True
        with world.volumes.hold(["data"]), pytest.raises(Conflict):
            await world.volumes.remove("data", force=True)

    run(test)


def test_status_of_a_volume_comes_from_its_driver_and_is_empty_without_it(run: Run) -> None:
    async def test(world: World) -> None:
        record = await world.volumes.create("data", "plugin")
        await world.volumes.mount("data", "c", [])
        assert (await world.volumes.status(record))[1] == {"users": 1}
        world.driver.errors["get"] = Unavailable("gone")
        assert await world.volumes.status(record) == (record.mountpoint, {})

    run(test)


def test_failed_create_keeps_a_named_volume_that_the_plugin_may_have_had_before(run: Run) -> None:
    async def test(world: World) -> None:
        planned = tuple(
            MountRecord(type="volume", destination=f"/{name}", name=name, driver=driver, anonymous=name == "hidden")
            for name, driver in (("named", "plugin"), ("hidden", "plugin"), ("own", "local"))
        )
        made: list[str] = []
        await container_volumes.ensure(world.volumes, planned, HostConfig(), made)  # type: ignore[arg-type]
        assert made == ["hidden", "own"]

    run(test)


def test_volume_whose_row_cannot_be_written_is_not_removed_from_the_plugin(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(world: World) -> None:
        async def full(_: object) -> None:
            raise DriverError("no space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(world.store, "commit", full)
            with pytest.raises(DriverError, match="no space"):
                await world.volumes.create("data", "plugin")
        assert (await world.driver.get("data")).name == "data"

    run(test)


def test_cancelled_mount_is_unmounted_by_the_caller(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        await world.volumes.create("data", "plugin")
        users: list[str] = []

        async def hang(name: str, user: str) -> Sequence[Mount]:
            world.driver.mounted[user] = name
            scope.cancel()
            await trio.sleep_forever()
            return ()

        monkeypatch.setattr(world.driver, "mount", hang)
        with trio.CancelScope() as scope:
            await world.volumes.mount("data", "c1", users)
        assert len(users) == 1
        await world.volumes.unmount(users)
        assert (world.driver.mounted, world.rows()) == ({}, 0)

    run(test)


def test_uses_are_known_without_the_volume(run: Run) -> None:
    async def before(world: World) -> None:
        await world.volumes.create("data", "plugin")
        await world.volumes.mount("data", "c1", [])
        await world.store.commit([Delete("volumes", "data")])

    async def after(world: World) -> None:
        await world.volumes.unmount_orphans(lambda key: False)
        assert (world.driver.mounted, world.rows()) == ({}, 0)

    run(before)
    run(after)
