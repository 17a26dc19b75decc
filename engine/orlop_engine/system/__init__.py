"""Information about the daemon and the host: identity, `info`, `version`, disk usage."""

from .service import System

__all__ = ["System"]
