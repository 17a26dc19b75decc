"""The Engine API and daemon.json as msgspec Structs: public, versioned with the SPI, imports no trio.

One module per resource; `base` has what they share. Field names in JSON are exactly Docker's.
"""

from __future__ import annotations

from orlop_sdk.base import ZERO_TIME, ConfigBase, WireBase, parse_rfc3339, rfc3339

__all__ = ["ZERO_TIME", "ConfigBase", "WireBase", "parse_rfc3339", "rfc3339"]
