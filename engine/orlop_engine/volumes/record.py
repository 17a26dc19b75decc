"""The stored record of a volume, and the rules for its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from orlop_engine.config import defaults
from orlop_sdk import InvalidParameter

__all__ = ["ANONYMOUS", "USE", "VolumeCheck", "VolumeRecord", "VolumeUsage", "check_name", "decode", "encode"]

ANONYMOUS = "com.docker.volume.anonymous"
USE = "volume-use:"  # the beginning of the keys of `uses.Use` in the table `intents`

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_ELSEWHERE = ("nfs", "nfs4", "cifs", "smb3", "tmpfs")


class VolumeRecord(msgspec.Struct, frozen=True):
    """A row of the table `volumes`; the key is the volume's name. `removing`: a removal has started and must be
    completed. `made_with` is DISTRIBUTION:NAME of the driver at the creation; "" in rows of an older daemon."""

    name: str
    driver: str
    created_ns: int
    mountpoint: str = ""
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    scope: str = "local"
    removing: bool = False
    made_with: str = ""

    @property
    def disposable(self) -> bool:
        """Whether prune and disk usage include the volume. As in Docker, these are volumes of the default driver without
        options, because their content is in the data root."""
        return self.driver == defaults.VOLUME_DRIVER and not self.options

    @property
    def is_host_path(self) -> bool:
        """Whether the volume may be a directory or a device of this host, rather than a directory in the data root, a
        network share or memory. For the default driver, the options show this. A `type` without a `device` is enough,
        because an overlay's directories are in the option `o`. Other drivers may use any path as a mount point."""
        if self.driver != defaults.VOLUME_DRIVER:
            return True
        if not (self.options.get("device") or self.options.get("type")):
            return False
        bound = not {"bind", "rbind"}.isdisjoint(self.options.get("o", "").split(","))
        return bound or self.options.get("type") not in _ELSEWHERE


@dataclass(frozen=True, slots=True)
class VolumeUsage:
    """The size of a volume, and the number of containers that use it. `size` is in bytes; -1 if the driver does not
    report it."""

    record: VolumeRecord
    users: int
    size: int


VolumeCheck = Callable[[VolumeRecord, bool], None]
"""A function that raises if the client may not use a volume, new or existing. The flag is True for a container's
anonymous volume."""

_decoder = msgspec.msgpack.Decoder(VolumeRecord)
encode = msgspec.msgpack.Encoder().encode
decode = _decoder.decode


def check_name(name: str) -> None:
    """Raise `InvalidParameter` for an invalid name, with Docker's messages (volume/local), because clients print them
    unchanged."""
    if len(name) < 2:
        raise InvalidParameter("volume name is too short, names should be at least two alphanumeric characters")
    if not _NAME.fullmatch(name) or len(name) > 255:
        raise InvalidParameter(
            f'"{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. '
            "If you intended to pass a host directory, use absolute path"
        )
