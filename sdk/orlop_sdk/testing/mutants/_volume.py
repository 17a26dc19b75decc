"""Mutants of `FakeVolume`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import trio
from msgspec.structs import replace

from orlop_sdk import Conflict, DriverError, NotFound, Usage, Volume, VolumeCapabilities, VolumeContext
from orlop_sdk.testing.volume import FakeVolume

from ._change import Mutant, after, change, fail, nothing, replaced

__all__ = ["MUTANTS"]


def _elsewhere() -> Callable[[VolumeContext], FakeVolume]:
    """A factory that gives each instance its own directory."""
    made: list[str] = []

    def make(context: VolumeContext) -> FakeVolume:
        made.append(os.path.join(context.root, str(len(made))))
        os.mkdir(made[-1])
        return FakeVolume(VolumeContext(made[-1]))

    return make


async def _exclusively(original: Any, self: Any, *args: Any) -> Any:
    if getattr(self, "busy", False):
        raise DriverError("another call is running")
    self.busy = True
    try:
        await trio.lowlevel.checkpoint()
        return await original(*args)
    finally:
        self.busy = False


async def _refuse_existing(original: Any, self: Any, name: str, options: Any) -> Any:
    if name in await self.names():
        raise Conflict("exists")
    return await original(name, options)


async def _empty_existing(original: Any, self: Any, name: str, options: Any) -> Any:
    await self.remove(name)
    return await original(name, options)


async def _hide(original: Any, self: Any, name: str) -> None:
    """A removal that only hides the content. `_uncover` shows the content again at the next creation."""
    if os.path.isdir(self._data(name)):
        os.rename(self._data(name), os.path.join(self._root, name, "hidden"))


async def _uncover(original: Any, self: Any, name: str, options: Any) -> Any:
    hidden = os.path.join(self._root, name, "hidden")
    if os.path.isdir(hidden):
        os.rename(hidden, self._data(name))
    return await original(name, options)


async def _strict_remove(original: Any, self: Any, name: str) -> None:
    await self.get(name)
    await original(name)


async def _invented(original: Any, self: Any, name: str) -> Volume:
    try:
        found: Volume = await original(name)
        return found
    except NotFound:
        return Volume(name, "/nowhere")


async def _lenient(original: Any, self: Any, name: str, options: Any) -> Any:
    return await original(name, {})


async def _any_name(original: Any, self: Any, name: str, options: Any) -> Any:
    return Volume(name, "") if name.startswith(".") else await original(name, options)


async def _leaves_half(original: Any, self: Any, name: str, options: Any) -> Any:
    if "no-such-option" in options:
        os.makedirs(self._data(name))
    return await original(name, options)


MUTANTS = (
    Mutant("lacks `usage`", "test_is_a_volume_driver", replaced(FakeVolume, usage=None)),
    Mutant(
        "has an unknown scope",
        "test_is_a_volume_driver",
        replaced(FakeVolume, capabilities=property(lambda self: replace(VolumeCapabilities(), scope="everywhere"))),
    ),
    Mutant(
        "lists no volumes",
        "test_volume_is_created_and_removed",
        change(FakeVolume, "names", lambda o, s: after(o(), lambda _: ())),
    ),
    Mutant("never removes", "test_volume_is_created_and_removed", replaced(FakeVolume, remove=nothing)),
    Mutant("finds removed volumes", "test_volume_is_created_and_removed", change(FakeVolume, "get", _invented)),
    Mutant(
        "reports another name",
        "test_volume_is_created_and_removed",
        change(FakeVolume, "create", lambda o, s, *a: after(o(*a), lambda made: replace(made, name="other"))),
    ),
    Mutant(
        "refuses an existing volume",
        "test_create_and_remove_can_be_repeated",
        change(FakeVolume, "create", _refuse_existing),
    ),
    Mutant(
        "empties an existing volume", "test_create_and_remove_can_be_repeated", change(FakeVolume, "create", _empty_existing)
    ),
    Mutant(
        "shows the content of a removed volume",
        "test_create_and_remove_can_be_repeated",
        change(change(FakeVolume, "remove", _hide), "create", _uncover),
    ),
    Mutant(
        "removes only existing volumes",
        "test_create_and_remove_can_be_repeated",
        change(FakeVolume, "remove", _strict_remove),
    ),
    Mutant("invents volumes", "test_unknown_and_invalid_names_are_refused", change(FakeVolume, "get", _invented)),
    Mutant("ignores unknown options", "test_unknown_and_invalid_names_are_refused", change(FakeVolume, "create", _lenient)),
    Mutant("accepts every name", "test_unknown_and_invalid_names_are_refused", change(FakeVolume, "create", _any_name)),
    Mutant("leaves half a volume", "test_unknown_and_invalid_names_are_refused", change(FakeVolume, "create", _leaves_half)),
    Mutant(
        "counts nothing",
        "test_content_is_shared_and_counted",
        change(FakeVolume, "usage", lambda o, s, name: after(o(name), lambda _: Usage(0))),
    ),
    Mutant(
        "counts files instead of bytes",
        "test_content_is_shared_and_counted",
        change(FakeVolume, "usage", lambda o, s, name: after(o(name), lambda found: Usage(found.inodes))),
    ),
    Mutant(
        "counts a fixed overhead",
        "test_content_is_shared_and_counted",
        change(FakeVolume, "usage", lambda o, s, name: after(o(name), lambda found: Usage(found.size + 4096))),
    ),
    Mutant("forgets all at a restart", "test_volumes_survive_a_restart", _elsewhere()),
    Mutant("makes one volume at a time", "test_concurrent_calls_succeed", change(FakeVolume, "create", _exclusively)),
    Mutant("removes one volume at a time", "test_concurrent_calls_succeed", change(FakeVolume, "remove", _exclusively)),
    Mutant(
        "raises at every removal",
        "test_concurrent_calls_succeed",
        change(FakeVolume, "remove", lambda *_: fail(DriverError("no"))),
    ),
)
