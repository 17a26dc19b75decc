"""The Docker Engine API over the engine: one thin module per resource, which decodes, calls the engine and encodes.

`router` is the HTTP handler, `call` what a route's handler gets, `responses` what it answers with, `errors` the only place
where exceptions become status codes. Nothing here decides what a container is.
"""

from __future__ import annotations

from orlop_kernel.config.versions import API_VERSION, MIN_API_VERSION

__all__ = ["API_VERSION", "MIN_API_VERSION"]
