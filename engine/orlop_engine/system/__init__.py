"""What the daemon knows of itself and of the machine: identity, `info`, `version`, disk usage."""

from orlop_kernel.identity import engine_id

from .service import System

__all__ = ["System", "engine_id"]
