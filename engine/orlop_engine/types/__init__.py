"""Structs with Docker's field names: the configuration of containers, images, networks and volumes, in requests, rows and
image documents. This package contains no logic and does not import trio. The structs of answers are in
`orlop_api_docker.wire`."""

from __future__ import annotations

from orlop_sdk.base import ZERO_TIME, ConfigBase, WireBase, parse_rfc3339, rfc3339

__all__ = ["ZERO_TIME", "ConfigBase", "WireBase", "parse_rfc3339", "rfc3339"]
