"""The files of a layer's image. All functions block; call them on worker threads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

import msgspec

from orlop_sdk import Usage

__all__ = ["IMAGE", "RECORD", "TAR", "Image", "damage", "discard", "read_image", "write_image"]

IMAGE, TAR, RECORD = "layer.erofs", "layer.tar", "image"


class Image(msgspec.Struct, frozen=True):
    """The record of an image, in JSON. `files` maps names to sizes; `digests` maps names to "sha256:...", and is empty if
    digests were not computed. `content` and `inodes` are the layer's `Usage`."""

    files: dict[str, int]
    content: int
    inodes: int
    digests: dict[str, str] = {}

    @property
    def usage(self) -> Usage:
        return Usage(self.content, self.inodes)


_decoder = msgspec.json.Decoder(Image)


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def write_image(directory: str, usage: Usage, *, digests: bool) -> Image:
    """Write the record of the image files in `directory`. The record is not synced to the disk."""
    names = [name for name in (IMAGE, TAR) if name == IMAGE or os.path.exists(os.path.join(directory, name))]
    sizes = {name: os.stat(os.path.join(directory, name)).st_size for name in names}
    hashes = {name: _digest(os.path.join(directory, name)) for name in names} if digests else {}
    image = Image(sizes, usage.size, usage.inodes, hashes)
    with open(os.open(os.path.join(directory, RECORD), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(image))
    return image


def read_image(directory: str) -> Image | None:
    """The record in `directory`; None for a snapshot that is not an image. Raises `ValueError` for a damaged record."""
    try:
        with open(os.path.join(directory, RECORD), "rb") as file:
            return _decoder.decode(file.read())
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise ValueError(f"its record is damaged: {error}") from error


def damage(directory: str, image: Image, *, digests: bool = False) -> str:
    """The damage of an image's files, as a clause for a message; "" if there is no damage. `digests`: also read and hash the
    files."""
    return _damage(directory, image.files, image.digests if digests else {})


def _damage(directory: str, sizes: Mapping[str, int], digests: Mapping[str, str]) -> str:
    for name, size in sizes.items():
        try:
            found = os.stat(os.path.join(directory, name)).st_size
        except FileNotFoundError:
            return f"its file {name} is missing"
        if found != size:
            return f"its file {name} has {found} bytes instead of {size}"
    for name, wanted in digests.items():
        if _digest(os.path.join(directory, name)) != wanted:
            return f"its file {name} has been changed: its digest differs from the recorded digest"
    return ""


def discard(directory: str) -> None:
    """Remove the files of an image that was not finished."""
    for name in (RECORD, IMAGE, TAR):
        try:
            os.unlink(os.path.join(directory, name))
        except FileNotFoundError:
            pass
