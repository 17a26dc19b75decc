"""The guard's part of the consistency check. It checks that only root can read the audit log and its rotated files."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio

from orlop_kernel.config import Config
from orlop_kernel.kinds import Services
from orlop_kernel.store import Examined
from orlop_sdk import Register, hookimpl
from orlop_sdk.findings import ERROR, Finding, Remedy

from .audit_file import MODE, file_names
from .keys import AccessKeys

__all__ = ["AuditCheck", "AuditCheckPlugin"]


@hookimpl
def orlop_check(register: Register) -> None:
    register("listeners", AuditCheckPlugin)


class AuditCheckPlugin:
    """Implements CheckPlugin."""

    @asynccontextmanager
    async def open(self, config: Config, services: Services) -> AsyncIterator[AuditCheck]:
        """See CheckPlugin."""
        audit_log = config.part(AccessKeys).audit_log
        yield AuditCheck(file_names(audit_log.path, audit_log.max_file) if audit_log else ())


class AuditCheck:
    """Implements Check. A missing file is no finding, because the first logged line creates the file."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._paths = paths

    async def examine(self, database: Examined, *, deep: bool) -> list[Finding]:
        """See Check."""
        return await trio.to_thread.run_sync(lambda: [found for path in self._paths for found in _of(path)])

    def in_progress(self, finding: Finding) -> bool:
        """See Check. The result is always False, because rotation only renames files that already have the right mode."""
        return False

    async def repair(self, finding: Finding) -> bool:
        """See Check."""
        assert finding.remedy is not None and finding.remedy.subject in self._paths
        await trio.to_thread.run_sync(_restrict, finding.remedy.subject)
        return True

    async def facts(self, database: Examined) -> dict[str, str]:
        """See Check. The log contains the activity of people, so no part of it is in a bundle."""
        return {}


def _of(path: str) -> Iterator[Finding]:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        yield Finding(severity=ERROR, area="access", object=f"audit log {path}", text="is not a regular file")
    elif status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & ~MODE:
        yield Finding(
            severity=ERROR,
            area="access",
            object=f"audit log {path}",
            text=f"is accessible to users other than root (owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o})",
            repair=f"change its owner to root and its mode to {MODE:04o}",
            remedy=Remedy("restrict", path),
        )


def _restrict(path: str) -> None:
    """Set the mode through a file descriptor, because another user may own the directory."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.fchown(fd, os.geteuid(), -1)
            os.fchmod(fd, MODE)
    finally:
        os.close(fd)
