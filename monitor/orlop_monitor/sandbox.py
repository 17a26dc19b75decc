"""The kernel objects around a container: a mount namespace, a network namespace, the mounts of its root.

Held by this process, named nowhere on the host: they go when we do. What is decided here without touching anything
(`detachable`) is tested without root.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterable, Sequence

from orlop_monitor import mounting, staging
from orlop_sdk import linux, mountinfo
from orlop_sdk.common import Mount
from orlop_sdk.mountinfo import MountEntry

from .protocol import Launch

__all__ = ["build", "detachable"]

# Whole trees that we and the runtimes need, with what is mounted below them.
_TREES = ("/proc", "/sys", "/dev", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/nix/store",
          "/run/systemd", "/run/dbus")  # fmt: skip
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def _within(path: str, tree: str) -> bool:
    return path == tree or path.startswith(tree if tree.endswith("/") else f"{tree}/")


def detachable(entries: Sequence[MountEntry], needed: Iterable[str], trees: Iterable[str]) -> list[MountEntry]:
    """The topmost mounts that may go: their copies here would pin file systems that the host unmounts.

    A mount whose parent propagates is no such pin (the host's umount arrives here) and must not be touched (ours would
    arrive there). One that is needed, that lies in or leads to a tree, or that carries such a one, stays.
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
    """Every absolute path a mount speaks of, such as an overlay's lowerdirs."""
    found = {mount.source for mount in mounts}
    for mount in mounts:
        for option in mount.options:
            found.update(option.partition("=")[2].split(":"))
    return {os.path.normpath(path) for path in found if path.startswith("/")}


def _detach_unneeded(launch: Launch) -> None:
    needed = {launch.run_dir, launch.root, launch.stage, *_paths(launch.mounts)}
    sources = {path for tree in launch.trees for path in _paths(tree.mounts)}
    if launch.log:
        needed.add(launch.log.info.directory)
    code = {sys.prefix, sys.base_prefix, *sys.path}
    for entry in detachable(mountinfo.read(), needed - {""}, {*_TREES, *launch.keep, *sources, *code} - {""}):
        try:
            # Its own submounts may have peers on the host, where an umount from here must not arrive.
            linux.mount("", "none", entry.path, ["rprivate"])
            linux.umount(entry.path)
        except OSError:
            pass  # hidden below another mount: it pins as before, and nothing is lost


def _detach(paths: Iterable[str]) -> None:
    """FINDINGS: making the mount itself private does not protect the host's copy, the parent decides."""
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


def _network(wanted: str) -> int:
    if not wanted:
        return -1
    if wanted != "new":
        return os.open(wanted, os.O_RDONLY | os.O_CLOEXEC)
    netns = linux.new_network_namespace()
    _loopback_up(netns)  # runtimes do it only in namespaces of their own making
    return netns


def build(launch: Launch) -> int:
    """Move this process into a mount namespace of its own and make everything the launch asks for. Returns the network
    namespace's fd, -1 for the host's. `OSError` names the path; the process is to end then, and takes all of it along."""
    linux.unshare(linux.CLONE_NEWNS)
    _detach_unneeded(launch)
    _detach(launch.detach)
    netns = _network(launch.network)
    staging.build(launch.stage, launch.trees)
    mounting.mount_all(launch.root, launch.mounts)
    return netns
