"""Functions about the host's file system: syncing a small layer, and finding out whether directories contain the types of
files. All functions block."""

from __future__ import annotations

import ctypes
import os
import stat

from orlop_sdk.snapshots import fsync_directory, fsync_file

__all__ = ["sync_few", "tells_types"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.opendir.restype = _libc.readdir.restype = ctypes.c_void_p
_libc.readdir.argtypes = _libc.closedir.argtypes = [ctypes.c_void_p]
_FEW = 64  # files; smaller layers are synced file by file, because syncfs waits for the dirty data of all processes


def sync_few(directory: str) -> bool:
    """Sync a small tree of regular files and directories. If the tree is large or contains other types of files, syncs
    nothing and returns False."""
    files, directories = list[str](), [directory]
    for here in directories:  # the loop appends the subdirectories that it finds
        with os.scandir(here) as entries:
            for entry in entries:
                mode = entry.stat(follow_symlinks=False).st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    return False
                (directories if stat.S_ISDIR(mode) else files).append(entry.path)
                if len(files) + len(directories) > 1 + _FEW:
                    return False
    for path in files:
        fsync_file(path)
    for path in directories:
        fsync_directory(path)
    return True


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("ino", ctypes.c_uint64),
        ("off", ctypes.c_int64),
        ("reclen", ctypes.c_uint16),
        ("type", ctypes.c_uint8),
        ("name", ctypes.c_char * 256),
    )


def tells_types(directory: str) -> bool:
    """Whether the file system stores file types in directories (d_type), which overlayfs needs to recognize whiteouts."""
    stream = _libc.opendir(os.fsencode(directory))
    if not stream:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)
    try:
        while entry := _libc.readdir(stream):
            dirent = ctypes.cast(entry, ctypes.POINTER(_Dirent)).contents
            if dirent.name not in (b".", b"..") and dirent.type == 0:
                return False
        return True
    finally:
        _libc.closedir(stream)
