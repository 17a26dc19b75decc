"""Sets up this process: its directories, locks, limits and priority. Called after the processes of services have started:
containers descend from these processes, and must not inherit the settings.
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

__all__ = ["BootPriority", "client_limits", "roots", "set_limits"]

_log = logging.getLogger("orlop.daemon")
_MOST_CONNECTIONS = 16_384  # each connection takes some 10 KiB of memory
_FEWEST = 16
_MOST_BUFFERED = 64 << 20  # bytes for each client: sixteen bodies of the largest size
_BUFFERS = 2 << 20  # bytes of freed memory that malloc keeps, because streaming allocates and frees buffers all the time
_OOM_SCORE = -500  # dockerd's value: when memory runs out, the kernel kills most other processes first
_BOOT_NICE = -10


@contextmanager
def roots(config: Config) -> Iterator[None]:
    """Create the directories and lock the exec root (the store locks the data root)."""
    from orlop_kernel.store import lock_root

    # The mode of Docker's data root: no user may reach a setuid program in a volume by its path on the host.
    for path, mode in ((config.data_root, 0o710), (config.exec_root, 0o711)):
        try:
            os.makedirs(path, mode=mode, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make directory {path}: {error.strerror}") from error
    lock = lock_root(config.exec_root, "exec root")
    try:
        yield
    finally:
        os.close(lock)


def set_limits() -> None:
    """Raise the limit of open files, lower the OOM score, and enable stack dumps for aborts."""
    linux.keep_freed_memory(_BUFFERS)
    # If systemd's watchdog aborts this process, the log gets the stacks of all threads; a core dump could fill the disk
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            if int(file.read()) > _OOM_SCORE:
                file.write(str(_OOM_SCORE))
    except OSError as error:
        _log.debug("cannot adjust the OOM score: %s", error)  # a container may lack CAP_SYS_RESOURCE


class BootPriority:
    """A higher priority while the daemon starts. The start takes a quarter of a second of processor time. At the usual
    priority, busy containers could delay the start for seconds."""

    def __init__(self) -> None:
        self._usual = os.getpriority(os.PRIO_PROCESS, 0)

    def raise_(self) -> None:
        """Raise the priority of this thread, and thus of the threads and processes that it starts."""
        if self._usual <= _BOOT_NICE:
            return
        try:
            os.setpriority(os.PRIO_PROCESS, 0, _BOOT_NICE)
        except OSError as error:
            _log.debug("cannot raise the priority of the start: %s", error)  # the daemon may lack CAP_SYS_NICE

    def restore(self) -> None:
        """Give all threads the usual priority."""
        for thread in os.listdir("/proc/self/task"):
            try:
                os.setpriority(os.PRIO_PROCESS, int(thread), self._usual)
            except ProcessLookupError:
                pass  # the thread has ended


def client_limits(guarded: int) -> tuple[Limits, Limits]:
    """The limits for clients of `hosts`, and for clients of each entry of `listeners` (`guarded` is the number of entries).
    A connection uses one descriptor, and up to three more while a request streams. A sixteenth of all descriptors is
    reserved for the daemon's own work. Another sixteenth is reserved for clients of `hosts`, so that an administrator can
    always connect."""
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
