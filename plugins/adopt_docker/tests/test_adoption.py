"""Adopting and giving back, interrupted at any step: the Docker root is unchanged, and Orlop's data root has everything or
nothing."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from orlop_adopt_docker import adoption, give_back, service
from orlop_adopt_docker.adopted import Adopted, Phase
from orlop_engine.config import Config
from orlop_engine.containers.record import decode as decode_container
from orlop_engine.containers.record import encode as encode_container
from orlop_engine.images.records import NameRecord, decode_name, encode_name
from orlop_kernel.store import Delete, Put, Store, examine
from orlop_sdk import Conflict, NotFound, linux
from orlop_sdk.snapshots import SnapshotIndex
from orlop_sdk.testing.durability import no_descriptors_left, recorded

CONTAINER = "c" * 64
LOG = f"{CONTAINER}-json.log"
pytestmark = pytest.mark.usefixtures("drivers")


class Killed(BaseException):
    """Raised where a kill ends the process."""


STEPS = ("symlink", "link", "unlink", "rename", "mkdir", "rmdir")


class Killer:
    """Simulates a kill: raises `Killed` instead of the N-th change (a change of a file, or a commit), and instead of each
    later change."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, below: Path) -> None:
        self.left = -1
        self._below = str(below)
        for name in STEPS:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))
        commit = Store.commit

        async def counted(store: Store, operations: Any) -> None:
            self._step()
            await commit(store, operations)

        monkeypatch.setattr(Store, "commit", counted)

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if any(isinstance(arg, str) and arg.startswith(self._below) and "orlop.db" not in arg for arg in args):
                self._step()
            return function(*args, **options)

        return call

    def _step(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1

    def run(self, after: int, work: Callable[[], Any]) -> bool:
        """Run the work, and kill it after `steps` steps. Returns whether the work was completed."""
        self.left = after
        try:
            work()
            return True
        except BaseException as error:
            if not _is_kill(error):
                raise
            return False
        finally:
            self.left = -1


def _is_kill(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_kill, error.exceptions))
    return isinstance(error, Killed)


def tree(root: Path) -> dict[str, tuple[int, str]]:
    """Maps each path to the inode, and to the content of the file or the target of the link."""
    found = {}
    for path in sorted(root.rglob("*")):
        text = os.readlink(path) if path.is_symlink() else path.read_bytes().hex() if path.is_file() else ""
        found[str(path.relative_to(root))] = path.lstat().st_ino, text
    return found


def contents(root: Path) -> dict[str, str]:
    return {path: text for path, (_, text) in tree(root).items()}


NOTHING: dict[str, set[str]] = {"containers": set(), "images": set(), "volumes": set(), "networks": set()}


def objects(config: Config) -> dict[str, set[str]]:
    if not Path(config.data_root, "orlop.db").exists():
        return NOTHING
    found = examine(f"{config.data_root}/orlop.db").rows
    return {table: set(found[table]) for table in ("containers", "images", "volumes", "networks")}


def boot(config: Config) -> None:
    """Do what a start of orlopd does for an adoption."""

    async def main() -> None:
        async with Store.open(f"{config.data_root}/orlop.db") as store:
            with ExitStack() as stack:
                await service.watch(store, config.data_root, stack)

    if Path(config.data_root, "orlop.db").exists():
        trio.run(main)


def links(config: Config) -> list[str]:
    """All symbolic links in the data root, and the logs, which are hard links."""
    root = Path(config.data_root)
    found = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink()]
    return [*found, *(str(path.relative_to(root)) for path in root.rglob("*-json.log"))]


def adopt(config: Config, root: Path, **options: bool) -> adoption.Outcome:
    async def main() -> adoption.Outcome:
        return await adoption.adopt(config, str(root), **options)

    return trio.run(main)


def test_adoption_links_files_and_leaves_the_docker_root_unchanged(config: Config, docker_root: Any) -> None:
    root, data = docker_root.write(), Path(config.data_root)
    before = tree(root)
    outcome = adopt(config, root)
    assert outcome.plan is not None and tree(root) == before
    assert (data / "volumes/named/_data/file").read_text() == "in the volume"
    assert (data / "overlay2/rwcccc/diff/written").read_text() == "by the container"
    assert os.path.samefile(data / "containers" / CONTAINER / LOG, root / "containers" / CONTAINER / LOG)
    assert (data / "content/blobs/sha256" / docker_root.image[7:]).read_bytes() == docker_root.document
    index = SnapshotIndex(str(data / "overlay2/.orlop")).load()
    lower, upper = docker_root.chains
    assert {key: (record.id, record.parent, record.committed) for key, record in index.items()} == {
        lower: ("layer0", None, True),
        upper: ("layer1", "layer0", True),
        f"init-{CONTAINER}": ("rwcccc-init", "layer1", True),
        CONTAINER: ("rwcccc", "rwcccc-init", False),
    }
    again = adopt(config, root)
    assert again.plan is None and again.adopted == outcome.adopted, "the second time, there is nothing to do"


