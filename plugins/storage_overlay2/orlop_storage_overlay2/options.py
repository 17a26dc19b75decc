"""Mount options of an overlay. Sans-IO."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from orlop_sdk import DriverError, InvalidParameter, Mount

__all__ = ["MAX_LOWERS", "check_options", "check_root", "overlay_mount", "plain_mount"]

MAX_LOWERS = 128  # Docker's; `max depth exceeded`
_PAGE = 4095  # mount(2) copies a page of options, with its end

# Written out although they are the kernel's defaults: a host that sets others for the module would change the format of
# layers (metacopy, redirect_dir), or refuse lower directories that several mounts share (index).
_FIXED = ("index=off", "xino=off", "metacopy=off", "redirect_dir=off", "nfs_export=off")


def check_options(options: Iterable[tuple[str, str]]) -> None:
    """`InvalidParameter` for an option of `storage-opts` that this driver does not have; names are without the prefix
    `overlay2.`."""
    for name, _ in options:
        if name == "size":
            raise InvalidParameter("cannot use storage option overlay2.size: this driver has no quotas")
        if name != "override_kernel_check":  # accepted and without effect in Docker since 20.10
            raise InvalidParameter(f"overlay2: unknown option overlay2.{name}")


def check_root(root: str) -> None:
    """`InvalidParameter` when mount options could not name directories below `root`."""
    for character in ",:\\":
        if character in root:
            raise InvalidParameter(f"cannot use {root} for overlay2: its path must not contain {character!r}")


def plain_mount(diff: str, *, readonly: bool) -> tuple[Mount, ...]:
    """A single layer needs no overlay: its directory is the root."""
    return (Mount("bind", diff, "", ("bind", "ro" if readonly else "rw", "rprivate")),)


def overlay_mount(
    root: str, lowers: Sequence[str], directory: str | None = None, *, volatile: bool = False
) -> tuple[Mount, ...]:
    """Stack layers (paths below `root`), uppermost first, below the writable layer `directory` (None: read-only).
    `DriverError` when the options can not be made to fit: they fit for 128 layers when named relative to `root`, which
    the mounting side does where needed."""
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
