"""The time for archives and requests of any size is linear and bounded, and they do not block the event loop.

Times are CPU time of the loop's thread, which is hardly affected by other load.
"""

from __future__ import annotations

import gc
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tests.registry import docker_archive, image, layer, oci_archive
from tests.registry.build import Content, encode, tar
from tests.registry.fakes import DirectoryStorage, ImagesFixture, drain, open_images

from orlop_api_docker.images import encoded_list, encoded_view
from orlop_engine.images import archive_file, listing, remover
from orlop_engine.images.catalog import Catalog
from orlop_engine.images.committed import CommitRequest
from orlop_engine.images.image_store import ImageStore
from orlop_engine.images.names import Names
from orlop_engine.images.records import ImageRecord
from orlop_engine.images.references import parse
from orlop_engine.images.removal import Step
from orlop_engine.types.images import ImageConfig, ImageDocument
from orlop_kernel.store import Put, Store, examine
from orlop_sdk import DriverError, InvalidParameter

APP = image([layer({"app": b"1"})])
MANY = 5000  # number of names; with a scan for each name, the tests would take two minutes
SLICE = 0.1  # seconds of CPU


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    stream = io.BytesIO(data)
    while piece := stream.read(1 << 16):
        yield piece
        await trio.lowlevel.checkpoint()


class _Watch(trio.abc.Instrument):
    """The longest time that a task ran without yielding."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._began = time.thread_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.longest = max(self.longest, time.thread_time() - self._began)


@asynccontextmanager
async def in_slices() -> AsyncIterator[None]:
    watch = _Watch()
    gc.freeze()  # exclude objects of other tests from garbage collections
    trio.lowlevel.add_instrument(watch)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(watch)
        gc.unfreeze()
    assert watch.longest < SLICE


def archive(table: Any, extra: dict[str, Content] | None = None) -> bytes:
    """An archive of APP with another manifest.json."""
    return docker_archive({"a:x": APP}, extra={"manifest.json": encode(table), **(extra or {})})


def entry(tags: list[str]) -> dict[str, Any]:
    part = APP.layers[0].digest.removeprefix("sha256:")
    return {"Config": APP.id[7:] + ".json", "RepoTags": tags, "Layers": [f"{part}/layer.tar"]}


def layout(count: int) -> bytes:
    members = {"oci-layout": b"{}", "index.json": encode({"manifests": [APP.manifest.descriptor] * count})}
    return tar(members)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: archive([entry([f"n:{n}" for n in range(5000)])]), "it contains 5000 names, at most 4096 are allowed"),
        (lambda: archive([entry([f"n:{n}"]) for n in range(5000)]), "it contains 5000 images, at most 4096 are allowed"),
        (lambda: layout(5000), "it contains 5000 images, at most 4096 are allowed"),
    ],
    ids=["names", "images", "layout"],
)
def test_load_of_an_archive_over_a_limit_leaves_no_blobs_or_images(
    tmp_path: Path, data: Callable[[], bytes], message: str
) -> None:
    async def main() -> None:
        async with open_images(str(tmp_path)) as images:
            with pytest.raises(InvalidParameter, match=message):
                await images.images.load_archive(pieces(data())).finished()
            assert images.is_empty()
            assert not images.images.all()

    trio.run(main)
    assert examine(str(tmp_path / "state" / "orlop.db")).rows["images"] == {}


def test_configuration_counts_towards_the_read_limit_once_for_each_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon parses the configuration again for each name. If only the first time counted, each further name, which
    takes a few bytes of a manifest, could make the daemon parse a megabyte."""
    monkeypatch.setattr(archive_file, "_MAX_READ", 100 * len(APP.config.data))

    async def main() -> None:
        async with open_images(str(tmp_path)) as images:
            with pytest.raises(InvalidParameter, match="its manifests and configurations have over"):
                await images.images.load_archive(pieces(archive([entry([])] * 200))).finished()
            assert images.is_empty()

    trio.run(main)


