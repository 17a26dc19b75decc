"""The sandbox of workers that process untrusted data.

There are two layers of protection. First, `tree` resolves every path by openat2 relative to the root. So a malicious archive
is harmless. This layer needs no privileges (tests run it without them), and is as fast as a chroot, because parents are
cached. Second, this module limits the effect of a bug in a decompressor, which is C code. The worker's mount namespace
contains only the target directory, mounted nodev, nosuid and noexec. (pivot_root is used, so that no open descriptor leads
out of the sandbox, and no file system of the host is kept busy.) The worker can open no sockets, and keeps only the
capabilities that are needed to create files. One of them is CAP_SYS_ADMIN, for `trusted.overlay.opaque`, so a seccomp filter
refuses other privileged system calls.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
from collections.abc import Collection

from orlop_sdk.linux import CLONE_NEWNET, CLONE_NEWNS, mount, setns, umount, unshare

__all__ = ["confine", "enter", "enter_nothing", "own_mounts", "pivot"]

_CLONE_NEWIPC, _CLONE_NEWUTS, _CLONE_NEWUSER = 0x0800_0000, 0x0400_0000, 0x1000_0000
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 24, 38, 22
_CAP_VERSION_3 = 0x20080522
_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _SYS_ADMIN, _MKNOD, _SETFCAP = 0, 1, 3, 4, 21, 27, 31
_LAST_CAP = 40
_MAKING_FILES = (_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _MKNOD, _SETFCAP)
_MEMORY = 4 << 30

_libc = ctypes.CDLL(None, use_errno=True)

# The refused system calls, with their numbers on x86_64 and aarch64: the calls for mounts and namespaces, other processes,
# exec, kernel state and sockets.
_REFUSED = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "setns": (308, 268),
    "unshare": (272, 97),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kill": (62, 129),
    "rt_sigqueueinfo": (129, 138),
    "pidfd_send_signal": (424, 424),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "sethostname": (170, 161),
    "syslog": (103, 116),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "socket": (41, 198),
}
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def own_mounts() -> None:
    """Enter a new mount namespace, from which no mount propagates."""
    unshare(CLONE_NEWNS)
    mount("", "none", "/", ("rprivate",))


def enter(directory: str, *, recursive: bool = False) -> None:
    """Make `directory` the root, and detach everything else. Call `own_mounts` first. `recursive`: keep the mounts below
    `directory`."""
    mount("bind", directory, directory, ("rbind" if recursive else "bind", "nosuid", "nodev", "noexec"))
    pivot(directory)


def pivot(directory: str) -> None:
    """Make the mount at `directory` the root, and detach everything else."""
    os.chdir(directory)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    umount(".")
    os.chdir("/")


def enter_user_namespace(fd: int) -> None:
    """Become the root user of a container's user namespace. After this call, files have the ids that the container's
    processes see, and chown accepts no other ids. The function closes the descriptor. Make all mounts before this call."""
    setns(fd, _CLONE_NEWUSER)
    os.close(fd)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def enter_nothing() -> None:
    """Make an empty read-only directory the root, for a worker that needs only its descriptors. Call `own_mounts` first."""
    mount("tmpfs", "none", "/proc", ("ro", "size=4k"))
    enter("/proc")


def confine(
    *,
    file_size: int,
    trusted_xattrs: bool = False,
    makes_files: bool = True,
    memory: int = _MEMORY,
    allowed: Collection[str] = (),
) -> None:
    """Drop privileges and lower resource limits permanently. Call it before starting a thread. Without root privileges, only
    limits are lowered. `makes_files`: keep the capabilities that creating files of any owner and type needs. `allowed` names
    the system calls of `_REFUSED` that stay permitted. `memory` is the limit of the address space in bytes."""
    _lower_limit(resource.RLIMIT_CORE, 0)
    _lower_limit(resource.RLIMIT_FSIZE, file_size)
    _lower_limit(resource.RLIMIT_AS, memory)
    if os.geteuid():
        return
    _lower_limit(resource.RLIMIT_NOFILE, 2048)
    # The seccomp filter refuses sockets, so no network namespace is needed where the filter is available. This saves 3 ms
    # for each layer.
    known = platform.machine() in _ARCHITECTURES
    unshare(_CLONE_NEWIPC | _CLONE_NEWUTS | (0 if known else CLONE_NEWNET))
    _drop_capabilities({*(_MAKING_FILES if makes_files else ()), *([_SYS_ADMIN] if trusted_xattrs else ())})
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _filter_system_calls(allowed)


def _lower_limit(kind: int, most: int) -> None:
    """Lower a resource's soft and hard limit. If the hard limit is lower already, it is kept, because raising a limit needs
    CAP_SYS_RESOURCE, which the daemon may lack."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, most))


def _drop_capabilities(keep: set[int]) -> None:
    for capability in range(_LAST_CAP + 1):
        if capability not in keep:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # an old kernel may not know the capability (EINVAL)
    bits = sum(1 << capability for capability in keep)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    header = struct.pack("=Ii", _CAP_VERSION_3, 0)
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    _check(_libc.capset(header, data), "capset")


def _filter_system_calls(allowed: Collection[str]) -> None:
    """Install a seccomp filter (classic BPF): refused calls fail with EPERM, calls of another architecture kill the
    process."""
    known = _ARCHITECTURES.get(platform.machine())
    if known is None:
        return  # the system call numbers of this architecture are unknown; the other protections still apply
    column, audit = known
    load, equal, at_least, result = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x80000000, 0x00050001, 0x7FFF0000
    program = [(load, 0, 0, 4), (equal, 1, 0, audit), (result, 0, 0, kill), (load, 0, 0, 0)]
    if column == 0:
        program += [(at_least, 0, 1, 0x40000000), (result, 0, 0, kill)]  # calls of the x32 ABI kill the process
    for name, numbers in _REFUSED.items():
        if name not in allowed:
            program += [(equal, 0, 1, numbers[column]), (result, 0, 0, refuse)]
    program.append((result, 0, 0, allow))
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(buffer)))
    _check(_libc.prctl(_PR_SET_SECCOMP, 2, header, 0, 0), "seccomp")
