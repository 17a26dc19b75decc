"""Packs a container's changes as a layer: new and changed files with their content, deleted files as whiteouts (OCI image
spec, "Whiteouts"). The list of changes comes from the storage driver."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from orlop_sdk.linux import open_in_root

from .pack import Packer
from .request import Change

__all__ = ["pack_layer"]

_decode = msgspec.json.Decoder(Change).decode


def _changes(listed: int) -> Iterator[Change]:
    with open(listed, "rb", closefd=False) as file:
        for line in file:
            yield _decode(line)


def pack_layer(packer: Packer, listed: int) -> None:
    """`listed` is a descriptor of a file with one change per line. A directory comes before its content. If the changes in a
    directory are consecutive lines, the directory is opened only once."""
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    parent, opened = -1, None  # the open directory and its path
    try:
        for change in _changes(listed):
            head, _, name = change.path.rpartition("/")
            if change.gone:
                packer.empty(os.fsencode(f"{head}/.wh.{name}".lstrip("/")))
                continue
            if head != opened:
                if opened is not None:
                    os.close(parent)
                    opened = None
                try:
                    parent = open_in_root(root, head or "/", os.O_RDONLY | os.O_DIRECTORY)
                except OSError:
                    continue  # the file was deleted after the list was made
                opened = head
            try:
                packer.one(parent, name, os.fsencode(change.path.lstrip("/")))
            except FileNotFoundError:
                continue
    finally:
        if opened is not None:
            os.close(parent)
        os.close(root)