def test_load_of_an_archive_with_4096_names_does_not_block_the_event_loop(tmp_path: Path) -> None:
    """This is the largest allowed number of names in an archive."""

    async def main() -> None:
        async with open_images(str(tmp_path)) as images:
            data = archive([entry([f"n{n}:x" for n in range(4096)])])
            async with in_slices():
                records = await drain(images.images.load_archive(pieces(data)))
            assert len(records) == 4096
            assert len(images.images.names(APP.id)) == 4096

    trio.run(main)


async def fill(tmp_path: Path, count: int, id: str = APP.id) -> None:
    """Write rows of references, half of them of one repository."""
    names = (f"docker.io/library/{'same' if n % 2 else f'x{n}'}:{n}" for n in range(count))
    async with Store.open(str(tmp_path / "state" / "orlop.db")) as store:
        await store.commit([Put("images", f"ref:{name}", id.encode()) for name in names])


def filled(tmp_path: Path, check: Callable[[ImagesFixture], Awaitable[None]]) -> float:
    """Open a store whose one image has MANY names. Returns the CPU seconds of the boot."""

    async def main() -> float:
        storage = DirectoryStorage(str(tmp_path / "layers"))
        async with open_images(str(tmp_path), storage=storage) as images:
            await drain(images.images.load_archive(pieces(docker_archive({"a:x": APP}))))
        await fill(tmp_path, MANY)
        began = time.thread_time()
        async with open_images(str(tmp_path), storage=storage) as images:
            boot = time.thread_time() - began
            await check(images)
        return boot

    return trio.run(main)


def test_listing_and_removal_and_boot_are_fast_with_many_names(tmp_path: Path) -> None:
    async def check(fixture: ImagesFixture) -> None:
        images = fixture.images
        async with in_slices():
            (shown,) = json.loads(await encoded_list(await images.listed({}, everything=False), (1, 52)))
            assert len(shown["RepoTags"]) == MANY + 1
            (found,) = await images.listed({"reference": ["x*1*"]}, everything=False)
            assert 0 < len(found.tags) < MANY / 2
            assert (await images.usage())[0][0].tags[0] == "a:x"
            assert len((await images.inspect("a:x")).tags) == MANY + 1
            await images.tag("a:x", "new", "tag")
            assert [item.untagged for item in await images.remove("same:1")] == ["same:1"]
            await images.remove("new:tag")
            gone = await images.remove(APP.id, force=True)
            assert [item.untagged for item in gone[:-2]] == sorted(item.untagged for item in gone[:-2])
            assert len(gone) == MANY + 2
        assert fixture.is_empty()

    assert filled(tmp_path, check) < 2
    assert examine(str(tmp_path / "state" / "orlop.db")).rows["images"] == {}


def test_prune_of_many_names_is_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies, copy = [], Names.copy

    def counted(names: Names) -> Names:
        copies.append(len(names))
        return copy(names)

    monkeypatch.setattr(Names, "copy", counted)

    async def check(images: ImagesFixture) -> None:
        async with in_slices():
            report = await images.images.prune({"dangling": ["false"]})
        assert len(report.items) == MANY + 3
        assert images.is_empty()

    filled(tmp_path, check)
    assert copies == [MANY + 1], "all names are copied once, not once a name"


