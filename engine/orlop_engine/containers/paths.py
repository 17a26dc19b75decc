"""The directories of containers. `<data-root>/containers/ID` contains the files that outlive a run. Below exec-root are the
run directories (`run/NAME`) and the mount points of the containers' roots (`mnt/NAME`). After a crash, the next daemon uses
the run directories to find the mount points, so the mount points are removed before the run directory.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass

from orlop_engine.processes import runs

__all__ = ["ContainerPaths"]

log = logging.getLogger("orlop.containers")

# Long enough to be unique, short enough for the path of a unix socket (108 bytes) below any exec-root.
_RUN_NAME = 32


@dataclass(frozen=True, slots=True)
class ContainerPaths:
    data_root: str
    exec_root: str

    @property
    def containers_root(self) -> str:
        return os.path.join(self.data_root, "containers")

    @property
    def runs_root(self) -> str:
        return os.path.join(self.exec_root, "run")

    def make_roots(self) -> None:
        os.makedirs(self.containers_root, mode=0o710, exist_ok=True)
        os.makedirs(self.runs_root, mode=0o700, exist_ok=True)

    def directory(self, container_id: str) -> str:
        return os.path.join(self.data_root, "containers", container_id)

    @staticmethod
    def run_name(container_id: str) -> str:
        """The name of the run directory and of the root's mount point."""
        return container_id[:_RUN_NAME]

    def run_dir(self, container_id: str) -> str:
        return os.path.join(self.exec_root, "run", self.run_name(container_id))

    def root(self, container_id: str) -> str:
        """The mount point of the container's root. It is mounted only in the mount namespace of the monitor."""
        return os.path.join(self.exec_root, "mnt", self.run_name(container_id))

    def stage(self, container_id: str) -> str:
        """The directory where the monitor prepares additional mounts. It is next to the root's mount point. Like the root,
        these mounts exist only in the monitor's mount namespace."""
        return self.root(container_id) + runs.STAGE

    def remove_run(self, name: str) -> None:
        """Remove the run directory `name` and its mount points."""
        for mount_point in (name, name + runs.STAGE):
            try:
                os.rmdir(os.path.join(self.exec_root, "mnt", mount_point))
            except FileNotFoundError:
                pass
            except OSError as error:
                log.warning("cannot remove mount point of %s: %s", name, error)
        # The run directory is removed last, because a starting daemon uses it to find the mount points. The zygote may write
        # the exit record of a killed monitor during the first removal, so the directory is removed a second time. The zygote
        # writes only one record.
        directory = os.path.join(self.runs_root, name)
        for _ in range(2):
            shutil.rmtree(directory, ignore_errors=True)

    def remove_run_directories(self, container_id: str) -> None:
        self.remove_run(self.run_name(container_id))
