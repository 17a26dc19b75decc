"""The driver's options in daemon.json, and the command line of mkfs.erofs."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from orlop_sdk import InvalidParameter

from .host import check_installed

__all__ = ["Options", "check_options", "mkfs_command", "parse_options"]

_VALUES = {
    "mode": ("index", "full"),
    "mount": ("auto", "file", "loop"),
    "verify": ("none", "digest"),
}
_COMPRESSION = re.compile(r"(lz4|lz4hc(,level=\d{1,2})?|zstd(,level=\d{1,2})?)")


class Options(msgspec.Struct, frozen=True):
    """`mode`: "index" keeps the layer's tar and makes an index of it, "full" makes a whole file system. `compression` is an
    argument of `mkfs.erofs -z`, "" for none; it is only possible with "full". `mount`: how images are mounted, see
    `host.probe`. `verify`: "digest" checks an image's files before its first mount after each start of the daemon."""

    mode: str = "index"
    compression: str = ""
    mount: str = "auto"
    verify: str = "none"


def parse_options(pairs: Iterable[tuple[str, str]]) -> Options:
    """Decode `storage-opts`, without the prefix "erofs.". Raises `InvalidParameter`."""
    given: dict[str, str] = {}
    for name, value in pairs:
        if name == "size":
            raise InvalidParameter("cannot use storage option erofs.size: this driver has no quotas")
        if name == "compression":
            if not _COMPRESSION.fullmatch(value):
                raise InvalidParameter(
                    f"invalid erofs.compression {value!r}: it must be lz4, lz4hc[,level=N] or zstd[,level=N]"
                )
        elif name not in _VALUES:
            raise InvalidParameter(f"erofs: unknown option erofs.{name}")
        elif value not in _VALUES[name]:
            raise InvalidParameter(f"invalid erofs.{name} {value!r}: it must be {' or '.join(_VALUES[name])}")
        given[name] = value
    if "compression" in given and given.get("mode") != "full":
        raise InvalidParameter("cannot use erofs.compression without erofs.mode=full: an index refers to a plain tar")
    return Options(**given)


def check_options(pairs: Iterable[tuple[str, str]]) -> None:
    """Raise `InvalidParameter` for invalid options. Raise `DriverError` if this host lacks a program or a feature that the
    driver needs."""
    parse_options(pairs)
    check_installed()


def mkfs_command(program: str, options: Options, image: str) -> tuple[str, ...]:
    """The command that makes `image` from the tar on standard input. `--aufs` converts whiteouts of OCI to whiteouts of
    overlayfs."""
    command = (program, "--quiet", "--aufs")
    if options.mode == "index":
        return (*command, "--tar=i", image)
    if options.compression:
        return (*command, "--tar=f", f"-z{options.compression}", "-C65536", image)
    return (*command, "--tar=f", "--sort=none", image)  # keep the order of the tar, so that data is written only once