def test_removal_of_names_does_not_start_a_full_python_garbage_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full collection visits the objects of all names in a single step, which takes 110 ms with 100,000 names."""
    usual, seen, forget = gc.get_threshold(), [], ImageStore.forget

    async def forgotten(store: ImageStore, names: Any, ids: Any) -> Any:
        seen.append(gc.get_threshold())
        return await forget(store, names, ids)

    monkeypatch.setattr(ImageStore, "forget", forgotten)

    async def main() -> None:
        async with open_images(str(tmp_path)) as fixture:
            await drain(fixture.images.load_archive(pieces(docker_archive({"a:x": APP, "a:y": APP}))))
            await fixture.images.remove("a:x")
            await fixture.images.prune({"dangling": ["false"]})

    trio.run(main)
    assert [threshold[:2] for threshold in seen] == [usual[:2]] * 2, "young objects are collected as usual"
    assert [threshold[2] > 1e9 for threshold in seen] == [True, True]
    assert gc.get_threshold() == usual


def test_work_on_all_image_names_is_split_into_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary of 100,000 names made in one step blocks the event loop for 100 ms."""
    paced = [0]

    class CountingPace:
        def __init__(self, *, shielded: bool = False) -> None:
            assert shielded

        async def __call__(self) -> None:
            paced[0] += 1
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def main() -> None:
        names = [parse(f"a:{number}") for number in range(20)]
        steps = [Step("sha256:1", names[:15], False), Step("sha256:2", names[10:], True)]
        lost = await remover._lost_names(steps)
        assert {name.tag: len(ids) for name, ids in lost.items()} == {str(n): 1 + (10 <= n < 15) for n in range(20)}
        assert paced == [25]
        shown = await remover._reported(steps, names[5:])
        assert [[name.tag for name in each[1]] for each in shown] == [
            [str(n) for n in range(5, 15)],
            ["15", "16", "17", "18", "19"],
        ]
        assert paced == [25 + 15 + 25]

    monkeypatch.setattr(remover, "Pace", CountingPace)
    trio.run(main)


def test_image_names_without_images_are_quarantined_in_few_commits(tmp_path: Path) -> None:
    """With a commit for each name, 100,000 names would delay the start by minutes."""

    async def main() -> None:
        async with open_images(str(tmp_path)):
            pass
        await fill(tmp_path, 300, "sha256:" + "9" * 64)
        commits = []
        async with Store.open(str(tmp_path / "state" / "orlop.db")) as store:
            store.on_commit = lambda jobs, _: commits.append(jobs)
            async with opened_images(tmp_path, store):
                pass
            assert len(store.quarantined()) == 300
        assert sum(commits) == 1

    trio.run(main)


@asynccontextmanager
async def opened_images(tmp_path: Path, store: Store) -> AsyncIterator[None]:
    from orlop_engine.images.content import ContentStore
    from orlop_engine.images.layers import Layers

    async with trio.open_nursery() as nursery:
        content = ContentStore(str(tmp_path / "content"))
        layers = Layers(DirectoryStorage(str(tmp_path / "layers")), content, None, None, nursery)  # type: ignore[arg-type]
        await ImageStore(store, content, layers).load()
        yield


def test_shared_size_and_children_of_an_image_are_found_fast_among_many_images() -> None:
    """5,000 images have the same base. The shared sizes and children of an image are found without a scan of all other
    images."""
    catalog = Catalog()
    base = "sha256:" + "0" * 64
    catalog.put(ImageRecord(base, ()), ImageDocument(), b"")
    began = time.thread_time()
    for n in range(5000):
        catalog.put(ImageRecord(f"sha256:{n:064x}x", (), parent=base), ImageDocument(), b"")
        assert catalog.has_children(base)
    for n in range(5000):
        catalog.remove(f"sha256:{n:064x}x")
    assert not catalog.has_children(base)
    assert time.thread_time() - began < 2


def test_filter_pattern_with_many_stars_is_fast() -> None:
    """A backtracking matcher would take years."""
    catalog = Catalog()
    catalog.put(ImageRecord(APP.id, ()), ImageDocument(), b"")
    catalog.point(parse("a" * 200 + ":x"), APP.id)

    def found(pattern: str) -> int:
        async def main() -> int:
            return len(await listing.choose(catalog, {"reference": [pattern]}, everything=True))

        return trio.run(main)

    assert found("*a" * 50 + "*b") == 0
    assert found("*a" * 50 + "*") == 1
    assert found("*a" * 200) == 1
    assert found("*a" * 201) == 0
    with pytest.raises(InvalidParameter, match="invalid filter 'reference="):
        found("*" * 2000)
    with pytest.raises(InvalidParameter, match="more than 100 values"):
        trio.run(lambda: listing.choose(catalog, {"reference": [str(n) for n in range(101)]}, everything=True))


