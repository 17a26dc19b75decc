"""Builds images in memory: layers, configurations, manifests, indexes, and archives of images."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CREATED = "2024-05-06T07:08:09.123456789Z"

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"

Content = bytes | str | None | tuple[str, str]
"""A member of a layer: bytes = a file with this content, str = a symlink to this target, None = a directory, ("hard",
target) = a hard link."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes with their media type. `diff_id` is the digest of a layer's uncompressed tar."""

    data: bytes
    media_type: str
    diff_id: str = ""

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.data).hexdigest()

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest with all the blobs that it names."""

    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]
    platform: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.config.digest


def encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def blob(value: Any, media_type: str) -> Blob:
    return Blob(value if isinstance(value, bytes) else encode(value), media_type)


def tar(members: Mapping[str, Content]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.mtime = 1_700_000_000
            if content is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str):
                entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, content, 0o777
            elif isinstance(content, tuple):
                entry.type, entry.linkname, entry.mode = tarfile.LNKTYPE, content[1], 0o755
            else:
                entry.size, entry.mode = len(content), 0o755 if name.startswith("bin/") else 0o644
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def layer(members: Mapping[str, Content], *, compression: str = "gzip", oci: bool = False) -> Blob:
    """A layer with these members; `compression` is gzip, zstd or none."""
    raw = tar(members)
    diff_id = "sha256:" + hashlib.sha256(raw).hexdigest()
    if compression == "gzip":
        return Blob(gzip.compress(raw, 1, mtime=0), OCI_LAYER + "+gzip" if oci else DOCKER_LAYER, diff_id)
    if compression == "zstd":
        import zstandard

        return Blob(zstandard.ZstdCompressor(3).compress(raw), OCI_LAYER + "+zstd", diff_id)
    return Blob(raw, OCI_LAYER, diff_id)


def image(
    layers: Sequence[Blob],
    *,
    config: Mapping[str, Any] | None = None,
    platform: Mapping[str, str] | None = None,
    oci: bool = False,
    **document: Any,
) -> Image:
    """An image with these layers. `config` is the configuration of containers (Env, Cmd, ...). Further keyword arguments
    replace parts of the configuration document."""
    where = dict(platform or {"os": "linux", "architecture": "amd64"})
    body = {
        **where,
        "created": CREATED,
        "config": dict(
            config or {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"]}
        ),
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]},
        "history": [{"created": CREATED, "created_by": f"ADD layer{n}.tar /"} for n, _ in enumerate(layers)],
        **document,
    }
    about = blob(body, OCI_CONFIG if oci else DOCKER_CONFIG)
    kind = OCI_MANIFEST if oci else DOCKER_MANIFEST
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": about.descriptor,
        "layers": [one.descriptor for one in layers],
    }
    return Image(blob(manifest, kind), about, tuple(layers), where)


def index(images: Sequence[Image], *, oci: bool = False, attestation: bool = False) -> Blob:
    """An index of these images; `attestation` puts a BuildKit attestation first, which must never be chosen."""
    entries: list[dict[str, Any]] = []
    if attestation:
        entries.append(
            {
                **images[0].manifest.descriptor,
                "digest": "sha256:" + "ab" * 32,
                "platform": {"os": "unknown", "architecture": "unknown"},
                "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
            }
        )
    entries += [{**one.manifest.descriptor, "platform": one.platform} for one in images]
    media_type = OCI_INDEX if oci else DOCKER_LIST
    return blob({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}, media_type)


def busybox(path: str = "/bin/busybox") -> dict[str, Content]:
    """A small root file system: this host's static busybox and links for its applets."""
    applets = subprocess.run([path, "--list"], check=True, capture_output=True, text=True).stdout.split()
    with open(path, "rb") as file:
        members: dict[str, Content] = {"bin/": None, "bin/busybox": file.read()}
    members |= {f"bin/{name}": ("hard", "bin/busybox") for name in applets if name != "busybox"}
    members |= {f"{name}/": None for name in ("dev", "etc", "proc", "root", "sys", "tmp", "usr", "usr/bin", "var")}
    members["etc/passwd"] = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
    members["etc/group"] = b"root:x:0:\nnobody:x:65534:\n"
    return members


def docker_archive(images: Mapping[str, Image], *, extra: Mapping[str, Content] | None = None) -> bytes:
    """A `docker save` archive from before OCI layouts: `<config>.json`, `<id>/layer.tar`, manifest.json."""
    members: dict[str, Content] = {}
    table = []
    for name, one in images.items():
        config = one.config.digest.removeprefix("sha256:") + ".json"
        members[config] = one.config.data
        names = []
        for part in one.layers:
            path = part.digest.removeprefix("sha256:") + "/layer.tar"
            members[path] = gzip.decompress(part.data) if part.data[:2] == b"\x1f\x8b" else part.data
            names.append(path)
        table.append({"Config": config, "RepoTags": [name] if name else None, "Layers": names})
    return tar({**members, "manifest.json": encode(table), **(extra or {})})


def oci_archive(images: Mapping[str, Image]) -> bytes:
    """An OCI image layout as a tar, without Docker's manifest.json."""
    members: dict[str, Content] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    entries = []
    for name, one in images.items():
        for part in (one.manifest, one.config, *one.layers):
            members["blobs/sha256/" + part.digest.removeprefix("sha256:")] = part.data
        notes = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
        entries.append({**one.manifest.descriptor, "annotations": notes if name else {}})
    members["index.json"] = encode({"schemaVersion": 2, "manifests": entries})
    return tar(members)
