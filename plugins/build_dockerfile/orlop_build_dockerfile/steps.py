"""The values that the builder process passes to the daemon for steps: bases, layers, mounts, and the step itself."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

__all__ = ["Base", "Layer", "SnapshotUsage", "Step", "StepMount", "Ulimit"]


class Base(msgspec.Struct, frozen=True):
    """An image that a build starts from. `digest` is the digest of the image's manifest for the platform. If the image was
    made on this host and has no manifest, `digest` is the digest of its configuration. `name` is the normalized reference,
    `config` the JSON of its configuration. `snapshot` is the committed snapshot of its top layer, "" if the image has no
    layers or was only resolved."""

    name: str
    digest: str
    config: bytes
    snapshot: str = ""


class Layer(msgspec.Struct, frozen=True):
    """A layer of an image: the digest and length of its uncompressed tar."""

    diff_id: str
    size: int


class SnapshotUsage(msgspec.Struct, frozen=True):
    size: int
    inodes: int


class StepMount(msgspec.Struct, frozen=True):
    """One mount of a step. Exactly one of `snapshot` (a snapshot's key), `path` (a host path in a directory of the
    builder) and `tmpfs` is set. `selector` is a path inside the snapshot, resolved inside it."""

    target: str
    snapshot: str = ""
    path: str = ""
    tmpfs: bool = False
    tmpfs_size: int = 0
    selector: str = ""
    readonly: bool = False


class Ulimit(msgspec.Struct, frozen=True):
    name: str
    soft: int
    hard: int


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A command that a build runs in a container. `root` is the key of an active snapshot; with `readonly_root`, it may also
    be the key of a committed snapshot. `network` is "" (a sandbox on the default network), "host" or "none"."""

    root: str
    args: Sequence[str]
    env: Sequence[str] = ()
    cwd: str = "/"
    user: str = ""
    hostname: str = ""
    readonly_root: bool = False
    mounts: Sequence[StepMount] = ()
    network: str = ""
    privileged: bool = False
    extra_hosts: Sequence[tuple[str, str]] = ()
    ulimits: Sequence[Ulimit] = ()
    cgroup_parent: str = ""
    shm_size: int = 0
    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    editable_files: bool = False
    """Whether the step can change /etc/hosts and /etc/resolv.conf while it runs."""
    isolation: str = ""
    devices: Sequence[str] = ()  # names of CDI devices
    optional_devices: Sequence[str] = ()  # devices that the step gets if the host has them
    denied_devices: Sequence[str] = ()  # devices that are not allowed: if the host has one, the step fails
    platform: str = ""
    """ "linux/arm64", for another processor than the host's. The backend refuses platforms that the host cannot run."""
