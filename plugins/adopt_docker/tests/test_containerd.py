"""The containerd image store: databases, blobs and snapshots, made without a containerd."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from orlop_adopt_docker import adoption, containerd
from orlop_adopt_docker import docker_root as roots
from orlop_adopt_docker.files import Unreadable
from orlop_engine.config import Config
from orlop_engine.images import platforms
from orlop_sdk.snapshots import SnapshotIndex

CONTAINER = "c" * 64
APP = "docker.io/library/app:1"
MANIFEST, INDEX = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
WriteBolt = Callable[..., bytes]
pytestmark = pytest.mark.usefixtures("drivers")


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def varint(value: int) -> bytes:
    """As Go's binary.PutUvarint."""
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


class ContainerdStore:
    """The store of a dockerd that has `app:1` from an index, and an image that was committed from a container."""

    def __init__(self, base: Path, write_bolt: WriteBolt) -> None:
        self.base, self._write_bolt = base, write_bolt
        self.images: dict[str, Any] = {}
        self.snapshots: dict[str, Any] = {}
        self.tars = [b"lower", b"upper"]
        lower, upper = (digest(tar) for tar in self.tars)
        self.chains = [lower, digest(f"{lower} {upper}".encode())]
        self.app = self._image("docker.io/library/app:1", self.tars[:1], index=True)
        self.committed = self._image("moby-dangling@sha256:" + "9" * 64, self.tars, parent=self.app)
        self._snapshot(4, self.chains[0], "", 3)
        self._snapshot(5, f"{CONTAINER}-init", f"moby/1/{self.chains[0]}", 3)
        self._snapshot(6, CONTAINER, f"moby/2/{CONTAINER}-init", 2)
        self._snapshot(300, self.chains[1], f"moby/2/{CONTAINER}-init", 3)  # committed from the container

    def blob(self, data: bytes) -> str:
        path = self.base / "io.containerd.content.v1.content/blobs/sha256" / digest(data)[7:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest(data)

    def _described(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": self.blob(data), "size": len(data), **more}

    def _image(self, name: str, tars: list[bytes], parent: str = "", *, index: bool = False) -> str:
        rootfs = {"type": "layers", "diff_ids": [digest(tar) for tar in tars]}
        config = json.dumps({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": rootfs}).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._described(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [self._described(b"gzip " + tar, "application/vnd.oci.image.layer.v1.tar+gzip") for tar in tars],
        }
        target, media_type = self._described(json.dumps(document).encode(), MANIFEST), MANIFEST
        if index:
            here = platforms.host()
            target["platform"] = {"os": here.os, "architecture": here.architecture}
            listed = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [target]}
            target, media_type = self._described(json.dumps(listed).encode(), INDEX), INDEX
        labels = {"org.mobyproject.image.parent": parent.encode()} if parent else {}
        described = {"digest": target["digest"].encode(), "mediatype": media_type.encode(), "size": b"\2"}
        self.images[name] = {"labels": labels, "target": described, "createdat": b"x"}
        return str(target["digest"])

    def _snapshot(self, number: int, key: str, parent: str, kind: int) -> None:
        row = {"id": varint(number), "kind": varint(kind), "size": varint(20), "parent": parent.encode()}
        self.snapshots[f"moby/{number}/{key}"] = row
        directory = self.base / f"io.containerd.snapshotter.v1.overlayfs/snapshots/{number}"
        (directory / "fs").mkdir(parents=True)
        (directory / "work").mkdir()
        (directory / "fs" / "file").write_text(str(number))

    def write(self) -> str:
        databases = {
            "io.containerd.metadata.v1.bolt/meta.db": {"v1": {"moby": {"images": self.images}}},
            "io.containerd.snapshotter.v1.overlayfs/metadata.db": {"v1": {"snapshots": self.snapshots}},
        }
        for path, tree in databases.items():
            (self.base / path).parent.mkdir(parents=True, exist_ok=True)
            (self.base / path).write_bytes(self._write_bolt(tree))
        return str(self.base)


@pytest.fixture
def store(tmp_path: Path, write_bolt: WriteBolt) -> ContainerdStore:
    return ContainerdStore(tmp_path / "docker/containerd/daemon", write_bolt)


def test_images_and_snapshots(store: ContainerdStore) -> None:
    base = store.write()
    assert containerd.is_present(base) and not containerd.is_present(f"{base}/none")
    found = containerd.read(base)
    assert found.remarks == []
    app, committed = sorted(found.images.values(), key=lambda image: len(image.layers))
    assert app.names == ("docker.io/library/app:1", f"docker.io/library/app@{store.app}")
    assert [len(app.manifests), app.aliases[-1]] == [2, store.app]
    assert app.layers[0].blob is not None and app.layers[0].size == 10, "the size is a signed number"
    assert committed.names == () and committed.parent == app.id
    lower, upper = store.chains
    assert {key: (each.id, each.parent, each.files) for key, each in found.layers.items()} == {
        lower: ("containerd-4", "", "fs"),
        upper: ("containerd-300", "containerd-4", "fs"),  # the container's init layer is left out
    }
    init, root = found.containers[CONTAINER]
    assert (init.key, init.parent, init.committed) == (f"init-{CONTAINER}", "containerd-4", True)
    assert (root.key, root.parent, root.committed) == (CONTAINER, "containerd-5", False)


def test_it_is_adopted(store: ContainerdStore, docker_root: Any, config: Config) -> None:
    docker_root.config |= {"Driver": "overlayfs", "Image": store.app}
    root = docker_root.write()
    store.write()
    (root / "image").rename(root / "no-image")
    outcome = trio.run(adoption.adopt, config, str(root))
    assert outcome.plan is not None and [item for item in outcome.plan.items if not item.comes] == []
    data = Path(config.data_root)
    assert (data / "overlay2/containerd-6/diff/file").read_text() == "6"
    assert (data / "overlay2/containerd-6/work").is_dir()
    index = SnapshotIndex(str(data / "overlay2/.orlop")).load()
    assert {key: record.parent for key, record in index.items()} == {
        store.chains[0]: None,
        store.chains[1]: "containerd-4",
        f"init-{CONTAINER}": "containerd-4",
        CONTAINER: "containerd-5",
    }
    blob = store.base / "io.containerd.content.v1.content/blobs/sha256" / store.app[7:]
    assert blob.samefile(data / "content/blobs/sha256" / store.app[7:])


@pytest.mark.parametrize("preferred", ["overlay2", "overlayfs"])
def test_of_two_stores_the_one_in_use_is_taken(store: ContainerdStore, docker_root: Any, preferred: str) -> None:
    docker_root.config["Driver"] = preferred
    root = docker_root.write()
    store.write()
    found = roots.read(str(root))
    assert found.store.name == {"overlay2": "overlay2", "overlayfs": "containerd"}[preferred]
    assert [remark.kind for remark in found.remarks] == ["images"]


def test_the_containerd_of_the_system(
    store: ContainerdStore, docker_root: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = docker_root.write()
    (root / "image").rename(root / "no-image")
    store.write()
    system = tmp_path / "system"
    store.base.rename(system)
    monkeypatch.setattr(roots, "SYSTEM_CONTAINERD", str(system))
    assert roots.read(str(root)).store.images == {}, "dockerd has no containers there"
    (root / "rootfs").mkdir()
    assert len(roots.read(str(root)).store.images) == 2


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (
            lambda store: store.images["docker.io/library/app:1"]["target"].update(digest=b"sha256:" + b"0" * 64),
            "is missing",
        ),
        (lambda store: store.images["docker.io/library/app:1"]["target"].update(digest=b"../../etc/passwd"), "is missing"),
        (lambda store: store.snapshots.clear(), "is not unpacked"),
    ],
)
def test_damaged_images_are_left(store: ContainerdStore, damage: Callable[[ContainerdStore], None], why: str) -> None:
    damage(store)
    remarks = containerd.read(store.write()).remarks
    assert why in next(remark.text for remark in remarks if remark.name.startswith("docker.io/library/app:1"))


def test_a_blob_with_other_content_is_left(store: ContainerdStore) -> None:
    base = store.write()
    (store.base / "io.containerd.content.v1.content/blobs/sha256" / store.app[7:]).write_bytes(b"{}")
    assert "is damaged" in containerd.read(base).remarks[0].text


def test_a_damaged_database_is_a_sentence(store: ContainerdStore) -> None:
    base = store.write()
    (store.base / "io.containerd.snapshotter.v1.overlayfs/metadata.db").write_bytes(b"x" * 9000)
    with pytest.raises(Unreadable, match=r"cannot read .*metadata\.db: it has no valid meta page"):
        containerd.read(base)
