"""The Docker Engine API over the engine: one thin module per resource, which decodes, calls the engine and encodes.

`router` is the HTTP handler, `call` what a route's handler gets, `responses` what it answers with, `errors` the only place
where exceptions become status codes. Nothing here decides what a container is.
"""

from __future__ import annotations

API_VERSION = "1.51"
"""The newest version whose behaviour is implemented; what a path without a version gets."""

MIN_API_VERSION = "1.24"

__all__ = ["API_VERSION", "MIN_API_VERSION"]
