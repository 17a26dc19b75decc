"""What log drivers that keep files have in common: rotation, compression, reading across both, options, attributes.

A driver brings its record format (`RecordFormat`, which never touches a file) and gets the rest. On disk, as dockerd has it:
`PATH` is the current file, `PATH.1` the newest rotated one, up to `PATH.(max-file - 1)`; with compression `PATH.N.gz`, whose
gzip header carries `{"lastTime": ...}`.

The writer (`RotatingFile`) belongs to the container's monitor, readers (`FileLogReader`) to the daemon. They share nothing
but the directory: a reader finds its place again by the inode it holds open. Of a writer that was killed in the middle
there can be left: a torn record at the end of the current file (cut off at the next open, never shown by a reader), a
rotated file that is not compressed yet and a `.tmp` beside it (done again at the next open).

Not imported by `orlop_sdk` itself: only log drivers pay for it.
"""

from ._attributes import extra_attributes
from ._format import RecordFormat
from ._options import FILE_AND_ATTRIBUTE_OPTIONS, FileOptions, buffer_size, check_options, file_options
from ._reading import FileLogReader
from ._rotation import RotatingFile
from ._time import TimeFormatter, rfc3339

__all__ = [
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
    "rfc3339",
]
