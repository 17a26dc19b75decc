"""An index of images, each with an attestation about it, as BuildKit makes them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from .build import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Blob, Content, Image, blob, encode, index, tar
from .hostile import Hostile
from .server import Registry, push, push_blob, push_manifest

__all__ = ["PROVENANCE", "Attested"]

PROVENANCE = "https://slsa.dev/provenance/v1"


class Attested:
    """`blobs` are the blobs of the attestations: for each, a configuration and a statement, in this order. `size_off` is
    added to the sizes in the entries of attestations, `claims` to the sizes in the entries of statements."""

    def __init__(self, *images: Image, size_off: int = 0, claims: int = 0) -> None:
        self.images = images
        self.attestations: list[Blob] = []
        self.blobs: list[Blob] = []
        document = json.loads(index(images, oci=True).data)
        for one in images:
            manifest = self._attest(one, claims)
            notes = {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": one.manifest.digest,
            }
            entry = {**manifest.descriptor, "annotations": notes, "platform": {"os": "unknown", "architecture": "unknown"}}
            document["manifests"].append({**entry, "size": entry["size"] + size_off})
        self.index = Blob(json.dumps(document, indent=2).encode(), OCI_INDEX)

    def _attest(self, one: Image, claims: int) -> Blob:
        config = Blob(encode({"architecture": "unknown", "os": "unknown", "of": one.id}), OCI_CONFIG)
        statement = Blob(encode({"predicateType": PROVENANCE, "about": one.id}), "application/vnd.in-toto+json")
        notes = {"in-toto.io/predicate-type": PROVENANCE}
        part = {**statement.descriptor, "annotations": notes}
        part["size"] += claims
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.descriptor,
            "layers": [part],
        }
        manifest = blob(document, OCI_MANIFEST)
        self.attestations.append(manifest)
        self.blobs += [config, statement]
        return manifest

    def everything(self) -> list[Blob]:
        """All blobs, each once."""
        parts = [self.index, *self.attestations, *self.blobs]
        parts += [part for one in self.images for part in (one.manifest, one.config, *one.layers)]
        return list({part.digest: part for part in parts}.values())

    def publish(self, registry: Hostile, name: str = "app", tag: str = "v1") -> str:
        """Add the index to a registry in this process. Returns the full name."""
        for one in self.images:
            registry.add(name, one.manifest.digest, one)
        for manifest in self.attestations:
            registry.add_manifest(name, manifest.digest, manifest)
        for part in self.blobs:
            registry._blobs[part.digest] = part
        registry.add_manifest(name, tag, self.index)
        return f"{registry.host}/{name}:{tag}"

    def push(self, registry: Registry, name: str, tag: str) -> str:
        """Push the index to docker-registry. Returns the full name."""
        for one in self.images:
            push(registry.host, name, "", one)
        for part in self.blobs:
            push_blob(registry.host, name, part)
        for manifest in self.attestations:
            push_manifest(registry.host, name, manifest.digest, manifest)
        push_manifest(registry.host, name, tag, self.index)
        return f"{registry.host}/{name}:{tag}"

    def archive(self, name: str, *, absent: Sequence[Blob] = (), docker: Image | None = None) -> bytes:
        """An OCI layout without the `absent` blobs. `docker` is the image in the additional `manifest.json`."""
        left = {part.digest for part in absent}
        parts = [part for part in self.everything() if part.digest not in left]
        members: dict[str, Content] = {f"blobs/sha256/{part.digest[7:]}": part.data for part in parts}
        notes = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
        entry = {**self.index.descriptor, "annotations": notes}
        members["index.json"] = encode({"schemaVersion": 2, "manifests": [entry]})
        members["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
        if docker is not None:
            paths = [f"blobs/sha256/{part.digest[7:]}" for part in (docker.config, *docker.layers)]
            tags = [name.removeprefix("docker.io/library/")]
            members["manifest.json"] = encode([{"Config": paths[0], "RepoTags": tags, "Layers": paths[1:]}])
        return tar(members)
