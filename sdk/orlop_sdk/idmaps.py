"""User namespaces and id-mapped mounts. They map the user and group ids that a container sees to ids of the host.

Files on disk have the ids that a container without a user namespace sees. The mounts of these files are id-mapped
(mount_setattr(2)). So the mapping may be different at each start of a container, and no image has to be unpacked twice. The
zygote (the process from which monitors are forked) imports this module, so it must not import trio.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from .linux import CLONE_NEWNET, setns, unshare

__all__ = ["IdMap", "IdRange", "file_system_ids", "map_tree", "user_namespace"]

CLONE_NEWUSER = 0x10000000
_SYS_MOUNT_SETATTR = 442
_AT_EMPTY_PATH, _AT_RECURSIVE, _MOUNT_ATTR_IDMAP = 0x1000, 0x8000, 0x100000
_CAP_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class IdRange(msgspec.Struct, frozen=True):
    """A range of `size` ids, which begins at `inside` in the container and at `outside` on the host."""

    inside: int
    outside: int
    size: int


class IdMap(msgspec.Struct, frozen=True):
    """The mapping of a user namespace. Both the user ranges and the group ranges must map the id 0."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]

    @property
    def root(self) -> tuple[int, int]:
        """The (uid, gid) that the container's root user has on the host."""
        uid, gid = (next(each.outside for each in ranges if each.inside == 0) for ranges in (self.uids, self.gids))
        return uid, gid


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def user_namespace(ids: IdMap, *, network: bool = False, join: str = "") -> tuple[int, int]:
    """Create a user namespace. If `join` is a path, open the user namespace at this path instead; it must have the mapping
    `ids`. With `network`, also create a network namespace that the user namespace owns: in a network namespace with another
    owner, the container could not mount sysfs or set sysctls. Returns the descriptors of the user namespace and of the
    network namespace (-1 for none). Needs CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID, and a process of one thread."""
    joined = os.open(join, os.O_RDONLY | os.O_CLOEXEC) if join else -1
    if joined >= 0 and not network:
        return joined, -1
    ready, made = os.pipe()
    hold, release = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(release)
            if joined >= 0:
                setns(joined, CLONE_NEWUSER)
            unshare((0 if joined >= 0 else CLONE_NEWUSER) | (CLONE_NEWNET if network else 0))
            os.write(made, b"1")
            os.read(hold, 1)  # wait until the parent has opened the namespaces or has ended
        except OSError as error:
            os.write(made, str(error.errno).encode())
        finally:
            os._exit(0)
    try:
        os.close(made)
        made = -1
        answer = os.read(ready, 16)
        if answer != b"1":
            number = int(answer or b"5")
            raise OSError(number, os.strerror(number), "a user namespace")
        if joined < 0:
            for name, ranges in (("uid_map", ids.uids), ("gid_map", ids.gids)):
                _write_map(f"/proc/{pid}/{name}", ranges)
        user = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        return user, os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC) if network else -1
    finally:
        for fd in (ready, made, hold, release, joined):
            if fd >= 0:
                os.close(fd)
        os.waitpid(pid, 0)


def _write_map(path: str, ranges: Sequence[IdRange]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, "".join(f"{each.inside} {each.outside} {each.size}\n" for each in ranges).encode())
    finally:
        os.close(fd)


def map_tree(tree: int, user: int) -> None:
    """Id-map a detached tree of mounts (`linux.clone_tree`) by the user namespace `user`. Raises `OSError` (EINVAL) when one
    of the file systems, such as overlayfs or NFS, cannot be id-mapped."""
    attributes = struct.pack("QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, user)
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE
    _check(_libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", flags, attributes, len(attributes)))


@contextmanager
def file_system_ids(uid: int, gid: int) -> Iterator[None]:
    """Run the block with other file system ids (setfsuid(2)), and with all capabilities. overlayfs keeps the credentials of
    the process that mounts the overlay, and creates files with the ids of this process. If the mounts of the layers do not
    map these ids, the overlay is read-only."""
    restored: list[Callable[[], object]] = []
    try:
        for change, ident in ((_libc.setfsgid, gid), (_libc.setfsuid, uid)):
            before = change(ident)
            restored.append(lambda change=change, before=before: change(before))  # type: ignore[misc]
        _raise_capabilities()  # setfsuid(2) to a user other than root drops the capabilities for files
        yield
    finally:
        for restore in reversed(restored):
            restore()
        _raise_capabilities()


def _raise_capabilities() -> None:
    """Make all permitted capabilities of the thread effective."""
    header, data = struct.pack("=Ii", _CAP_VERSION_3, 0), ctypes.create_string_buffer(24)
    _check(_libc.capget(header, data))
    _, low, inherited_low, _, high, inherited_high = struct.unpack("=6I", data.raw)
    _check(_libc.capset(header, struct.pack("=6I", low, low, inherited_low, high, high, inherited_high)))
