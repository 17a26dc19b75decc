"""The driver, which drops every record and has no reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orlop_sdk import LogBlock, LogCapabilities, LogInfo, LogQuery, LogReader, LogWriter, NotImplementedHere

__all__ = ["NoLog", "NoLogWriter"]


class NoLogWriter:
    """Implements `LogWriter`."""

    def write(self, blocks: Sequence[LogBlock]) -> None:
        pass

    def close(self) -> None:
        pass


class NoLog:
    """Implements `LogDriver`."""

    capabilities = LogCapabilities(readable=False, stores=False)

    def validate(self, options: Mapping[str, str]) -> None:
        """Accepts any option, as in dockerd, because `log-opts` of daemon.json may be for another driver."""

    def open_writer(self, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
        return NoLogWriter()

    def open_reader(self, info: LogInfo, options: Mapping[str, str], query: LogQuery) -> LogReader:
        raise NotImplementedHere("configured logging driver does not support reading")

    def path(self, info: LogInfo) -> str:
        return ""
