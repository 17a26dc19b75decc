"""What the daemon knows of itself and of the machine: identity, `info`, `version`, disk usage."""

from .service import System

__all__ = ["System"]
