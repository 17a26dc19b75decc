"""The builder's part of the consistency check: files that builds have left in its directories. The engine's part compares
the snapshots of builds with their rows and with the storage driver."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from orlop_kernel.config import Config
from orlop_kernel.kinds import Services
from orlop_kernel.store import Examined
from orlop_sdk import Register, hookimpl
from orlop_sdk.files import delete_tree
from orlop_sdk.findings import WARNING, Finding, Remedy

from . import directories
from .cache import strays

__all__ = ["BuildCheck", "BuildCheckPlugin"]


@hookimpl
def orlop_check(register: Register) -> None:
    register("build", BuildCheckPlugin)


class BuildCheckPlugin:
    """Implements CheckPlugin."""

    @asynccontextmanager
    async def open(self, config: Config, services: Services) -> AsyncIterator[BuildCheck]:
        """See CheckPlugin."""
        yield BuildCheck(config, services.get("build"))


class BuildCheck:
    """Implements Check. `service` is the running `BuildService`, None without a daemon."""

    def __init__(self, config: Config, service: Any) -> None:
        self._config, self._service = config, service

    async def examine(self, database: Examined, *, deep: bool) -> list[Finding]:
        """See Check."""
        return await trio.to_thread.run_sync(lambda: list(self._findings()))

    def _findings(self) -> Iterator[Finding]:
        for domain in ("", *directories.domains(self._config)):
            root, runtime = directories.root(self._config, domain), directories.runtime(self._config, domain)
            found = strays.referenced(root)
            if not found.is_known and os.path.exists(os.path.join(root, "cache.db")):
                yield Finding(
                    severity=WARNING,
                    area="builds",
                    object=f"build cache {os.path.join(root, 'cache.db')}",
                    text="cannot be read: the next build renames it, and starts with an empty cache",
                    id=domain or "*",
                )
            for path in strays.strays(root, runtime, found):
                yield Finding(
                    severity=WARNING,
                    area="builds",
                    object=f"directory {path}",
                    text="was left by a build",
                    repair="remove it",
                    id=domain or "*",
                    remedy=Remedy("remove-build-directory", path),
                )

    def in_progress(self, finding: Finding) -> bool:
        """See Check. A running builder process may be using any file in its directories."""
        domain = "" if finding.id == "*" else finding.id
        return self._service is not None and bool(self._service.is_running(domain))

    async def repair(self, finding: Finding) -> bool:
        """See Check."""
        assert finding.remedy is not None
        path, domain = finding.remedy.subject, "" if finding.id == "*" else finding.id

        def remove() -> None:
            root, runtime = directories.root(self._config, domain), directories.runtime(self._config, domain)
            if path in strays.strays(root, runtime, strays.referenced(root)):
                delete_tree(path)

        if self._service is None:
            await trio.to_thread.run_sync(remove)
        else:
            await self._service.without_builder(domain, remove)
        return True

    async def facts(self, database: Examined) -> dict[str, str]:
        """See Check. A debug bundle contains no data about builds."""
        return {}
