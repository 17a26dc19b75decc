"""What is kept of a container: the row of the table `containers`. Fields are added, never renamed; each has a default, so
that a row written by an older or newer Orlop decodes."""

from __future__ import annotations

import msgspec

from orlop_engine.networks.records import Sandbox
from orlop_engine.types.containers import ContainerConfig, EndpointSettings, HostConfig

__all__ = ["ContainerRecord", "MountRecord", "State"]


class State(msgspec.Struct):
    """Docker's state fields. `restarting` and `paused` imply `running` (pid 0 while restarting)."""

    running: bool = False
    paused: bool = False
    restarting: bool = False
    oom_killed: bool = False
    dead: bool = False
    pid: int = 0
    pid_start_time: int = 0
    exit_code: int = 0
    error: str = ""
    started_ns: int = 0
    finished_ns: int = 0

    @property
    def status(self) -> str:
        if self.running:
            return "paused" if self.paused else "restarting" if self.restarting else "running"
        if self.dead:
            return "dead"
        return "exited" if self.started_ns else "created"


class MountRecord(msgspec.Struct, frozen=True):
    """One mount of a container, resolved at create. `source` is a host path for binds, the reference as it was given for
    images; volumes (by name) and images (by ID) are looked up by `name` at start. `options` go to a tmpfs. `copy`: an empty
    volume gets the image's files. What is mounted below a read-only mount is read-only too, where kernel and runtime can:
    `flat_readonly` does not want that, `deep_readonly` nothing less."""

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


class ContainerRecord(msgspec.Struct, kw_only=True):
    """`args` is entrypoint and command, resolved. `endpoints` are the networks to be on, by name or full id, and what the
    client asked of each; a row without `endpoints_complete` is of a daemon that left out the network of the mode (see
    `networks.live`). `monitor_pid`: of the last start that this row knows of, so that a run it knows nothing of can be told;
    0 before the first, None in a row of a daemon that did not keep it. `image_labels` are the names of labels that the image
    alone says. `no_new_privileges`: as of the last start; None before the first, and in a row of a daemon that did not keep
    it. `held`: the engine pauses it for a moment, or is about to, and thaws it: nobody else has to."""

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
    held: bool = False
    removing: bool = False
    removing_volumes: bool = False
    platform: str = "linux"