def test_links_to_adopted_files_are_synced_before_the_rows_are_committed(
    config: Config, docker_root: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, data = docker_root.write(), config.data_root
    commit = Store.commit

    with recorded() as steps, no_descriptors_left():

        async def marked(store: Store, operations: Any) -> None:
            await commit(store, operations)
            steps.append(("commit", operations[0].table))

        monkeypatch.setattr(Store, "commit", marked)
        adopt(config, root)
    intent, rows = [index for index, (what, _) in enumerate(steps) if what == "commit"]
    assert steps[intent][1] == "meta" and steps[rows][1] != "meta", "the intent is committed first"
    synced = {path for what, path in steps[intent:rows] if what == "sync"}
    names = ("", "/.orlop/active", "/.orlop/committed")
    assert synced >= {f"{data}/overlay2{name}" for name in names} | {
        *(f"{data}/volumes", f"{data}/containers", f"{data}/containers/{CONTAINER}"),
        *(f"{data}/content/tar-split", f"{data}/content/blobs/sha256"),
    }
    (blob,) = [path for what, path in steps if what == "rename" and "/blobs/" in path]
    (staged,) = [path for what, path in steps if what == "sync" and "/ingest/" in path]
    assert steps.index(("sync", staged)) < steps.index(("rename", blob)), "synced, then published"
    assert steps.index(("rename", blob)) < steps.index(("sync", os.path.dirname(blob))), "published, then synced"


def test_moved_directories_are_synced_after_the_last_rename(config: Config, docker_root: Any) -> None:
    root, data = docker_root.write(), config.data_root
    with recorded() as steps:
        adopt(config, root, for_good=True)
    moved = [index for index, (what, path) in enumerate(steps) if what == "rename" and path.startswith(f"{data}/overlay2")]
    after = {path for what, path in steps[max(moved) :] if what == "sync"}
    assert after >= {str(root / "overlay2"), f"{data}/overlay2", str(root / "volumes"), f"{data}/volumes"}


def kill_points(killer: Killer, work: Callable[[], Any], reset: Callable[[], None], every: int = 1) -> Iterator[int]:
    """Run the work repeatedly until it is completed. Each run is killed some steps later than the previous run. Yields after
    each kill."""
    for after in range(0, 1000, every):
        if killer.run(after, work):
            assert after > 10, "the steps were counted"
            return
        yield after
        reset()
    raise AssertionError("it never ends")


def test_adoption_killed_at_any_step_is_complete_or_undone(
    config: Config, docker_root: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    root = docker_root.write()
    before, killer = tree(root), Killer(monkeypatch, tmp_path)
    seen = set()

    def forget() -> None:
        if objects(config) != NOTHING:
            trio.run(give_back.give_back, config)

    for _ in kill_points(killer, lambda: adopt(config, root), forget):
        assert tree(root) == before, "nothing in the Docker root was changed"
        boot(config)
        complete = objects(config) != NOTHING
        seen.add(complete)
        if complete:
            assert objects(config)["containers"] == {CONTAINER}
            assert (Path(config.data_root) / "volumes/named/_data/file").exists()
        else:
            assert links(config) == []
    assert objects(config) == {
        "containers": {CONTAINER},
        "images": {docker_root.image, "ref:docker.io/library/app:1"},
        "volumes": {"named"},
        "networks": {"e" * 64},
    }
    assert False in seen


@pytest.mark.parametrize("for_good", [False, True], ids=["in place", "for good"])
def test_give_back_killed_at_any_step_can_be_repeated(
    config: Config, docker_root: Any, tmp_path: Path, monkeypatch: Any, for_good: bool
) -> None:
    root, data = docker_root.write(), Path(config.data_root)
    before, killer = contents(root), Killer(monkeypatch, tmp_path)
    adopt(config, root, for_good=for_good)

    def again() -> None:
        boot(config)  # the start completes the interrupted operation
        if objects(config) == NOTHING:
            assert contents(root) == before and links(config) == []
            adopt(config, root, for_good=for_good)

    for _ in kill_points(killer, lambda: trio.run(give_back.give_back, config), again, 3 if for_good else 1):
        rows = objects(config)
        assert rows == NOTHING or rows["containers"] == {CONTAINER}
        if rows != NOTHING:
            assert adopted_files(root, data) == ["by the container", "in the volume"], "nothing is lost"
    assert objects(config) == NOTHING and links(config) == [] and contents(root) == before


def rotate(config: Config) -> None:
    """Do what a rotation of the container's log does."""
    ours = Path(config.data_root, "containers", CONTAINER)
    (ours / LOG).rename(ours / f"{LOG}.1")
    (ours / LOG).write_text("newer\n")


def test_give_back_killed_at_any_step_loses_no_rotated_log(
    config: Config, docker_root: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """Docker's root contains the old logs until the give-back is complete, and the rotated logs afterwards."""
    root = docker_root.write()
    theirs, killer = root / "containers" / CONTAINER, Killer(monkeypatch, tmp_path)
    seen = set()

    def prepare() -> None:
        (theirs / f"{LOG}.1").unlink(missing_ok=True)
        (theirs / LOG).write_text("line\n")
        adopt(config, root)
        rotate(config)

    def again() -> None:
        boot(config)
        names = sorted(name for name in os.listdir(theirs) if LOG in name)
        given_back = objects(config) == NOTHING
        assert names == ([LOG, f"{LOG}.1"] if given_back else [LOG])
        assert (theirs / LOG).read_text() == ("newer\n" if given_back else "line\n")
        seen.add(given_back)
        if given_back:
            prepare()

    prepare()
    for _ in kill_points(killer, lambda: trio.run(give_back.give_back, config), again):
        pass
    assert seen == {True, False}


def test_interrupted_move_or_give_back_is_completed_by_repeating_the_command(
    config: Config, docker_root: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    root, killer = docker_root.write(), Killer(monkeypatch, tmp_path)

    def phase() -> Phase:
        row = examine(f"{config.data_root}/orlop.db").rows["meta"]["adoption"]
        return msgspec.json.decode(row, type=Adopted).phase

    adopt(config, root)
    assert not killer.run(4, lambda: adopt(config, root, for_good=True)) and phase() == Phase.MOVING
    adopt(config, root, for_good=True)
    assert phase() == Phase.MOVED and not (root / "volumes/named").exists()
    assert not killer.run(4, lambda: trio.run(give_back.give_back, config)) and phase() == Phase.RETURNING
    with pytest.raises(Conflict, match=r"giving it back was interrupted\. First complete this: orlop system give-back"):
        adopt(config, root)
    trio.run(give_back.give_back, config)
    assert objects(config) == NOTHING and (root / "volumes/named").exists()


def adopted_files(root: Path, data: Path) -> list[str]:
    """The files that containers have written, in Docker's root or in Orlop's."""
    return [
        next(path.read_text() for path in (root / file, data / file) if path.exists())
        for file in ("overlay2/rwcccc/diff/written", "volumes/named/_data/file")
    ]


def test_move_killed_at_any_step_is_complete_or_undone(
    config: Config, docker_root: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    root, data = docker_root.write(), Path(config.data_root)
    before, killer = contents(root), Killer(monkeypatch, tmp_path)

    def back() -> None:
        if objects(config) != NOTHING:
            trio.run(give_back.give_back, config)
        assert contents(root) == before

    for _ in kill_points(killer, lambda: adopt(config, root, for_good=True), back, 4):
        boot(config)
        if objects(config) == NOTHING:
            assert contents(root) == before
        else:
            assert adopted_files(root, data) == ["by the container", "in the volume"], "nothing is lost"
    assert (data / "volumes/named/_data/file").exists() and not (root / "volumes/named").exists()
    assert not (data / "overlay2/rwcccc").is_symlink() and not (root / "overlay2/rwcccc").exists()


def test_rotated_logs_are_given_back(config: Config, docker_root: Any) -> None:
    root = docker_root.write()
    adopt(config, root)
    theirs = root / "containers" / CONTAINER
    rotate(config)
    trio.run(give_back.give_back, config)
    assert (theirs / LOG).read_text() == "newer\n" and "line" in (theirs / f"{LOG}.1").read_text()
    assert not [name for name in os.listdir(theirs) if name.endswith(".orlop")]


@pytest.mark.parametrize("path", ["network/files/local-kv.db", "volumes/metadata.db"])
def test_root_of_a_running_dockerd_is_refused(config: Config, docker_root: Any, path: str) -> None:
    root = docker_root.write()
    with open(root / path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(
            Conflict, match=r"a running dockerd has it open\. Stop it first: systemctl stop docker\.socket docker"
        ):
            adopt(config, root)
    assert os.listdir(config.data_root) == []
    adopt(config, root)


def test_give_back_is_refused_while_a_container_of_orlop_uses_adopted_objects(config: Config, docker_root: Any) -> None:
    root = docker_root.write()
    adopt(config, root)

    async def add_container() -> None:
        async with Store.open(f"{config.data_root}/orlop.db") as store:
            (row,) = [value for _, value in store.load("containers")]
            other = row.replace(CONTAINER.encode(), b"f" * 64).replace(b'"web"', b'"ours"')
            await store.commit([Put("containers", "f" * 64, other)])

    trio.run(add_container)
    with pytest.raises(Conflict, match="container ours of Orlop depend on adopted objects"):
        trio.run(give_back.give_back, config)
    assert CONTAINER in objects(config)["containers"]

    async def force() -> None:
        await give_back.give_back(config, force=True)

    trio.run(force)
    assert objects(config) == NOTHING
    with pytest.raises(NotFound, match="nothing was adopted"):
        trio.run(give_back.give_back, config)


def test_give_back_keeps_an_image_that_shares_a_name_with_an_adopted_image(config: Config, docker_root: Any) -> None:
    adopt(config, docker_root.write())
    key, other = "ref:docker.io/library/app:1", "sha256:" + "9" * 64

    async def add_platform() -> None:
        async with Store.open(f"{config.data_root}/orlop.db") as store:
            name = NameRecord((docker_root.image, other), index="sha256:" + "8" * 64)
            await store.commit([Put("images", key, encode_name(name))])

    trio.run(add_platform)
    trio.run(give_back.give_back, config)
    left = examine(f"{config.data_root}/orlop.db").rows["images"]
    assert list(left) == [key] and decode_name(left[key]).images == (other,)


@pytest.mark.parametrize("which", ["given back", "user of the volume", "other"])
def test_give_back_is_refused_while_adopted_files_are_used(config: Config, docker_root: Any, which: str) -> None:
    """With live-restore, containers run while orlopd is stopped. A container that uses no adopted object does not prevent
    the give-back."""
    adopt(config, docker_root.write())
    pid, started = os.getpid(), linux.process_start_time(os.getpid())

    async def run_it() -> None:
        async with Store.open(f"{config.data_root}/orlop.db") as store:
            ((_, row),) = store.load("containers")
            record = decode_container(row)
            record.state = msgspec.structs.replace(record.state, pid=pid, pid_start_time=started)
            if which != "given back":
                record.id, record.name, record.image_id, record.endpoints = "f" * 64, "ours", "sha256:" + "9" * 64, {}
                record.mounts = record.mounts if which == "user of the volume" else ()
            await store.commit([Put("containers", record.id, encode_container(record))])

    trio.run(run_it)
    if which == "other":
        trio.run(give_back.give_back, config)
        assert list(objects(config)["containers"]) == ["f" * 64]
        return
    for force in (False, True) if which == "user of the volume" else (False,):
        with pytest.raises(Conflict, match=r"container (web|ours) is running\. Stop it before you stop orlopd"):
            trio.run(partial(give_back.give_back, config, force=force))


def test_give_back_reports_files_removed_after_a_move(config: Config, docker_root: Any) -> None:
    root = docker_root.write()
    adopt(config, root, for_good=True)
    shutil.rmtree(Path(config.data_root, "volumes/named"))
    _, lost = trio.run(give_back.give_back, config)
    assert lost == [str(root / "volumes/named")]
    assert (root / "overlay2/rwcccc/diff/written").exists()


def test_move_of_a_directory_that_was_replaced_by_a_symlink_is_refused(
    config: Config, docker_root: Any, tmp_path: Path
) -> None:
    """An administrator has moved a layer to another disk, and left a symlink."""
    root = docker_root.write()
    (root / "overlay2/layer0").rename(tmp_path / "elsewhere")
    (root / "overlay2/layer0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict, match="layer0 with --for-good: it is a symbolic link"):
        adopt(config, root, for_good=True)
    boot(config)
    assert objects(config) == NOTHING and links(config) == []


def test_files_of_an_adopted_root_can_be_moved_by_a_second_adoption(config: Config, docker_root: Any) -> None:
    root = docker_root.write()
    adopt(config, root)
    outcome = adopt(config, root, for_good=True)
    assert outcome.adopted is not None and outcome.adopted.phase == Phase.MOVED
    assert not Path(config.data_root, "volumes/named").is_symlink()


def test_daemon_warns_once_at_its_start_of_changes_that_dockerd_made_to_an_adopted_root(
    config: Config, docker_root: Any, caplog: pytest.LogCaptureFixture
) -> None:
    root = docker_root.write()
    adopt(config, root)
    boot(config)
    assert caplog.messages == []
    docker_root.volume["Name"] = "newer"
    docker_root.network["name"] = "renamed"
    for path in ("network/files/local-kv.db", "volumes/metadata.db"):
        data = bytearray((root / path).read_bytes())
        data[4096 + 64] += 1  # the transaction of the newer meta page
        data[4096 + 72 : 4096 + 80] = checksum(bytes(data[4096 + 16 : 4096 + 72])).to_bytes(8, "little")
        (root / path).write_bytes(data)
    for path in (root / "containers" / CONTAINER, root / "overlay2/layer1/diff"):
        path.rename(path.with_name("gone"))
    boot(config)
    assert [message.partition(":")[0] for message in caplog.messages] == [
        f"dockerd has run on the adopted root {root} since its adoption",
        "dockerd has removed 1 adopted containers",
        "dockerd has removed 1 adopted images",
    ]
    caplog.clear()
    boot(config)
    assert caplog.messages == [], "it is said once"


def checksum(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def test_missing_docker_root_is_reported_and_its_objects_remain(
    config: Config, docker_root: Any, caplog: pytest.LogCaptureFixture
) -> None:
    root = docker_root.write()
    adopt(config, root)
    root.rename(root.with_name("elsewhere"))
    boot(config)
    assert "is missing: its images, containers and volumes cannot be used" in caplog.text
    assert adopt(config, root).plan is None, "`orlopd --adopt` starts, too"
    root.with_name("elsewhere").rename(root)
    assert objects(config)["containers"] == {CONTAINER}


def test_damaged_docker_database_does_not_prevent_a_start(
    config: Config, docker_root: Any, caplog: pytest.LogCaptureFixture
) -> None:
    root = docker_root.write()
    adopt(config, root)
    (root / "volumes/metadata.db").write_bytes(b"x")
    boot(config)
    assert "cannot tell whether dockerd has run on the adopted root" in caplog.text


def test_adoption_of_a_second_root_is_refused(config: Config, docker_root: Any, tmp_path: Path) -> None:
    adopt(config, docker_root.write())
    other = type(docker_root)(tmp_path / "second").write()
    with pytest.raises(Conflict, match=r"was adopted before\. Give it back first: orlop system give-back"):
        adopt(config, other)


def test_give_back_keeps_a_symlink_that_an_administrator_made(config: Config, docker_root: Any, tmp_path: Path) -> None:
    """An administrator has moved the volume to another disk."""
    adopt(config, docker_root.write())
    volume = Path(config.data_root, "volumes/named")
    volume.unlink()
    volume.symlink_to(tmp_path)
    trio.run(give_back.give_back, config)
    assert volume.readlink() == tmp_path


def test_objects_that_exist_already_are_not_adopted(config: Config, docker_root: Any, tmp_path: Path) -> None:
    """The data root already contains the image. It also contains a container and a network with the same names, which come
    from another Docker root."""
    first = type(docker_root)(tmp_path / "first")
    first.config |= {"ID": "d" * 64}
    root = first.write()
    (root / "containers" / CONTAINER).rename(root / "containers" / ("d" * 64))
    (root / "image/overlay2/layerdb/mounts" / CONTAINER).rename(root / "image/overlay2/layerdb/mounts" / ("d" * 64))
    adopt(config, root)

    async def forget() -> None:
        async with Store.open(f"{config.data_root}/orlop.db") as store:
            await store.commit([Delete("meta", "adoption")])

    trio.run(forget)
    plan = adopt(config, docker_root.write()).plan
    assert plan is not None
    assert {f"{item.kind} {item.name}": item.text for item in plan.items if not item.adopted} == {
        "image app:1": "it exists in Orlop already",
        "volume named": "a volume of this name exists in Orlop already",
        "network front": "a network of this name exists in Orlop already",
        "container web": "the name web is taken by another container",
    }


def test_volume_with_a_taken_name_and_its_users_are_not_adopted(config: Config, docker_root: Any) -> None:
    """The data root has a volume of the same name, so Docker's volume and the container that uses it are not adopted."""

    async def main() -> None:
        async with Store.open(f"{config.data_root}/orlop.db") as store:
            await store.commit([Put("volumes", "named", b"")])

    trio.run(main)
    plan = adopt(config, docker_root.write()).plan
    assert plan is not None
    assert {item.name: item.text for item in plan.items if not item.adopted} == {
        "named": "a volume of this name exists in Orlop already",
        "web": "its volume named is not adopted",
    }
