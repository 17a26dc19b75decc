"""The parts that all log drivers for services have."""

from __future__ import annotations

from collections.abc import Mapping

from orlop_sdk.errors import NotImplementedHere
from orlop_sdk.log import LogCapabilities, LogInfo, LogQuery, LogReader

__all__ = ["ServiceLog"]


class ServiceLog:
    """Base of a `LogDriver` that cannot read the log. A subclass implements `validate` and `open_writer`. For `docker logs`,
    the daemon stores a copy of the log."""

    capabilities = LogCapabilities(readable=False, stores=False)

    def open_reader(self, info: LogInfo, options: Mapping[str, str], query: LogQuery) -> LogReader:
        raise NotImplementedHere("configured logging driver does not support reading")

    def path(self, info: LogInfo) -> str:
        return ""
