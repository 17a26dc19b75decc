"""`Ports`: the objects that operations on containers use, such as the services for images and volumes. The name is taken
from the pattern "ports and adapters"; it does not mean TCP ports. A function that needs only one of these objects gets only
this object, not the `Ports`.

The engine makes one `Ports` object, and passes it to the operations. No operation imports the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from orlop_engine.config import Config
from orlop_engine.counters import Counters
from orlop_engine.processes.zygote import Zygote
from orlop_engine.system.programs import Programs
from orlop_kernel.store import Store
from orlop_sdk import Storage
from orlop_sdk.idmaps import IdMap

from .background import Background
from .container import PreparedSandbox
from .events import ContainerEvents
from .index import ContainerIndex
from .paths import ContainerPaths
from .rows import Rows
from .services import Drivers, Execs, Images, Networks, Volumes

__all__ = ["CurrentConfig", "DaemonState", "Ports"]


@dataclass(slots=True)
class CurrentConfig:
    """The daemon's configuration. A reload replaces it."""

    config: Config


@dataclass(slots=True)
class DaemonState:
    """The progress of the daemon's start and shutdown."""

    closing: bool = False
    """The daemon is shutting down, so no container is started any more."""
    networks_restored: bool = False
    """Set during the daemon's start, once the network service knows the sandboxes of running containers. From then on, a
    sandbox must be released when its container ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """`serving` is set when the daemon serves requests. The keys of `prepared_sandboxes` are container ids. `ids` is the
    id mapping for containers with a user namespace (`userns-remap`)."""

    index: ContainerIndex
    paths: ContainerPaths
    rows: Rows
    events: ContainerEvents
    background: Background
    current: CurrentConfig
    state: DaemonState = field(default_factory=DaemonState)
    store: Store
    images: Images
    volumes: Volumes
    networks: Networks
    storage: Storage
    storage_name: str
    drivers: Drivers
    execs: Execs
    zygote: Zygote
    counters: Counters
    serving: trio.Event
    programs: Programs = field(default_factory=Programs)
    ids: IdMap | None = None
    prepared_sandboxes: dict[str, PreparedSandbox] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        return self.current.config
