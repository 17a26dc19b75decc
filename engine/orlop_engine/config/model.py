"""`Config`: the configuration that the engine uses, as one frozen value. It contains the engine's keys, and a few keys of
the kernel.

Names that are derived from the configuration (bridge, cgroup parent) are derived only here, so that daemons with
different data roots never use the same name.
"""

from __future__ import annotations

import orlop_kernel.config as kernel

from .keys import EngineKeys

__all__ = ["Config"]


class Config(EngineKeys, frozen=True, kw_only=True):
    """A reload makes a new `Config`. `daemon` is the whole configuration."""

    data_root: str = kernel.DEFAULT_DATA_ROOT
    exec_root: str = kernel.DEFAULT_EXEC_ROOT
    debug: bool = False
    daemon: kernel.Config = kernel.Config()

    @classmethod
    def of(cls, daemon: kernel.Config) -> Config:
        own = daemon.part(EngineKeys)
        values = {field: getattr(own, field) for field in EngineKeys.__struct_fields__}
        return cls(**values, data_root=daemon.data_root, exec_root=daemon.exec_root, debug=daemon.debug, daemon=daemon)

    @property
    def instance(self) -> str:
        """See kernel.Config."""
        return kernel.instance_of(self.data_root)

    @property
    def bridge_name(self) -> str:
        """The name of the bridge of the network `bridge`; "" when the key `bridge` is "none" (that network then does not
        exist). At most 15 bytes, the kernel's limit."""
        if self.bridge:
            return "" if self.bridge == "none" else self.bridge
        return self.default_bridge

    @property
    def default_bridge(self) -> str:
        """The bridge that the daemon creates. If the key `bridge` names another bridge, the administrator must create
        it."""
        return f"orlop-{self.instance}" if self.instance else "orlop0"

    @property
    def effective_cgroup_parent(self) -> str:
        """The cgroup parent of containers whose request has no `CgroupParent`."""
        if self.cgroup_parent:
            return self.cgroup_parent
        if self.cgroup_driver == "systemd":
            return f"orlop-{self.instance}.slice" if self.instance else "orlop.slice"
        return f"/orlop-{self.instance}" if self.instance else "/orlop"
