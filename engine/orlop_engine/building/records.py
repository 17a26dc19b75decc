"""The rows of builders, in the table `builds`.

   build-<hex>     SnapshotRecord: a committed snapshot
   base:<key>      BaseRecord: the layers of an image below snapshots; `key` is the storage key of its top layer

A snapshot is committed in the storage driver before its row is committed. When the daemon starts, it removes snapshots
without a row, and rows without a snapshot.
"""

from __future__ import annotations

import msgspec

from orlop_engine.images.records import Layer

__all__ = ["BASE", "TABLE", "BaseRecord", "SnapshotRecord", "decode_base", "decode_snapshot", "encode"]

TABLE = "builds"
BASE = "base:"


class SnapshotRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`parent` is the key of the snapshot below, "" for none. `diff_id`, and the length of the tar in bytes, are known once
    the snapshot has been packed. If `released` is true, the builder does not need the snapshot any more. It still exists,
    because it is a layer of an image, or the parent of other snapshots. `domain` is the builder's domain
    (`Restrictions.builds`)."""

    parent: str
    diff_id: str = ""
    tar_size: int = 0
    released: bool = False
    domain: str = ""


class BaseRecord(msgspec.Struct, frozen=True):
    """The layers of an image below snapshots, lowest first. Their blobs are kept, because a push of an image that was built
    on these layers needs the blobs."""

    layers: tuple[Layer, ...]


decode_snapshot = msgspec.json.Decoder(SnapshotRecord).decode
decode_base = msgspec.json.Decoder(BaseRecord).decode
encode = msgspec.json.Encoder().encode
