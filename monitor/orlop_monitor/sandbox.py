"""Builds a container's sandbox: a mount namespace, a network namespace and the mounts of its root.

Only this process refers to the namespaces and mounts, so the kernel destroys them when the process exits. `detachable` is
pure, so that it can be tested without root privileges.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from orlop_monitor import mounting, staging
from orlop_sdk import linux, mountinfo
from orlop_sdk.common import Mount
from orlop_sdk.idmaps import user_namespace
from orlop_sdk.mountinfo import MountEntry

from .protocol import Launch
from .shifting import Shift

__all__ = ["Namespaces", "build", "detachable"]

# Trees that the monitor and runtimes need, including the mounts below them.
_TREES = ("/proc", "/sys", "/dev", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/nix/store",
          "/run/systemd", "/run/dbus")  # fmt: skip
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def _within(path: str, tree: str) -> bool:
    return path == tree or path.startswith(tree if tree.endswith("/") else f"{tree}/")


def detachable(entries: Sequence[MountEntry], needed: Iterable[str], trees: Iterable[str]) -> list[MountEntry]:
    """The topmost mounts that can be detached. This namespace has copies of the host's mounts, which would otherwise keep
    file systems busy after the host unmounts them.

    If the parent of a mount propagates, an unmount on the host also unmounts the copy. A mount with such a parent must not
    be detached, because the detach would propagate to the host. Some other mounts must not be detached either: the mounts at
    or above a path in `needed`, the mounts in or above one of `trees`, and all mounts above a mount that stays.
    """
    by_id = {entry.id: entry for entry in entries}
    needed, trees = tuple(needed), tuple(trees)
    stays: set[int] = set()
    for entry in entries:
        parent = by_id.get(entry.parent)
        if (
            parent is None
            or parent.propagates
            or any(_within(path, entry.path) for path in needed)
            or any(_within(entry.path, tree) or _within(tree, entry.path) for tree in trees)
        ):
            while entry.id not in stays:
                stays.add(entry.id)
                entry = by_id.get(entry.parent, entry)
    return [entry for entry in entries if entry.id not in stays and entry.parent in stays]


def _paths(mounts: Iterable[Mount]) -> set[str]:
    """All absolute paths in these mounts, including the paths in mount options (the lower directories of an overlay)."""
    found = {path for mount in mounts for path in (mount.source, mount.mountpoint)}
    for mount in mounts:
        for option in mount.options:
            found.update(option.partition("=")[2].split(":"))
    return {os.path.normpath(path) for path in found if path.startswith("/")}


def _detach_unneeded(launch: Launch) -> None:
    needed = {launch.run_dir, launch.root, launch.stage, launch.layers, *_paths(launch.mounts)}
    sources = {path for tree in launch.trees for path in _paths(tree.mounts)}
    if launch.log:
        needed.add(launch.log.info.directory)
    code = {sys.prefix, sys.base_prefix, *sys.path}
    for entry in detachable(mountinfo.read(), needed - {""}, {*_TREES, *launch.keep, *sources, *code} - {""}):
        try:
            # Mounts below this mount may have peers on the host, to which the umount must not propagate.
            linux.mount("", "none", entry.path, ["rprivate"])
            linux.umount(entry.path)
        except OSError:
            pass  # another mount hides this mount, so the umount fails, and the file system stays busy


def _detach(paths: Iterable[str]) -> None:
    """Detach mounts in this namespace only. The parent mount must be private, because its propagation decides whether the
    umount reaches the host."""
    for path in paths:
        entries = mountinfo.read()
        by_id = {entry.id: entry for entry in entries}
        for entry in reversed(entries):
            if entry.path == path:
                linux.mount("", "none", by_id[entry.parent].path, ["private"])
                linux.mount("", "none", path, ["rprivate"])
                linux.umount(path)
                break


def _loopback_up(netns: int) -> None:
    with linux.in_network_namespace(netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


class Namespaces(NamedTuple):
    """Descriptors of the container's namespaces, which this process keeps open; -1 for the host's namespaces."""

    network: int = -1
    user: int = -1


def _namespaces(launch: Launch) -> Namespaces:
    user, network, wanted = -1, -1, launch.network
    if launch.ids is not None:
        user, network = user_namespace(launch.ids, network=wanted == "new", join=launch.user)
    elif wanted == "new":
        network = linux.new_network_namespace()
    if wanted == "new":
        _loopback_up(network)  # done here, because runtimes bring up loopback only in namespaces that they create
    elif wanted:
        network = os.open(wanted, os.O_RDONLY | os.O_CLOEXEC)
    return Namespaces(network, user)


def build(launch: Launch) -> Namespaces:
    """Move this process into a new mount namespace and build the sandbox. A raised `OSError` names the path. The caller must
    then exit, which destroys the incomplete sandbox."""
    linux.unshare(linux.CLONE_NEWNS)
    _detach_unneeded(launch)
    _detach(launch.detach)
    namespaces = _namespaces(launch)
    if launch.ids is None:
        staging.build(launch.stage, launch.trees)
        mounting.mount_all(launch.root, launch.mounts)
    else:
        shift = Shift(launch.ids, namespaces.user, launch.layers, launch.stage)
        staging.build(launch.stage, launch.trees, shift)
        shift.mount_layers(launch.root, launch.mounts)
    return namespaces
