"""Confines processes that run mutants: a mutant may delete files or kill processes that the removed guard protected."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile

from orlop_sdk import linux

__all__ = ["confine"]

_CLONE_NEWPID = 0x2000_0000
_PR_SET_DUMPABLE = 4
_NOBODY = 65534
_SCRATCH = "/run/m"
"""A short path, because sockets lie below this directory."""


def confine(*, root: bool) -> None:
    """Make the machine read-only for this process and its children, except for a new directory of temporary files, and hide
    all other processes. With `root` false, the process runs as nobody afterwards. If the process is not root, only the
    directory of temporary files is changed. The process must be single-threaded. The function forks and returns in the
    child."""
    if os.geteuid() != 0:
        _use(tempfile.mkdtemp(prefix="om-", dir="/var/tmp"))
        return
    linux.unshare(linux.CLONE_NEWNS | _CLONE_NEWPID)
    _become_child()
    steps = [
        ("--make-rprivate", "/"),
        ("-o", "remount,bind,ro=recursive", "/"),
        ("-t", "proc", "proc", "/proc"),
        *(("-t", "tmpfs", "tmpfs", path) for path in ("/run", "/dev/shm")),
    ]
    for step in steps:
        subprocess.run(["mount", *step], check=True)
    os.chdir(os.getcwd())  # enter the directory again, through the read-only mount
    os.mkdir(_SCRATCH)
    if not root:
        os.chown(_SCRATCH, _NOBODY, _NOBODY)
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # otherwise /proc/self belongs to root
    os.environ.update(HOME=_SCRATCH, LOGNAME="root" if root else "nobody")
    _use(_SCRATCH)


def _use(scratch: str) -> None:
    os.environ.pop("PYTEST_DEBUG_TEMPROOT", None)  # pytest prefers it to TMPDIR
    os.environ["TMPDIR"] = tempfile.tempdir = scratch


def _become_child() -> None:
    """Fork. The parent exits with the exit status of the child. The child is the first process of the new pid namespace, so
    when it exits, the kernel kills all others."""
    child = os.fork()
    if child == 0:
        linux.set_parent_death_signal(9)
        return
    status = os.waitpid(child, 0)[1]
    os._exit(abs(os.waitstatus_to_exitcode(status)))
