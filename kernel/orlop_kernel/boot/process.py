"""This process among others: its roots, its locks, its limits. What is set here must not reach containers, which come out
of the zygote: it is set after that has started.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from orlop_kernel.config import Config, ConfigError
from orlop_kernel.http.messages import Limits
from orlop_sdk import linux

__all__ = ["adjust", "client_limits", "refuse_foreign", "roots"]

_log = logging.getLogger("orlop.daemon")
_MOST_CONNECTIONS = 16_384  # each costs memory as well: some 10 KiB
_FEWEST = 16
_MOST_BUFFERED = 64 << 20  # sixteen bodies of the largest kind, of one client at the same time
_BUFFERS = 2 << 20  # what relaying a stream allocates and frees in turn
_OOM_SCORE = -500  # dockerd's: killed late, but before nothing is left
# What dockerd, podman and containerd keep in theirs, and what a root of ours without its database would have
_SIGNS = frozenset(
    {"containers", "image", "overlay2", "overlay-containers", "volumes", "buildkit", "io.containerd.metadata.v1.bolt"}
)


def refuse_foreign(data_root: str) -> None:
    """A `data-root` written for another engine (its daemon.json is read where ours is missing): at boot we would remove what
    our database does not know, which is all of it."""
    names = set(os.listdir(data_root))
    if "orlop.db" not in names and (found := sorted(names & _SIGNS)):
        raise ConfigError(
            f"cannot use data root {data_root}: it holds data of another engine ({', '.join(found)}) and no orlop.db; "
            "give Orlop a data-root of its own in /etc/orlop/daemon.json"
        )


@contextmanager
def roots(config: Config) -> Iterator[None]:
    """The directories exist, and the exec root is ours alone (the store holds the data root)."""
    from orlop_kernel.store import lock_root

    # The data root as Docker's: nobody shall reach a setuid program in a volume by its path on the host.
    for path, mode in ((config.data_root, 0o710), (config.exec_root, 0o711)):
        try:
            os.makedirs(path, mode=mode, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make directory {path}: {error.strerror}") from error
    refuse_foreign(config.data_root)
    lock = lock_root(config.exec_root, "exec root")
    try:
        yield
    finally:
        os.close(lock)


def adjust() -> None:
    """As many files as we may have; late on the kernel's list when memory is short; heard of when we hang."""
    linux.keep_freed_memory(_BUFFERS)
    # Where every thread is goes to the log when a watchdog aborts us; the core would only fill the disk
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            if int(file.read()) > _OOM_SCORE:
                file.write(str(_OOM_SCORE))
    except OSError as error:
        _log.debug("cannot adjust the OOM score: %s", error)  # in a container, without CAP_SYS_RESOURCE


def client_limits(guarded: int) -> tuple[Limits, Limits]:
    """What clients of `hosts` may have of this process, and what those of each of so many further listeners may, in shares
    of its limit of files. A connection takes one, and its request up to three more while it streams. One sixteenth is kept
    for the daemon's own work, another one from the further listeners, so that an administrator always gets in."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    share = min(max(files // 16, 32), 1024)
    here = min(files // 4, _MOST_CONNECTIONS)
    there = max(min(files // 8, _MOST_CONNECTIONS // 4) // max(guarded, 1), _FEWEST)
    return (
        Limits(
            connections=here,
            connections_by_peer=here // 2,
            buffered_by_peer=_MOST_BUFFERED,
            descriptors=files - share,
        ),
        Limits(
            connections=there,
            connections_by_peer=max(there // 2, _FEWEST),
            buffered_by_peer=_MOST_BUFFERED,
            descriptors=files - 2 * share,
            descriptors_by_request=True,
        ),
    )
