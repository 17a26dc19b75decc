"""Registries for tests and the demo: Debian's docker-registry on loopback, and images made from busybox-static.

`running()` owns a docker-registry process and its temporary directory; both are gone after the block. Images are built in
memory and pushed with plain HTTP PUTs, so tests do not depend on the correctness of any client. Builds are reproducible: the
same call gives the same digests.
"""

from .attested import Attested
from .build import Blob, Image, blob, busybox, docker_archive, image, index, layer, oci_archive
from .server import Registry, push, push_blob, push_index, push_manifest, running

__all__ = [
    "Attested",
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
