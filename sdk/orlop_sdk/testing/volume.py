"""Conformance suite for volume drivers, and a verified fake.

    class TestMine(VolumeSuite):
        @pytest.fixture
        def factory(self):
            return MyDriver                     # VolumeContext -> VolumeDriver

The suite opens the driver on an empty directory, and opens it again to test a restart. It creates volumes without options;
test a driver's options separately. As root it makes the mounts in new mount namespaces.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import trio

from orlop_sdk import InvalidParameter, Mount, NotFound, Usage, Volume, VolumeCapabilities, VolumeContext, VolumeDriver

from ._mounted import look

__all__ = ["FakeVolume", "VolumeSuite"]

Factory = Callable[[VolumeContext], VolumeDriver]


class FakeVolume:
    """A volume driver for tests of the daemon, with plain directories; it deletes synchronously. Passes `VolumeSuite`. Its
    only option is `note`, which it stores."""

    def __init__(self, context: VolumeContext) -> None:
        self._root = context.root

    @property
    def capabilities(self) -> VolumeCapabilities:
        return VolumeCapabilities()

    def _data(self, name: str) -> str:
        return os.path.join(self._root, name, "_data")

    def _note(self, name: str) -> str:
        return os.path.join(self._root, name, "note")

    async def create(self, name: str, options: Mapping[str, str]) -> Volume:
        await trio.lowlevel.checkpoint()
        if not name or "/" in name or name.startswith("."):
            raise InvalidParameter(f"invalid volume name: {name!r}")
        for option in options:
            if option != "note":
                raise InvalidParameter(f'invalid option: "{option}"')
        if not os.path.isdir(self._data(name)):
            os.makedirs(self._data(name))
            if "note" in options:
                Path(self._note(name)).write_text(options["note"])
        return await self.get(name)

    async def remove(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        shutil.rmtree(os.path.join(self._root, name), ignore_errors=True)

    async def get(self, name: str) -> Volume:
        await trio.lowlevel.checkpoint()
        if not os.path.isdir(self._data(name)):
            raise NotFound(f"get {name}: no such volume")
        note = Path(self._note(name))
        return Volume(name, self._data(name), {"note": note.read_text()} if note.exists() else {})

    async def mounts(self, name: str) -> Sequence[Mount]:
        return (Mount("bind", (await self.get(name)).mountpoint, "", ("bind", "rprivate")),)

    async def usage(self, name: str) -> Usage:
        files = list(Path((await self.get(name)).mountpoint).rglob("*"))
        return Usage(sum(path.stat().st_size for path in files if path.is_file()), len(files))

    async def names(self) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        return sorted(name for name in os.listdir(self._root) if os.path.isdir(self._data(name)))


class VolumeSuite:
    """Tests for every volume driver. Override the fixture `factory`."""

    @pytest.fixture
    def factory(self) -> Factory:
        raise pytest.UsageError(
            "a subclass of VolumeSuite must override the fixture `factory`: VolumeContext -> VolumeDriver"
        )

    @pytest.fixture
    def context(self, tmp_path: Path) -> VolumeContext:
        root = tmp_path / "volumes"
        root.mkdir(0o701)
        return VolumeContext(str(root))

    @pytest.fixture
    def driver(self, factory: Factory, context: VolumeContext) -> VolumeDriver:
        return factory(context)

    def test_is_a_volume_driver(self, driver: VolumeDriver) -> None:
        assert isinstance(driver, VolumeDriver), "the factory's object lacks a method of orlop_sdk.VolumeDriver"
        assert driver.capabilities.scope in ("local", "global")

    def test_volume_is_created_and_removed(self, driver: VolumeDriver) -> None:
        async def main() -> None:
            assert list(await driver.names()) == []
            made = await driver.create("data", {})
            assert made.name == "data"
            assert await driver.get("data") == made, "get() tells what create() told"
            assert list(await driver.names()) == ["data"]
            await driver.remove("data")
            assert list(await driver.names()) == [], "remove(): the name is gone at once"
            with pytest.raises(NotFound, match="get data: no such volume"):
                await driver.get("data")

        trio.run(main)

    def test_create_and_remove_can_be_repeated(self, driver: VolumeDriver) -> None:
        async def main() -> None:
            made = await driver.create("data", {})
            await look(await driver.mounts("data"), ["write", "kept", "x"])
            assert await driver.create("data", {}) == made, "create() returns an existing volume unchanged"
            assert await look(await driver.mounts("data")) == {"kept": "x"}, "create() must not empty an existing volume"
            await driver.remove("data")
            await driver.remove("data")
            await driver.remove("never-was")
            await driver.create("data", {})
            assert await look(await driver.mounts("data")) == {}, "a name used again must not show what it held before"

        trio.run(main)

    def test_unknown_and_invalid_names_are_refused(self, driver: VolumeDriver) -> None:
        async def main() -> None:
            for call in (driver.get, driver.mounts, driver.usage):
                with pytest.raises(NotFound, match="get missing: no such volume"):
                    await call("missing")
            with pytest.raises(InvalidParameter):
                await driver.create("data", {"no-such-option": "1"})
            for name in ("", "../out", "a/b", ".hidden"):
                with pytest.raises(InvalidParameter):
                    await driver.create(name, {})
            assert list(await driver.names()) == [], "create() that failed must leave nothing"

        trio.run(main)

    def test_content_is_shared_and_counted(self, driver: VolumeDriver) -> None:
        async def main() -> None:
            await driver.create("data", {})
            assert (await driver.usage("data")).size == 0
            await look(await driver.mounts("data"), ["write", "d/a", "12345"])
            assert await look(await driver.mounts("data"), ["write", "b", "6"]) == {"b": "6", "d": None, "d/a": "12345"}
            assert (await driver.usage("data")).size == 6, "usage(): bytes of file content"

        trio.run(main)

    def test_volumes_survive_a_restart(self, factory: Factory, context: VolumeContext) -> None:
        async def main() -> None:
            before = factory(context)
            made = await before.create("data", {})
            await look(await before.mounts("data"), ["write", "a", "1"])
            await before.create("gone", {})
            await before.remove("gone")
            after = factory(context)
            assert list(await after.names()) == ["data"]
            assert await after.get("data") == made
            assert await look(await after.mounts("data")) == {"a": "1"}

        trio.run(main)

    def test_concurrent_calls_succeed(self, driver: VolumeDriver) -> None:
        async def main() -> None:
            async with trio.open_nursery() as nursery:
                for n in range(20):
                    nursery.start_soon(driver.create, f"data{n}", {})
            assert len(await driver.names()) == 20
            async with trio.open_nursery() as nursery:
                for n in range(20):
                    nursery.start_soon(driver.remove, f"data{n}")
            assert list(await driver.names()) == []

        trio.run(main)
