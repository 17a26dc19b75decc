"""A small Docker root, to be copied: an image that shares its lower layer with `BUSYBOX`, and a container with rotated logs,
a volume and a network of its own, all named `old`."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.integration.docker_root import Dockerd
from tests.integration.engine import archive
from tests.registry import busybox, docker_archive, image, layer

__all__ = ["IMAGE", "small_root"]

IMAGE = "old:1"
_WORDS = ("sh", "-c", "for i in $(seq 100); do echo line $i; done; echo more >> /data/file; echo more >> /file")
_LOG = ("--log-opt", "max-size=1k", "--log-opt", "max-file=3")


@contextlib.contextmanager
def small_root(*, containerd: bool) -> Iterator[Path]:
    """A root that a real dockerd has made; this dockerd has ended. The root is removed at the end of the `with` block."""
    home = Path(tempfile.mkdtemp(prefix="ots-", dir="/tmp"))
    try:
        with contextlib.closing(Dockerd(home, containerd=containerd)) as docker:
            docker.start()
            for data in (archive(), docker_archive({IMAGE: image([layer(busybox()), layer({"file": b"old\n"})])})):
                docker.ok("load", "-q", stdin=data)
            docker.ok("network", "create", "old")
            docker.ok("run", "--name", "old", "--network", "old", "-v", "old:/data", *_LOG, IMAGE, *_WORDS)
            docker.note_bridges()
            docker.stop()
        yield docker.root
    finally:
        shutil.rmtree(home, ignore_errors=True)
