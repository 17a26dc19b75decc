"""Structs with Docker's field names: what a container, an image, a network or a volume shall be, as requests, rows and
image documents have it. No logic, no trio. Answers: `orlop_api_docker.wire`."""

from __future__ import annotations

from orlop_sdk.base import ZERO_TIME, ConfigBase, WireBase, parse_rfc3339, rfc3339

__all__ = ["ZERO_TIME", "ConfigBase", "WireBase", "parse_rfc3339", "rfc3339"]
