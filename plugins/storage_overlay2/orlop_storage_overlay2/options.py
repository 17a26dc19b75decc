"""Mount options of an overlay. No I/O."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from orlop_sdk import DriverError, InvalidParameter, Mount

__all__ = ["MAX_LOWERS", "check_options", "check_root", "overlay_mount", "plain_mount"]

MAX_LOWERS = 128  # Docker's; `max depth exceeded`
_PAGE = 4095  # mount(2) copies one page of options, including the terminating NUL

# Set explicitly, because a host may change the defaults by module parameters. Other values would change the format of layers
# (metacopy, redirect_dir), or refuse lower directories that several mounts share (index).
_FIXED = ("index=off", "xino=off", "metacopy=off", "redirect_dir=off", "nfs_export=off")


def check_options(options: Iterable[tuple[str, str]]) -> None:
    """Raise `InvalidParameter` for an option of `storage-opts` that this driver does not have. Names are without the prefix
    `overlay2.`."""
    for name, _ in options:
        if name == "size":
            raise InvalidParameter("cannot use storage option overlay2.size: this driver has no quotas")
        if name != "override_kernel_check":  # has no effect in Docker since 20.10, but is accepted
            raise InvalidParameter(f"overlay2: unknown option overlay2.{name}")


def check_root(root: str) -> None:
    """Raise `InvalidParameter` when `root` contains a character that has a meaning in mount options."""
    for character in ",:\\":
        if character in root:
            raise InvalidParameter(f"cannot use {root} for overlay2: its path must not contain {character!r}")


def plain_mount(diff: str, *, readonly: bool) -> tuple[Mount, ...]:
    """The mount of a single layer, which needs no overlay."""
    return (Mount("bind", diff, "", ("bind", "ro" if readonly else "rw", "rprivate")),)


def overlay_mount(
    root: str, lowers: Sequence[str], directory: str | None = None, *, volatile: bool = False
) -> tuple[Mount, ...]:
    """Stack `lowers` (paths below `root`, uppermost first) below the writable layer `directory` (None: read-only). Raises
    `DriverError` when the options do not fit in a page even with paths relative to `root`, which `linux.mount` uses if
    necessary. 128 layers fit."""
    options = [*_FIXED, "lowerdir=" + ":".join(f"{root}/{path}" for path in lowers)]
    if directory is not None:
        options += [f"upperdir={directory}/diff", f"workdir={directory}/work"]
    if directory is not None and volatile:
        options.append("volatile")
    length = len(os.fsencode(",".join(options))) - len(os.fsencode(root) + b"/") * (
        len(lowers) + 2 * (directory is not None)
    )
    if len(lowers) > MAX_LOWERS or length > _PAGE:
        raise DriverError(f"cannot mount {len(lowers)} layers: max depth exceeded, {MAX_LOWERS} is the most")
    return (Mount("overlay", "overlay", "", ("rw" if directory is not None else "ro", *options)),)
