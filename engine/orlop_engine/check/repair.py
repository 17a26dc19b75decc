"""Repairs findings without losing data: removes objects that have no row, and restores what the rows describe.

Each step checks the state again before it acts, because the state may have changed since the comparison. A step may run
twice without harm. User data (contents of volumes, files written by containers) is never changed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Awaitable, Callable

import trio

from orlop_engine.config import Config
from orlop_engine.drivers import Drivers
from orlop_engine.processes import runs
from orlop_sdk import DriverError, NetworkAudit, StorageAudit, cgroups, linux
from orlop_sdk.findings import Remedy

__all__ = ["Repairs"]

_PAUSE = 0.01
_KILL = 10.0  # seconds to wait until killed processes exit
_BLOB = re.compile(r"sha256:[0-9a-f]{64}")
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")


class Repairs:
    """The repair steps that do not need a running engine. The module `live` adds the steps that need a running engine."""

    def __init__(self, config: Config, drivers: Drivers, storage_name: str) -> None:
        self._config, self._drivers, self._storage_name = config, drivers, storage_name
        self.steps: dict[str, Callable[[Remedy], Awaitable[None]]] = {
            "discard-container": self._discard_container,
            "make-directory": self._make_directory,
            "repair-network": self._repair_network,
            "repair-storage": self._repair_storage,
            "remove-blob": self._remove_blob,
            "remove-cgroup": self._remove_cgroup,
            "remove-run": self._remove_run,
            "remove-tree": self._remove_tree,
            "unmount": self._unmount,
            "kill": self._kill,
        }

    async def carry_out(self, remedy: Remedy) -> bool:
        """Execute a repair. Returns False if this repair needs a running engine."""
        step = self.steps.get(remedy.step)
        if step is None:
            return False
        await step(remedy)
        return True

    # --- files --------------------------------------------------------------------------------------------------------

    async def _discard_container(self, remedy: Remedy) -> None:
        assert _CONTAINER_ID.fullmatch(remedy.subject)
        await self._drivers.storage(self._storage_name).remove(remedy.subject)
        directory = os.path.join(self._config.data_root, "containers", remedy.subject)
        await trio.to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))

    async def _make_directory(self, remedy: Remedy) -> None:
        directory = os.path.join(self._config.data_root, "containers", remedy.subject)
        os.makedirs(directory, mode=0o710, exist_ok=True)

    async def _remove_blob(self, remedy: Remedy) -> None:
        assert _BLOB.fullmatch(remedy.subject)
        name = remedy.subject.removeprefix("sha256:")
        os.unlink(os.path.join(self._config.data_root, "content", "blobs", "sha256", name))

    async def _remove_tree(self, remedy: Remedy) -> None:
        assert os.path.realpath(remedy.subject).startswith(os.path.realpath(self._config.exec_root) + "/")
        await trio.to_thread.run_sync(lambda: shutil.rmtree(remedy.subject, ignore_errors=True))

    async def _unmount(self, remedy: Remedy) -> None:
        if os.path.ismount(remedy.subject):
            linux.umount(remedy.subject)

    # --- processes ------------------------------------------------------------------------------------------------------

    async def _remove_run(self, remedy: Remedy) -> None:
        directory = os.path.join(self._config.exec_root, "run", remedy.subject)
        record = runs.monitor_record(directory)
        if record is not None:
            await _end(record.pid, lambda: linux.is_process(record.pid, record.start_time))
        init = runs.init_record(directory)
        if init is not None and not await trio.to_thread.run_sync(runs.kill_cgroups, init):
            raise DriverError(f"processes in {', '.join(init.cgroups)} survive SIGKILL")
        if os.path.isdir(directory):
            await trio.to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))
        elif os.path.lexists(directory):
            os.unlink(directory)
        mount_point = os.path.join(self._config.exec_root, "mnt", remedy.subject)
        for path in (mount_point, mount_point + runs.STAGE):
            if os.path.isdir(path):
                os.rmdir(path)

    async def _remove_cgroup(self, remedy: Remedy) -> None:
        deadline = trio.current_time() + _KILL
        while not await trio.to_thread.run_sync(cgroups.kill, [remedy.subject]):
            if trio.current_time() > deadline:
                raise DriverError("processes in the cgroup survive SIGKILL")
            await trio.sleep(_PAUSE)
        cgroups.remove([remedy.subject])

    async def _kill(self, remedy: Remedy) -> None:
        pid, _, name = remedy.subject.partition(" ")
        await _end(int(pid), lambda: _comm(int(pid)) == name)

    # --- drivers ------------------------------------------------------------------------------------------------------

    async def _repair_network(self, remedy: Remedy) -> None:
        driver = await self._drivers.network(remedy.subject)
        if isinstance(driver, NetworkAudit) and remedy.drift is not None:
            await driver.repair(remedy.drift)

    async def _repair_storage(self, remedy: Remedy) -> None:
        driver = self._drivers.storage(remedy.subject)
        if isinstance(driver, StorageAudit) and remedy.drift is not None:
            await driver.repair(remedy.drift)


def _comm(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as file:
        return file.read().strip()


async def _end(pid: int, still_it: Callable[[], bool]) -> None:
    """Send SIGKILL by pidfd, if the pid still belongs to the same process, and wait for its exit."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if still_it():
            linux.pidfd_send_signal(pidfd, signal.SIGKILL)
            with trio.move_on_after(_KILL):
                await trio.lowlevel.wait_readable(pidfd)
                return
            raise DriverError(f"process {pid} survives SIGKILL")
    except (ProcessLookupError, FileNotFoundError):
        pass
    finally:
        os.close(pidfd)
