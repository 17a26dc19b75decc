"""The stored row of a container, in the table `containers`.

Fields are added, never renamed, and each field has a default, so that rows of older and newer versions can be decoded. An
incompatible change increments `SCHEMA` and adds a function that reads the old form.
"""

from __future__ import annotations

import functools

import msgspec

from orlop_engine.networks.records import Sandbox
from orlop_engine.types.containers import ContainerConfig, EndpointSettings, HostConfig

from .state import Phase, State

__all__ = ["SCHEMA", "ContainerRecord", "ImageManifest", "MountRecord", "decode", "encode"]

SCHEMA = 1
"""The version of the rows that this Orlop writes. A row without a version has version 0: its state is stored as booleans,
not as a phase."""


class MountRecord(msgspec.Struct, frozen=True):
    """One mount of a container, resolved at create.

    For a bind, `source` is a path on the host. For an image, it is the reference as the client wrote it. `name` is the name
    of a volume, or the ID of an image: at a start, the volume or image is looked up by `name`. `options` are the options of
    a tmpfs. With `copy`, an empty volume is filled from the image. Mounts below a read-only bind are read-only too, if the
    kernel and the runtime support this. With `flat_readonly` these mounts stay writable. With `deep_readonly`, the start
    fails if the kernel or the runtime does not support read-only mounts below a bind."""

    type: str
    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    recursive: bool = True
    subpath: str = ""
    options: tuple[str, ...] = ()
    anonymous: bool = False
    copy: bool = True
    flat_readonly: bool = False
    deep_readonly: bool = False


class ImageManifest(msgspec.Struct, frozen=True):
    """The manifest with which an image was pulled or loaded. `size` is in bytes."""

    digest: str
    size: int
    media_type: str
    os: str
    architecture: str
    variant: str = ""


class ContainerRecord(msgspec.Struct, kw_only=True):
    """`args` is the resolved entrypoint and command. `endpoints` are the networks of the container, by name or full id, with
    the endpoint settings of the client. Rows without `endpoints_complete` were written by an older daemon, and `endpoints`
    lacks the network in `NetworkMode` (see `connections.complete`). `monitor_pid` is the pid of the monitor at the last
    recorded start. It is 0 before the first start, and None in rows of an older daemon, which did not store it. If the
    container has a living monitor with another pid, a later start was not recorded. `image_labels` are the names of labels
    that only the image sets. `no_new_privileges` is the value at the last start. It is None before the first start, and in
    rows of an older daemon. `paused_by_engine` (stored as `held`): the engine has paused the container for a moment, and
    will resume it, also after a crash. `emulated` is the platform that the client asked for, if this platform has another
    architecture than the host. `made_with` contains DISTRIBUTION:NAME of the log driver (key "log") and of the runtime's
    driver ("runtime") at the creation. `log_lost` is the number of log entries of the last run that the log driver did not
    log, `log_lost_before` that of all earlier runs, and `log_lost_reason` says why the last ones were lost. `image_manifest`
    is unset if the image was built or imported on this host, and in rows of an older daemon."""

    schema: int = SCHEMA
    id: str
    name: str
    created_ns: int
    args: list[str]
    config: ContainerConfig
    host_config: HostConfig
    image_id: str
    storage_driver: str
    endpoints: dict[str, EndpointSettings] = {}
    endpoints_complete: bool = False
    mounts: tuple[MountRecord, ...] = ()
    image_labels: tuple[str, ...] = ()
    state: State = msgspec.field(default_factory=State)
    sandbox: Sandbox | None = None
    restart_count: int = 0
    started_before: bool = False
    monitor_pid: int | None = None
    no_new_privileges: bool | None = None
    manually_stopped: bool = False
    paused_by_engine: bool = msgspec.field(default=False, name="held")
    removing: bool = False
    removing_volumes: bool = False
    platform: str = "linux"
    emulated: str | msgspec.UnsetType = msgspec.UNSET
    image_manifest: ImageManifest | msgspec.UnsetType = msgspec.UNSET
    made_with: dict[str, str] = {}
    log_lost: int = 0
    log_lost_before: int = 0
    log_lost_reason: str = ""

    @property
    def runtime(self) -> tuple[str, str]:
        """The arguments with which the runtime is looked up."""
        return self.host_config.runtime, self.made_with.get("runtime", "")

    @property
    def log_driver(self) -> tuple[str, str]:
        """The arguments with which the log driver is looked up."""
        return self.host_config.log_config.type, self.made_with.get("log", "")

    def begin_log(self) -> None:
        """Add the last run's lost log entries to those of earlier runs: the monitor of a new run counts from zero."""
        self.log_lost_before += self.log_lost
        self.log_lost = 0


class _Header(msgspec.Struct):
    schema: int = 0


class _State0(msgspec.Struct):
    """In a row of schema 0, a state has these fields instead of a phase. The other fields are the same as now."""

    running: bool = False
    paused: bool = False
    restarting: bool = False
    dead: bool = False
    started_ns: int = 0

    @property
    def phase(self) -> Phase:
        """The phase that corresponds to these booleans."""
        if self.running:
            return Phase.PAUSED if self.paused else Phase.RESTARTING if self.restarting else Phase.RUNNING
        if self.dead:
            return Phase.DEAD
        return Phase.EXITED if self.started_ns else Phase.CREATED


class _Row0(msgspec.Struct):
    state: _State0 = msgspec.field(default_factory=_State0)


_header = msgspec.json.Decoder(_Header).decode
_encode = msgspec.json.Encoder().encode


@functools.cache
def _decoder() -> msgspec.json.Decoder[ContainerRecord]:
    """The decoder of rows. It is created only when the store contains a row, because its creation takes 5 ms."""
    return msgspec.json.Decoder(ContainerRecord)


def encode(record: ContainerRecord) -> bytes:
    """Encode the record for its row."""
    return _encode(record)


def decode(row: bytes) -> ContainerRecord:
    """Decode a row that was written with this schema or an earlier schema. Raises ValueError (the base class of msgspec's
    errors) if the row is damaged, names an unknown phase, or has a later schema."""
    schema = _header(row).schema
    if not 0 <= schema <= SCHEMA:
        raise ValueError(f"it has schema {schema}, but this version of Orlop reads only schemas up to {SCHEMA}")
    record = _decoder().decode(row)
    if schema == 0:
        _migrate_0(record, row)
    return record


def _migrate_0(record: ContainerRecord, row: bytes) -> None:
    """Convert the record. The next commit writes the converted record to the row."""
    record.state = msgspec.structs.replace(record.state, phase=msgspec.json.decode(row, type=_Row0).state.phase)
    record.schema = SCHEMA
