"""Runs helper programs (runtimes and the init) to get their versions and features. Each command line is run only once, with
a deadline. A failure is logged, and the command line is run again at the next request, because the administrator may have
fixed the cause."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import msgspec
import trio

from orlop_engine.calls import asked
from orlop_engine.commands import run_supervised
from orlop_sdk import Command, OrlopError, Runtime, RuntimeFeatures

__all__ = ["Programs", "parse_init_version"]

_log = logging.getLogger("orlop.system")
_PATIENCE = 3.0
_FEATURES = "org.opencontainers.runtime-spec.features"  # Docker's key for the features in a runtime's status
_INIT_VERSION = re.compile(r"version (\S+)(?: - git\.(\S+))?")


def parse_init_version(output: str) -> str:
    """The commit of the init program, for `info`. It is de40ad0 for "tini version 0.19.0 - git.de40ad0". Debian's tini
    prints no commit ("tini version 0.19.0"): then it is the version, 0.19.0. For other output, it is ""."""
    match = _INIT_VERSION.search(output)
    return (match[2] or match[1]) if match else ""


class _Features(msgspec.Struct, rename="camel"):
    mount_options: frozenset[str] = frozenset()


class Programs:
    """The helper programs, and the cached results of their calls. Each engine has one instance."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, ...], str] = {}

    async def _ask(self, asking: Callable[[], Command]) -> str:
        """The output of a command that a method of a runtime returns; "" if the command fails."""
        try:
            command = await asked(asking)
        except OrlopError as error:
            _log.warning("%s", error)
            return ""
        return await self._run(command)

    async def _run(self, command: Command) -> str:
        if command.argv not in self._answers:
            try:
                with trio.fail_after(_PATIENCE):
                    outcome = await run_supervised(command, limit=1 << 20)
            except (OSError, OrlopError, trio.TooSlowError) as error:
                _log.warning("%s failed: %s", " ".join(command.argv), error)
                return ""
            self._answers[command.argv] = outcome.stdout.decode("utf-8", "replace") if not outcome.status else ""
        return self._answers[command.argv]

    async def runtime_version(self, runtime: Runtime) -> str:
        return await self._ask(runtime.version)

    async def runtime_status(self, runtime: Runtime) -> dict[str, str]:
        """The `status` of a runtime in `info`; empty if it reports no features."""
        if not isinstance(runtime, RuntimeFeatures):
            return {}
        text = await self._ask(runtime.features)
        try:
            return {_FEATURES: msgspec.json.encode(msgspec.json.decode(text)).decode()} if text else {}
        except msgspec.DecodeError:
            return {}

    async def mount_options(self, runtime: Runtime) -> frozenset[str]:
        """The mount options that a runtime supports; empty if it reports no features."""
        try:
            told = msgspec.json.decode((await self.runtime_status(runtime)).get(_FEATURES, "{}"), type=_Features)
        except msgspec.MsgspecError:
            return frozenset()
        return told.mount_options

    async def init_version(self, path: str) -> str:
        return parse_init_version(await self._run(Command((path, "--version"), timeout=_PATIENCE))) if path else ""
