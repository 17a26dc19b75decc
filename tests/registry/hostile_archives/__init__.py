"""Image archives that nobody should load, each with what must come of it.

They are made of raw tar headers, because `tarfile` refuses to write most of this.
"""

from . import digests, documents, layers, members, streams
from .cases import CASES, Case

__all__ = ["CASES", "Case", "digests", "documents", "layers", "members", "streams"]
