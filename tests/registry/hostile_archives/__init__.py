"""Hostile image archives, each with the expected result of a load.

They are made of raw tar headers, because `tarfile` refuses to write most of this.
"""

from . import digests, documents, layers, members, streams
from .cases import CASES, Case

__all__ = ["CASES", "Case", "digests", "documents", "layers", "members", "streams"]
