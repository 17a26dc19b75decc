"""The configuration document of an image: parses documents from registries and archives, and computes digests and chain
IDs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec
import trio

from orlop_engine.types.images import ImageDocument
from orlop_sdk import DriverError

from .references import is_digest

__all__ = [
    "LARGE",
    "MAX_LAYERS",
    "MAX_MANIFEST",
    "ROOTFS_MISMATCH",
    "chain_ids",
    "digest",
    "encode",
    "go_compat",
    "parse",
    "read",
]

MAX_MANIFEST = 4 << 20
"""The limit of Docker and of registries. For comparison: a manifest of 127 layers has some 30 KiB."""
MAX_LAYERS = 1024

ROOTFS_MISMATCH = "layers from manifest don't match image configuration"

LARGE = 64 << 10
"""Documents with more bytes are parsed on a thread, because parsing some MiB takes a tenth of a second."""
_MAX_STEPS = 10_000

_ENCODER = msgspec.json.Encoder()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The chain ID of each layer, lowest first (image-spec config.md, "Layer ChainID")."""
    result: list[str] = []
    for diff_id in diff_ids:
        result.append(digest(f"{result[-1]} {diff_id}".encode()) if result else diff_id)
    return result


def go_compat(value: Any) -> Any:
    """Like Go's decoder, treat null as absent, and accept a string in fields that are lists of strings (Cmd, Entrypoint,
    Shell)."""
    if isinstance(value, dict):
        result = {key: go_compat(item) for key, item in value.items() if item is not None}
        for name in ("Cmd", "Entrypoint", "Shell"):
            if isinstance(result.get(name), str):
                result[name] = [result[name]]
        return result
    return [go_compat(item) for item in value] if isinstance(value, list) else value


def parse(data: bytes, *, layers: int | None = None) -> ImageDocument:
    """Parse a configuration. Raises `DriverError` if the configuration is invalid, or if the number of its layers differs
    from `layers`, the number of layers in the manifest."""
    if len(data) > MAX_MANIFEST:
        raise DriverError(f"cannot read image configuration: larger than {MAX_MANIFEST} bytes")
    try:
        document = msgspec.convert(go_compat(msgspec.json.decode(data)), ImageDocument)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise DriverError(f"cannot read image configuration: {error}") from error
    if document.rootfs is None:
        raise DriverError("cannot read image configuration: it has no rootfs section")
    if layers is not None and len(document.rootfs.diff_ids) != layers:
        raise DriverError(ROOTFS_MISMATCH)
    if len(document.rootfs.diff_ids) > MAX_LAYERS:
        raise DriverError(f"cannot read image configuration: {len(document.rootfs.diff_ids)} layers are too many")
    if len(document.history or ()) > _MAX_STEPS:
        raise DriverError(f"cannot read image configuration: {len(document.history or ())} steps of history are too many")
    for diff_id in document.rootfs.diff_ids:
        if not is_digest(diff_id):
            raise DriverError(f"cannot read image configuration: unsupported digest {diff_id[:100]!r}")
    return document


async def read(data: bytes, *, layers: int | None = None) -> ImageDocument:
    """Like `parse`, but on a thread if the document is large."""
    if len(data) <= LARGE:
        return parse(data, layers=layers)
    return await trio.to_thread.run_sync(partial(parse, data, layers=layers))


def encode(document: ImageDocument) -> bytes:
    """The bytes of a configuration that this engine creates; their hash is the image's ID."""
    return _ENCODER.encode(document)
