"""Errors of registries for which the SDK has no error, because only registries report them."""

from __future__ import annotations

from orlop_sdk import OrlopError

__all__ = ["RegistryRefusal"]


class RegistryRefusal(OrlopError):
    """A registry refused a request. `status` is the HTTP status that belongs to the registry's error code. The daemon
    answers its own client with the same status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
