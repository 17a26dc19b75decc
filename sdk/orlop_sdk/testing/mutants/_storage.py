"""Mutants of `FakeStorage`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio
from msgspec.structs import replace

from orlop_sdk import Change, Conflict, Drift, DriverError, NotFound, OrlopError, StorageContext, UnpackTarget, Usage
from orlop_sdk.testing._fake_storage import FakeStorage

from ._change import Mutant, after, change, fail, nothing, replaced

__all__ = ["MUTANTS"]


def _elsewhere() -> Callable[[StorageContext], FakeStorage]:
    """A factory that gives each instance its own directory."""
    made: list[str] = []

    def make(context: StorageContext) -> FakeStorage:
        made.append(os.path.join(context.root, f"instance{len(made)}"))
        os.mkdir(made[-1], 0o710)
        return FakeStorage(replace(context, root=made[-1]))

    return make


def _capable(**fields: Any) -> Any:
    original = FakeStorage.capabilities
    assert isinstance(original, property) and original.fget is not None
    read = original.fget
    return replaced(FakeStorage, capabilities=property(lambda self: replace(read(self), **fields)))


async def _empties(original: Any, self: Any, key: str, parent: str | None, **more: Any) -> Any:
    if key in await self.keys():
        await self.remove(key)
    return await original(key, parent, **more)


async def _orphans(original: Any, self: Any, key: str, parent: str | None, **more: Any) -> Any:
    if parent is not None and parent not in await self.keys():
        raise NotFound(f"no {parent}")
    return await original(key, None, **more)


async def _on_active(original: Any, self: Any, key: str, parent: str | None, **more: Any) -> Any:
    try:
        return await original(key, parent, **more)
    except Conflict:
        return await original(key, None, **more)


async def _once(original: Any, self: Any, key: str, *args: Any, **more: Any) -> Any:
    self.asked = {*getattr(self, "asked", ()), key} if key not in getattr(self, "asked", ()) else fail(Conflict("twice"))
    return await original(key, *args, **more)


async def _ignores_options(original: Any, self: Any, key: str, parent: str | None, **more: Any) -> Any:
    return await original(key, parent)


async def _accepts_names(original: Any, self: Any, key: str, parent: str | None, **more: Any) -> Any:
    return await original("long" if len(key) > 128 else key, parent, **more)


async def _replaces(original: Any, self: Any, key: str, name: str) -> Any:
    if name in await self.keys() and key in await self.keys():
        await self.remove(name)
    return await original(key, name)


async def _keeps_key(original: Any, self: Any, key: str, name: str) -> Any:
    answer = await original(key, name)
    await self.prepare(key, None)
    return answer


async def _must_exist(original: Any, self: Any, key: str) -> Any:
    if key not in await self.keys():
        raise NotFound(f"no {key}")
    return await original(key)


async def _waits(original: Any, self: Any, key: str) -> Any:
    time.sleep(0.6)  # noqa: ASYNC251 - this is the fault
    return await original(key)


async def _removes_parents(original: Any, self: Any, key: str) -> Any:
    with suppress(Conflict):
        return await original(key)


async def _size_of_missing(original: Any, self: Any, key: str) -> Any:
    try:
        return await original(key)
    except NotFound:
        return Usage(0)


async def _writable(original: Any, self: Any, key: str, **more: Any) -> Any:
    mounts = await original(key, **{**more, "readonly": False})
    return [replace(mount, options=tuple(option for option in mount.options if option != "ro")) for mount in mounts]


async def _volatile_once(original: Any, self: Any, key: str, **more: Any) -> Any:
    if more.get("volatile"):
        self.volatile = getattr(self, "volatile", 0) + 1
        if self.volatile > 1:
            raise DriverError("the root was mounted volatile")
    return await original(key, **more)


async def _shows_whiteouts(original: Any, self: Any, key: str, name: str) -> Any:
    answer = await original(key, name)
    if name == "two":
        await self.prepare("extra", name)
    return answer


async def _too_deep(original: Any, self: Any, key: str, parent: str | None, **more: Any) -> Any:
    if key == "pull-l60":
        raise DriverError("the mount options are too long")
    return await original(key, parent, **more)


async def _with_parents(original: Any, self: Any, key: str) -> Any:
    found, children = await original(key), {"top": "base", "c": "top"}
    return replace(found, size=found.size + (await self.usage(children[key])).size) if key in children else found


async def _exclusively(original: Any, self: Any, *args: Any, **more: Any) -> Any:
    if getattr(self, "busy", False):
        raise Conflict("another call is running")
    self.busy = True
    try:
        await trio.lowlevel.checkpoint()
        return await original(*args, **more)
    finally:
        self.busy = False


async def _blocked_by_a_cancelled_call(original: Any, self: Any, *args: Any, **more: Any) -> Any:
    if getattr(self, "locked", False):
        raise Conflict("locked")
    self.locked = True
    answer = await original(*args, **more)
    self.locked = False
    return answer


async def _unknown_is_durable(original: Any, self: Any, key: str) -> Any:
    with suppress(NotFound):
        await original(key)


async def _syncs(original: Any, self: Any, key: str, name: str) -> Any:
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return await original(key, name)


async def _audits_wrongly(original: Any, self: Any) -> Any:
    return [*await original(), Drift("stray", "x", "is of nobody", "", "x")]


def _changes(alter: Callable[[list[Change]], list[Change]]) -> Any:
    return change(FakeStorage, "changes", lambda original, self, key: after(original(key), lambda found: alter(list(found))))


async def _whiteouts_stay(original: Any, self: Any, key: str) -> Any:
    target: UnpackTarget = await original(key)
    directory = os.path.join(target.directory, "inner")
    os.makedirs(directory, exist_ok=True)
    return replace(target, directory=directory)


async def _two_become(original: Any, self: Any, key: str, parent: str | None, **more: Any) -> Any:
    if parent == "two":
        parent = "one"
    return await original(key, parent, **more)


_LIFE = "test_snapshot_is_prepared_committed_and_removed"
_PREPARE = "test_prepare_can_be_repeated"
_COMMIT = "test_commit_can_be_repeated"
_REMOVE = "test_remove_can_be_repeated_and_refuses_parents"
_KEYS = "test_unknown_and_invalid_keys_are_refused"
_CHANGES = "test_changes_lists_added_modified_and_deleted_paths"
_USAGE = "test_usage_counts_only_the_snapshot_itself"
_LATER = "test_unsynced_commit_is_made_durable_later"

MUTANTS = (
    Mutant("lacks `usage`", "test_is_a_storage_driver", replaced(FakeStorage, usage=None)),
    Mutant("allows ten layers", "test_is_a_storage_driver", _capable(max_depth=10)),
    Mutant("never frees snapshots", _LIFE, replaced(FakeStorage, remove=nothing)),
    Mutant("lists no snapshots", _LIFE, change(FakeStorage, "keys", lambda original, self: after(original(), lambda _: ()))),
    Mutant("keeps the active snapshot at a commit", _LIFE, change(FakeStorage, "commit", _keeps_key)),
    Mutant(
        "reports sound stores", "test_audit_of_a_sound_store_finds_nothing", change(FakeStorage, "audit", _audits_wrongly)
    ),
    Mutant("empties an existing snapshot", _PREPARE, change(FakeStorage, "prepare", _empties)),
    Mutant("refuses an existing snapshot", _PREPARE, change(FakeStorage, "prepare", _once)),
    Mutant("accepts an active parent", _PREPARE, change(FakeStorage, "prepare", _on_active)),
    Mutant("ignores parents", _PREPARE, change(FakeStorage, "prepare", _orphans)),
    Mutant("replaces a committed layer", _COMMIT, change(FakeStorage, "commit", _replaces)),
    Mutant("commits once", _COMMIT, change(FakeStorage, "commit", _once)),
    Mutant("removes only existing snapshots", _REMOVE, change(FakeStorage, "remove", _must_exist)),
    Mutant("does not refuse the removal of a parent", _REMOVE, change(FakeStorage, "remove", _removes_parents)),
    Mutant("deletes files in `remove`", "test_remove_does_not_wait_for_the_disk", change(FakeStorage, "remove", _waits)),
    Mutant("measures missing snapshots", _KEYS, change(FakeStorage, "usage", _size_of_missing)),
    Mutant("ignores options", _KEYS, change(FakeStorage, "prepare", _ignores_options)),
    Mutant("shortens long keys", _KEYS, change(FakeStorage, "prepare", _accepts_names)),
    Mutant(
        "shows no layer below",
        "test_children_see_their_parents_without_changing_them",
        change(FakeStorage, "prepare", _orphans),
    ),
    Mutant(
        "skips a layer", "test_children_see_their_parents_without_changing_them", change(FakeStorage, "prepare", _two_become)
    ),
    Mutant(
        "mounts read-only layers writable", "test_read_only_mounts_refuse_writes", change(FakeStorage, "mounts", _writable)
    ),
    Mutant(
        "mounts volatile once", "test_volatile_mounts_can_be_mounted_again", change(FakeStorage, "mounts", _volatile_once)
    ),
    Mutant(
        "claims overlay's whiteouts",
        "test_whiteouts_delete_entries_of_lower_layers",
        change(FakeStorage, "unpack_target", _whiteouts_stay),
    ),
    Mutant(
        "skips the layer with whiteouts",
        "test_whiteouts_delete_entries_of_lower_layers",
        change(FakeStorage, "prepare", _two_become),
    ),
    Mutant("reports no deletions", _CHANGES, _changes(lambda found: [one for one in found if one.kind.name != "DELETED"])),
    Mutant("reports no parents of changes", _CHANGES, _changes(lambda found: [one for one in found if one.path != "/etc"])),
    Mutant("reverses changes", _CHANGES, _changes(lambda found: found[::-1])),
    Mutant("reports no changes", _CHANGES, _changes(lambda found: [])),
    Mutant(
        "overlooks a replaced directory",
        "test_changes_of_a_replaced_directory_are_complete",
        _changes(lambda found: found[:1]),
    ),
    Mutant("counts layers below", _USAGE, change(FakeStorage, "usage", _with_parents)),
    Mutant(
        "counts no inodes",
        _USAGE,
        change(FakeStorage, "usage", lambda original, self, key: after(original(key), lambda u: Usage(u.size))),
    ),
    Mutant("forgets all at a restart", "test_snapshots_survive_a_restart", _elsewhere()),
    Mutant("syncs in an unsynced commit", _LATER, change(FakeStorage, "commit_unsynced", _syncs)),
    Mutant("never syncs", _LATER, replaced(FakeStorage, make_durable=nothing)),
    Mutant("makes unknown snapshots durable", _LATER, change(FakeStorage, "make_durable", _unknown_is_durable)),
    Mutant("allows one call at a time", "test_concurrent_calls_succeed", change(FakeStorage, "prepare", _exclusively)),
    Mutant(
        "stays locked after a cancelled call",
        "test_cancelled_calls_can_be_repeated",
        change(FakeStorage, "prepare", _blocked_by_a_cancelled_call),
    ),
    Mutant("fails with 60 layers", "test_snapshots_may_be_as_deep_as_max_depth", change(FakeStorage, "prepare", _too_deep)),
    Mutant(
        "describes with numbers",
        "test_describe_returns_text",
        change(FakeStorage, "describe", lambda o, self, key: after(o(key), lambda _: {"size": 1})),
    ),
    Mutant(
        "has no status",
        "test_describe_returns_text",
        change(FakeStorage, "status", lambda *_: fail(OrlopError("no status"))),
    ),
)
