"""Registries for tests and the demo: Debian's docker-registry on loopback, and images made from busybox-static.

`running()` owns a docker-registry process and its temporary directory; both are gone after the block. Images are made in
memory and pushed with plain HTTP PUTs, so that no client of ours or of anybody else has to be right first. Everything is
reproducible: the same call makes the same digests.
"""

from .build import Blob, Image, blob, busybox, docker_archive, image, index, layer, oci_archive
from .server import Registry, push, push_blob, push_index, push_manifest, running

__all__ = [
    "Blob",
    "Image",
    "Registry",
    "blob",
    "busybox",
    "docker_archive",
    "image",
    "index",
    "layer",
    "oci_archive",
    "push",
    "push_blob",
    "push_index",
    "push_manifest",
    "running",
]
