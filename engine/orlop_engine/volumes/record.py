"""What is kept of a volume, and the rules of its name. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from orlop_engine.types.volumes import UsageData, Volume
from orlop_sdk import InvalidParameter
from orlop_sdk.base import rfc3339

__all__ = ["ANONYMOUS", "Vet", "VolumeRecord", "check_name", "decode", "encode", "view"]

ANONYMOUS = "com.docker.volume.anonymous"

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_SECOND = 1_000_000_000
_ELSEWHERE = ("nfs", "nfs4", "cifs", "smb3", "tmpfs")


class VolumeRecord(msgspec.Struct, frozen=True):
    """One row of the table `volumes`, under the volume's name. `removing`: its removal was begun and is to be finished."""

    name: str
    driver: str
    created_ns: int
    mountpoint: str = ""
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    scope: str = "local"
    removing: bool = False

    @property
    def disposable(self) -> bool:
        """What prune and disk usage look at: as in Docker, volumes of the local driver that are directories of ours."""
        return self.driver == "local" and not self.options

    @property
    def of_host(self) -> bool:
        """Whether its options make it a directory or a device of this host: not a share of a server, nor memory. A type
        alone is enough: an overlay names its directories in `o`."""
        if not (self.options.get("device") or self.options.get("type")):
            return False
        bound = not {"bind", "rbind"}.isdisjoint(self.options.get("o", "").split(","))
        return bound or self.options.get("type") not in _ELSEWHERE


Vet = Callable[[VolumeRecord, bool], None]
"""Raises when a volume, made just now or there before, is not for this client; True for a container's anonymous one."""

_decoder = msgspec.msgpack.Decoder(VolumeRecord)
encode = msgspec.msgpack.Encoder().encode
decode = _decoder.decode


def check_name(name: str) -> None:
    """Docker's words (volume/local): clients print them as they are."""
    if len(name) < 2:
        raise InvalidParameter("volume name is too short, names should be at least two alphanumeric characters")
    if not _NAME.fullmatch(name) or len(name) > 255:
        raise InvalidParameter(
            f'"{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. '
            "If you intended to pass a host directory, use absolute path"
        )


def view(record: VolumeRecord, usage: UsageData | msgspec.UnsetType = msgspec.UNSET) -> Volume:
    """As the API shows it. The time has whole seconds, as Docker's does."""
    return Volume(
        created_at=rfc3339(record.created_ns // _SECOND * _SECOND),
        driver=record.driver,
        labels=dict(record.labels) or None,
        mountpoint=record.mountpoint,
        name=record.name,
        options=dict(record.options) or None,
        scope=record.scope,
        usage_data=usage,
    )
