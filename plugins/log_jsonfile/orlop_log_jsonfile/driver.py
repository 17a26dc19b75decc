"""The driver and its writer. Files: `<directory>/<id>-json.log` and its rotated files, mode 0640."""

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

from .records import JsonEncoder, JsonRecords

__all__ = ["JsonFile", "JsonFileWriter"]

_DEFAULT = FileOptions(max_size=None, max_files=1, compress=False)


class JsonFileWriter:
    """Implements `LogWriter`. `dropped` is the number of records that were lost because of a full disk."""

    def __init__(self, path: str, options: FileOptions, attributes: Mapping[str, str]) -> None:
        self._file = RotatingFile(path, options, JsonRecords())
        self._encode = JsonEncoder(attributes)

    @property
    def dropped(self) -> int:
        return self._file.dropped

    def write(self, blocks: Sequence[LogBlock]) -> None:
        if blocks:
            encode = self._encode
            data = encode(blocks[0]) if len(blocks) == 1 else b"".join([encode(block) for block in blocks])
            self._file.append(data, max(block.time_ns for block in blocks))

    def close(self) -> None:
        self._file.close()


class JsonFile:
    """Implements `LogDriver`."""

    capabilities = LogCapabilities(readable=True, stores=True)

    def validate(self, options: Mapping[str, str]) -> None:
        check_options("json-file", options, FILE_AND_ATTRIBUTE_OPTIONS)
        file_options(options, _DEFAULT)

    def open_writer(self, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
        return JsonFileWriter(self.path(info), file_options(options, _DEFAULT), extra_attributes(info, options))

    def open_reader(self, info: LogInfo, options: Mapping[str, str], query: LogQuery) -> LogReader:
        return FileLogReader(self.path(info), JsonRecords(), query)

    def path(self, info: LogInfo) -> str:
        return os.path.join(info.directory, f"{info.container_id}-json.log")
