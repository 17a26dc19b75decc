"""The driver and its writer. Files: `<directory>/local-logs/container.log` and its rotated files, mode 0640."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from orlop_sdk import LogBlock, LogCapabilities, LogInfo, LogQuery, LogReader, LogWriter
from orlop_sdk.logfiles import (
    FILE_AND_ATTRIBUTE_OPTIONS,
    FileLogReader,
    FileOptions,
    RotatingFile,
    check_options,
    extra_attributes,
    file_options,
)

from .frames import Frames, encode, encode_attributes

__all__ = ["LocalLog", "LocalLogWriter"]

_DEFAULT = FileOptions(max_size=20 << 20, max_files=5, compress=True)
_FRAME_MIN, _FRAME_MAX = 1 << 10, 1 << 20


def _file(info: LogInfo) -> str:
    directory = os.path.join(info.directory, "local-logs")
    try:
        os.mkdir(directory, 0o700)
    except OSError:
        pass  # the directory exists; if its parent is missing, opening the file reports the error
    return os.path.join(directory, "container.log")


class LocalLogWriter:
    """Implements `LogWriter`. `dropped` is the number of entries that were lost because of a full disk."""

    def __init__(self, path: str, options: FileOptions, attributes: dict[str, str]) -> None:
        self._file = RotatingFile(path, options, Frames())
        self._attributes = encode_attributes(attributes)
        # A file may be larger than max-size by one frame, so a small max-size needs small frames.
        self._limit = min(_FRAME_MAX, max(_FRAME_MIN, (options.max_size or _FRAME_MAX) // 16))

    @property
    def dropped(self) -> int:
        return self._file.dropped

    def write(self, blocks: Sequence[LogBlock]) -> None:
        if blocks:
            data = b"".join([encode(block, self._attributes, self._limit) for block in blocks])
            self._file.append(data, max(block.time_ns for block in blocks))

    def close(self) -> None:
        self._file.close()


class LocalLog:
    """Implements `LogDriver`. `LogPath` of inspect is empty, as in dockerd, because tools expect a JSON file at this
    path."""

    capabilities = LogCapabilities(readable=True, stores=False)

    def validate(self, options: Mapping[str, str]) -> None:
        check_options("local", options, FILE_AND_ATTRIBUTE_OPTIONS)
        file_options(options, _DEFAULT)

    def open_writer(self, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
        return LocalLogWriter(_file(info), file_options(options, _DEFAULT), extra_attributes(info, options))

    def open_reader(self, info: LogInfo, options: Mapping[str, str], query: LogQuery) -> LogReader:
        return FileLogReader(_file(info), Frames(), query)

    def path(self, info: LogInfo) -> str:
        return ""
