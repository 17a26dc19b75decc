"""The engine's part of daemon.json: its keys, their checks, and the default drivers. This package does not import trio."""

from .keys import AddressPool, EngineKeys, Proxies, RegistryRules, RuntimeEntry, Ulimit
from .model import Config

__all__ = ["AddressPool", "Config", "EngineKeys", "Proxies", "RegistryRules", "RuntimeEntry", "Ulimit"]
