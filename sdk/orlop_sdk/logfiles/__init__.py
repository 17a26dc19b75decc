"""Log files for log drivers: rotation, compression, reading across rotations, options and attributes.

A driver implements only the record format (`RecordFormat`). The files are named as in dockerd: `PATH` is the current file,
`PATH.1` the newest rotated file, up to `PATH.(max-file - 1)`. Compressed files are `PATH.N.gz`; their gzip header holds
`{"lastTime": ...}`.

The writer (`RotatingFile`) belongs to the container's monitor, readers (`FileLogReader`) to the daemon. They share only the
directory: after a rotation, a reader finds its file again by the inode of its open descriptor. A killed writer can leave a
torn record at the end of the current file. Readers skip such a record, and the next open for writing removes it. A killed
writer can also leave an unfinished `.tmp` file next to a rotated file. The next open for writing then compresses the rotated
file again.

`orlop_sdk` does not import this package, so that programs without log drivers need not load it.
"""

from ._attributes import ATTRIBUTE_OPTIONS, extra_attributes, log_tag, selected_attributes
from ._format import RecordFormat
from ._options import FILE_AND_ATTRIBUTE_OPTIONS, FileOptions, buffer_size, check_options, file_options
from ._reading import FileLogReader
from ._rotation import RotatingFile
from ._time import TimeFormatter, rfc3339

__all__ = [
    "ATTRIBUTE_OPTIONS",
    "FILE_AND_ATTRIBUTE_OPTIONS",
    "FileLogReader",
    "FileOptions",
    "RecordFormat",
    "RotatingFile",
    "TimeFormatter",
    "buffer_size",
    "check_options",
    "extra_attributes",
    "file_options",
    "log_tag",
    "rfc3339",
    "selected_attributes",
]
