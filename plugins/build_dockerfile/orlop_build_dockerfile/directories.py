"""The directories of builder processes. orlopd imports this module together with the service, so this module has no
imports."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orlop_kernel.config import Config

__all__ = ["domains", "root", "runtime"]


def root(config: Config, domain: str) -> str:
    """The directory of a domain's builder, for data that survives a reboot: cache, contexts, cache mounts."""
    return _below(config.data_root, domain)


def runtime(config: Config, domain: str) -> str:
    """The directory of a domain's builder for data that must not be stored on disk."""
    return _below(config.exec_root, domain)


def _below(directory: str, domain: str) -> str:
    return os.path.join(directory, "builds", domain) if domain else os.path.join(directory, "build")


def domains(config: Config) -> list[str]:
    """The domains that have a directory, except ""."""
    try:
        return sorted(os.listdir(os.path.join(config.data_root, "builds")))
    except FileNotFoundError:
        return []
