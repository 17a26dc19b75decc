"""The tar of a layer is rebuilt from its unpacked files and a tar-split file, if the tar is not stored."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from orlop_engine.images import outgoing
from orlop_engine.images.content import ContentStore
from orlop_engine.images.records import Layer
from orlop_engine.images.tar_split import pack, paths_of, pieces, remove
from orlop_sdk import DriverError

CHAIN = "sha256:" + "c" * 64
FILES = {"a": b"1" * 3_000_000, "d/b": b"2", "d/\udcff": b"not unicode"}
HEADERS = [b"header of a", b"header of d/b", b"header of the third", b"\0" * 1024]
TAR = HEADERS[0] + FILES["a"] + HEADERS[1] + FILES["d/b"] + HEADERS[2] + FILES["d/\udcff"] + HEADERS[3]
DIFF = "sha256:" + hashlib.sha256(TAR).hexdigest()


def segment(data: bytes) -> dict[str, Any]:
    return {"type": 2, "payload": base64.b64encode(data).decode()}


def entries() -> list[dict[str, Any]]:
    found = []
    for header, (name, data) in zip(HEADERS, FILES.items(), strict=False):
        raw = os.fsencode(name)
        named = {"name": name} if name.isascii() else {"name_raw": base64.b64encode(raw).decode()}
        found += [segment(header), {"type": 1, **named, "size": len(data), "payload": "x"}]
    return [*found, {"type": 1, "name": "empty"}, segment(HEADERS[3])]


def write(path: Path, listed: list[dict[str, Any]]) -> tuple[str, str]:
    for name, data in FILES.items():
        (path / "diff" / name).parent.mkdir(parents=True, exist_ok=True)
        (path / "diff" / name).write_bytes(data)
    split = path / "split.json.gz"
    split.write_bytes(gzip.compress(b"".join(json.dumps(each).encode() + b"\n" for each in listed)))
    return str(split), str(path / "diff")


def packed(split: str, directory: str) -> bytes:
    async def main() -> bytes:
        async with pieces(split, directory) as found:
            return b"".join([piece async for piece in found])

    return trio.run(main)


def test_tar_is_reassembled_unchanged(tmp_path: Path) -> None:
    assert hashlib.sha256(packed(*write(tmp_path, entries()))).digest() == hashlib.sha256(TAR).digest()


@pytest.mark.parametrize(
    "listed",
    [
        [{"type": 1, "name": "missing", "size": 5}],
        [{"type": 1, "name": "d", "size": 5}],
        [{"type": 2, "payload": "no base64!"}],
        [{"type": "2"}],
    ],
    ids=["missing file", "directory", "base64", "type"],
)
def test_damaged_tar_split_files_are_reported(tmp_path: Path, listed: list[dict[str, Any]]) -> None:
    with pytest.raises(DriverError, match="cannot pack the files in"):
        packed(*write(tmp_path, listed))


def test_no_file_outside_the_layer_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    split, directory = write(tmp_path, [{"type": 1, "name": "../secret", "size": 6}])
    with pytest.raises(DriverError):
        packed(split, directory)
    os.symlink("/", tmp_path / "diff" / "out")
    split, directory = write(tmp_path, [{"type": 1, "name": f"out{tmp_path}/secret", "size": 6}])
    with pytest.raises(DriverError):
        packed(split, directory)


def test_missing_tar_split_file_is_reported(tmp_path: Path) -> None:
    _, directory = write(tmp_path, [])
    with pytest.raises(DriverError, match="cannot pack the files"):
        packed(str(tmp_path / "none"), directory)


def adopted(tmp_path: Path, listed: list[dict[str, Any]]) -> tuple[ContentStore, Layer]:
    """A content store with the links of an adopted layer, of which only the unpacked files are stored."""
    content = ContentStore(str(tmp_path / "content"))
    content.prepare()
    split, directory = write(tmp_path, listed)
    for source, path in zip((split, directory), paths_of(CHAIN), strict=True):
        target = Path(content.root, path)
        target.parent.mkdir(exist_ok=True)
        (os.link if source == split else os.symlink)(source, target)
    return content, Layer("", "", 0, DIFF, CHAIN, 5)


def test_reassembled_tar_is_stored_as_the_blob_of_the_layer(tmp_path: Path) -> None:
    content, layer = adopted(tmp_path, entries())
    held: list[str] = []

    async def hold(blob: str) -> None:
        assert not content.has(blob), "not yet published"
        held.append(blob)

    made = trio.run(pack, content, layer, hold)
    assert (made.blob, made.blob_size, held) == (DIFF, len(TAR), [DIFF])
    assert content.read(DIFF, len(TAR)) == TAR and not content.partials()


def test_two_images_with_the_same_layer_can_be_packed_at_the_same_time(tmp_path: Path) -> None:
    content, layer = adopted(tmp_path, entries())
    both = trio.Event()
    waiting: list[str] = []

    async def hold(blob: str) -> None:
        waiting.append(blob)
        if len(waiting) == 2:
            both.set()
        await both.wait()

    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pack, content, layer, hold)
                nursery.start_soon(pack, content, layer, hold)

    trio.run(main)
    assert content.read(DIFF, len(TAR)) == TAR
    assert os.listdir(content.partial) == []


def test_changes_of_unpacked_files_are_detected_when_the_layer_is_packed(tmp_path: Path) -> None:
    content, layer = adopted(tmp_path, entries())
    (tmp_path / "diff" / "d" / "b").write_bytes(b"3")

    async def hold(blob: str) -> None:
        raise AssertionError

    with pytest.raises(DriverError, match="its files have changed since the layer was unpacked"):
        trio.run(pack, content, layer, hold)
    assert content.digests() == [] and os.listdir(content.partial) == []


def test_layer_without_a_stored_blob_can_be_opened_as_a_tar(tmp_path: Path) -> None:
    content, layer = adopted(tmp_path, entries())

    async def main() -> bytes:
        assert await outgoing.compression_of(content, layer) == ""
        async with outgoing.open_layer(content, layer) as fd:
            with open(fd, "rb", closefd=False) as file:
                return file.read()

    assert trio.run(main) == TAR
    assert os.listdir(content.partial) == []
    (tmp_path / "diff" / "a").unlink()
    with pytest.raises(DriverError, match="cannot pack the files"):
        trio.run(main)


def test_tar_split_file_is_removed_with_its_layer(tmp_path: Path) -> None:
    content, _ = adopted(tmp_path, entries())
    remove(content, CHAIN)
    remove(content, CHAIN)
    assert os.listdir(tmp_path / "content" / "tar-split") == [] and (tmp_path / "diff" / "a").exists()
