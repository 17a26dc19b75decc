"""The containerd image store: databases, blobs and snapshots, made without a containerd."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from orlop_adopt_docker import adoption, containerd
from orlop_adopt_docker import docker_root as roots
from orlop_adopt_docker.files import Unreadable
from orlop_adopt_docker.inventory import IndexedName
from orlop_engine.config import Config
from orlop_engine.images import platforms
from orlop_engine.images.platforms import Platform
from orlop_engine.images.records import ImageRecord, decode_name
from orlop_sdk.snapshots import SnapshotIndex

CONTAINER = "c" * 64
APP, MULTI = "docker.io/library/app:1", "docker.io/library/multi:1"
HERE = platforms.host()
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
        self.app = self._name("docker.io/library/app:1", self._index(self._manifest(self.tars[:1])))
        self.committed = self._name("moby-dangling@sha256:" + "9" * 64, self._manifest(self.tars), parent=self.app)
        self._snapshot(4, self.chains[0], "", 3)
        self._snapshot(5, f"{CONTAINER}-init", f"moby/1/{self.chains[0]}", 3)
        self._snapshot(6, CONTAINER, f"moby/2/{CONTAINER}-init", 2)
        self._snapshot(300, self.chains[1], f"moby/2/{CONTAINER}-init", 3)  # committed from the container

    @property
    def blobs(self) -> Path:
        return self.base / "io.containerd.content.v1.content/blobs/sha256"

    def blob(self, data: bytes) -> str:
        path = self.blobs / digest(data)[7:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest(data)

    def _described(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": self.blob(data), "size": len(data), **more}

    def _manifest(self, tars: list[bytes], platform: Platform = HERE, archive: bytes = b"gzip ") -> dict[str, Any]:
        rootfs = {"type": "layers", "diff_ids": [digest(tar) for tar in tars]}
        where = {"os": platform.os, "architecture": platform.architecture}
        config = json.dumps({**where, "config": {}, "rootfs": rootfs}).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._described(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [self._described(archive + tar, "application/vnd.oci.image.layer.v1.tar+gzip") for tar in tars],
        }
        return self._described(json.dumps(document).encode(), MANIFEST, platform=where)

    def _attestation(self, manifest: dict[str, Any]) -> dict[str, Any]:
        statement = self._described(b'{"predicate": {}}', "application/vnd.in-toto+json")
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": statement, "layers": [statement]}
        notes = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": manifest["digest"]}
        where = {"os": "unknown", "architecture": "unknown"}
        return self._described(json.dumps(document).encode(), MANIFEST, platform=where, annotations=notes)

    def _index(self, *entries: dict[str, Any]) -> dict[str, Any]:
        listed = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        return self._described(json.dumps(listed).encode(), INDEX)

    def _name(self, name: str, target: dict[str, Any], parent: str = "") -> str:
        labels = {"org.mobyproject.image.parent": parent.encode()} if parent else {}
        described = {
            "digest": target["digest"].encode(),
            "mediatype": target["mediaType"].encode(),
            "size": b"\2",
        }
        self.images[name] = {"labels": labels, "target": described, "createdat": b"x"}
        return str(target["digest"])

    def add_platforms(self) -> tuple[list[str], str]:
        """Add `multi:1`, which refers to an index. The index lists manifests of another platform and of this platform (with
        an attestation), a manifest that is not unpacked, and a manifest that was not pulled. Returns the digests of the
        first two manifests, and the digest of the index."""
        other, mine = self._manifest([b"other"], Platform("linux", "s390x")), self._manifest([b"mine"])
        packed = self._manifest([b"packed"], Platform("linux", "riscv64"))
        absent = {**mine, "digest": "sha256:" + "7" * 64, "platform": {"os": "linux", "architecture": "ppc64le"}}
        index = self._name(MULTI, self._index(other, self._attestation(mine), mine, packed, absent))
        self._snapshot(7, digest(b"other"), "", 3)
        self._snapshot(8, digest(b"mine"), "", 3)
        return [other["digest"], mine["digest"]], index

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


def test_images_and_snapshots_of_containerd_are_read(store: ContainerdStore) -> None:
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


def test_image_store_of_containerd_is_adopted(store: ContainerdStore, docker_root: Any, config: Config) -> None:
    docker_root.config |= {"Driver": "overlayfs", "Image": store.app}
    root = docker_root.write()
    store.write()
    (root / "image").rename(root / "no-image")
    outcome = trio.run(adoption.adopt, config, str(root))
    assert outcome.plan is not None and [item for item in outcome.plan.items if not item.adopted] == []
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


def test_images_of_all_unpacked_platforms_of_an_index_are_read(store: ContainerdStore) -> None:
    (other, mine), index = store.add_platforms()
    found = containerd.read(store.write())
    by_manifest = {image.manifests[0].digest: image for image in found.images.values()}
    assert {other, mine} < set(by_manifest)
    names = (MULTI, f"docker.io/library/multi@{index}")
    assert by_manifest[other].names == by_manifest[mine].names == names
    assert (
        found.indexed[MULTI] == found.indexed[names[1]] == IndexedName(index, (by_manifest[mine].id, by_manifest[other].id))
    ), "the one for this host comes first"
    assert [len(by_manifest[each].attachments) for each in (mine, other)] == [2, 0]
    assert [remark.name for remark in found.remarks] == [f"{MULTI} (linux/riscv64)"]
    assert "is not unpacked" in found.remarks[0].text, "what was not pulled is not mentioned"
    assert found.by_alias(index, ()) == by_manifest[mine].id
    assert found.by_alias(index, [digest(b"other")]) == by_manifest[other].id
    assert found.by_alias(other, ()) == by_manifest[other].id and found.by_alias("sha256:1", ()) == ""


@pytest.mark.parametrize("exact", [True, False])
def test_container_of_another_platform_keeps_its_image(
    store: ContainerdStore, docker_root: Any, config: Config, exact: bool
) -> None:
    """The manifest of the other platform may be stored by dockerd or missing."""
    (other, mine), index = store.add_platforms()
    store.snapshots[f"moby/5/{CONTAINER}-init"]["parent"] = f"moby/7/{digest(b'other')}".encode()
    docker_root.config |= {"Driver": "overlayfs", "Image": index}
    if exact:
        docker_root.config["ImageManifest"] = {"digest": other}
    root = docker_root.write()
    store.write()
    (root / "image").rename(root / "no-image")
    outcome = trio.run(adoption.adopt, config, str(root))
    assert outcome.plan is not None and [item.name for item in outcome.plan.items if not item.adopted] == [
        f"{MULTI} (linux/riscv64)"
    ]
    rows = {(each.table, each.key): each.value for each in outcome.plan.operations}
    records = [msgspec.json.decode(value, type=ImageRecord) for (_, key), value in rows.items() if key[:7] == "sha256:"]
    ids = {record.manifests[0]: record.id for record in records if index in record.manifests}
    for name in (MULTI, f"docker.io/library/multi@{index}"):
        meaning = decode_name(rows["images", f"ref:{name}"])
        assert (meaning.index, meaning.images) == (index, (ids[mine], ids[other]))
    assert json.loads(rows["containers", CONTAINER])["image_id"] == ids[other]
    (kept,) = [record.attachments for record in records if record.id == ids[mine]]
    blobs = Path(config.data_root, "content/blobs/sha256")
    assert all((blobs / each.removeprefix("sha256:")).is_file() for each in (index, mine, other, *kept)) and len(kept) == 2


def test_container_whose_image_manifest_is_missing_refers_to_the_index(store: ContainerdStore, docker_root: Any) -> None:
    _, index = store.add_platforms()
    docker_root.config |= {"Driver": "overlayfs", "Image": index, "ImageManifest": {"digest": "sha256:" + "7" * 64}}
    root = docker_root.write()
    store.write()
    assert [container.image for container in roots.read(str(root)).containers] == [index]


@pytest.mark.parametrize("preferred", ["overlay2", "overlayfs"])
def test_dockers_configured_image_store_is_read_if_there_are_two_stores(
    store: ContainerdStore, docker_root: Any, preferred: str
) -> None:
    docker_root.config["Driver"] = preferred
    root = docker_root.write()
    store.write()
    found = roots.read(str(root))
    assert found.store.name == {"overlay2": "overlay2", "overlayfs": "containerd"}[preferred]
    assert [remark.kind for remark in found.remarks] == ["images"]


def test_image_store_of_the_system_containerd_is_found(
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
def test_damaged_images_are_not_adopted_and_the_reason_is_reported(
    store: ContainerdStore, damage: Callable[[ContainerdStore], None], why: str
) -> None:
    damage(store)
    remarks = containerd.read(store.write()).remarks
    assert why in next(remark.text for remark in remarks if remark.name.startswith("docker.io/library/app:1"))


def test_layer_without_its_archive_is_adopted(store: ContainerdStore, docker_root: Any, config: Config) -> None:
    """containerd does not fetch the archive of a layer that it has unpacked already. Then the archive in another image is
    used, or the layer has no archive."""
    alone = b"only here"
    store._name(MULTI, store._manifest([store.tars[0], alone], archive=b"other gzip "))
    store._snapshot(9, digest(f"{store.chains[0]} {digest(alone)}".encode()), f"moby/4/{store.chains[0]}", 3)
    for tar in (store.tars[0], alone):
        (store.blobs / digest(b"other gzip " + tar)[7:]).unlink()
    docker_root.config |= {"Driver": "overlayfs", "Image": store.app}
    root = docker_root.write()
    store.write()
    (root / "image").rename(root / "no-image")
    plan = trio.run(adoption.look, config, str(root))
    (item,) = [item for item in plan.items if item.name == MULTI]
    assert item.adopted and item.text == "to push or save it, pull it again: an archive of a layer is missing"
    row = next(msgspec.json.decode(each.value, type=ImageRecord) for each in plan.operations if each.key == item.id)
    assert [layer.blob for layer in row.layers] == [digest(b"gzip " + store.tars[0]), ""]


def test_blob_with_a_wrong_digest_is_not_adopted(store: ContainerdStore) -> None:
    base = store.write()
    (store.base / "io.containerd.content.v1.content/blobs/sha256" / store.app[7:]).write_bytes(b"{}")
    assert "is damaged" in containerd.read(base).remarks[0].text


def test_damaged_containerd_database_is_reported(store: ContainerdStore) -> None:
    base = store.write()
    (store.base / "io.containerd.snapshotter.v1.overlayfs/metadata.db").write_bytes(b"x" * 9000)
    with pytest.raises(Unreadable, match=r"cannot read .*metadata\.db: it has no valid meta page"):
        containerd.read(base)
