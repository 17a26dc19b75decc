"""The Docker Engine API. For each resource, a small module decodes requests, calls the engine, and encodes answers.

`plugin` assembles the routes, `responses` builds answers, `errors` is the only place where exceptions become status codes.
All behaviour of containers and other objects is in the engine.
"""

from __future__ import annotations

from .versions import API_VERSION, MIN_API_VERSION

__all__ = ["API_VERSION", "MIN_API_VERSION"]