@pytest.mark.parametrize(
    "config",
    [ImageConfig(labels={"a": "x" * (5 << 20)}), ImageConfig(env=["A=" + "x" * (5 << 20)])],
    ids=["labels", "environment"],
)
def test_commit_that_would_make_an_unreadable_configuration_is_refused(tmp_path: Path, config: ImageConfig) -> None:
    async def main() -> None:
        async with open_images(str(tmp_path)) as images:
            await drain(images.images.load_archive(pieces(docker_archive({"a:x": APP}))))
            before = images.blobs()
            with pytest.raises(
                InvalidParameter, match="cannot make the image: cannot read image configuration: larger than"
            ):
                await images.images.commit(CommitRequest(images.images.resolve("a:x"), config), pieces(tar({"f": b"1"})))
            assert images.blobs() == before

    trio.run(main)


def test_commit_without_changed_files_adds_no_layer(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_images(str(tmp_path)) as images:
            await drain(images.images.load_archive(pieces(docker_archive({"a:x": APP}))))
            before, base = images.blobs(), images.images.resolve("a:x")
            made = await images.images.commit(CommitRequest(base, ImageConfig(env=["A=b"])), pieces(bytes(1024)))
            assert (made.layers, made.parent) == (base.layers, base.id)
            assert images.blobs() == before | {made.id.removeprefix("sha256:")}, "no blob of nothing either"
            (step, *_) = images.images.history(made.id)
            assert (step.size, len(images.images.history(made.id))) == (0, 2)
            assert (await images.images.usage(blobs=False))[0][0].size == made.size
            again = await images.images.commit(CommitRequest(made, ImageConfig()), pieces(tar({"f": b"1"})))
            assert len(again.layers) == 2
            await images.images.prune({"dangling": ["false"]})
            assert images.is_empty()

    trio.run(main)


def test_large_configurations_do_not_block_the_event_loop(tmp_path: Path) -> None:
    """A configuration may have 4 MiB. A load, and an inspect by an old client, parse it on a thread."""
    large = image([layer({"x": b"1"})], config={"Labels": {f"label{n}": "x" * 20 for n in range(80_000)}})
    odd = image([layer({"x": b"1"})], nothing=[[n] for n in range(400_000)])
    steps = image([layer({"x": b"1"})], history=[{"created_by": "x"}] * 10_001)

    async def main() -> None:
        async with open_images(str(tmp_path)) as images:
            async with in_slices():
                await drain(images.images.load_archive(pieces(docker_archive({"a:x": large, "b:x": odd}))))
                await encoded_view(await images.images.inspect("a:x"), (1, 40))
                await encoded_view(await images.images.inspect("b:x"), (1, 40))
            with pytest.raises(DriverError, match="10001 steps of history are too many"):
                await images.images.load_archive(pieces(oci_archive({"docker.io/library/c:x": steps}))).finished()

    trio.run(main)


def test_blob_is_stored_only_after_a_lease_protects_the_blob(tmp_path: Path) -> None:
    """A garbage collection that read the leases before would remove the blob."""

    async def main() -> None:
        async with open_images(str(tmp_path)) as images, trio.open_nursery() as nursery:
            image_store = images.images._image_store
            with image_store.leases.hold() as lease:
                async with image_store.layers.guard:
                    nursery.start_soon(image_store.receive, pieces(b"content"), lease)
                    while not lease.blobs:
                        await trio.testing.wait_all_tasks_blocked(0.01)
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    assert not images.blobs()
                while not images.blobs():
                    await trio.testing.wait_all_tasks_blocked(0.01)

    trio.run(main)
