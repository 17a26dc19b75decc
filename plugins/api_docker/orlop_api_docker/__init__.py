"""The Docker Engine API over the engine: one thin module per resource, which decodes, calls the engine and encodes.

`plugin` assembles the routes, `responses` builds answers, `errors` is the only place where exceptions become status codes.
The engine decides what a container is.
"""

from __future__ import annotations

from .versions import API_VERSION, MIN_API_VERSION

__all__ = ["API_VERSION", "MIN_API_VERSION"]
