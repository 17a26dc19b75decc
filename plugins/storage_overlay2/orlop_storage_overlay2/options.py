"""The driver's options in daemon.json. This module does no I/O."""

from __future__ import annotations

from collections.abc import Iterable

from orlop_sdk import InvalidParameter

__all__ = ["check_options"]


def check_options(options: Iterable[tuple[str, str]]) -> None:
    """Raise `InvalidParameter` for an option of `storage-opts` that this driver does not have. Names are without the prefix
    `overlay2.`."""
    for name, _ in options:
        if name == "size":
            raise InvalidParameter("cannot use storage option overlay2.size: this driver has no quotas")
        if name != "override_kernel_check":  # Docker still accepts this option, which has no effect since 20.10
            raise InvalidParameter(f"overlay2: unknown option overlay2.{name}")
