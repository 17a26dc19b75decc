"""The mounts of a command: snapshots, cache directories, secrets, the client's ssh agent, tmpfs.

Secrets and sockets are files in a directory of the step. It is below the builder's directory for data that must not be
stored on disk, and is removed at the end of the step.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from orlop_build_dockerfile.contracts import BuildFailed, StepMount
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.solver.values import Value
from orlop_sdk import linux
from orlop_sdk.files import delete_tree

from . import paths
from .cachemounts import cache_mount
from .local import Directory

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.core import ActiveSnapshot
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["StepMounts"]


class StepMounts:
    """The mounts of a step, as an async context manager. `root` is the snapshot of the root. `steps` are all other mounts,
    in the order in which they are mounted. `written` are the snapshots that the step can change, by mount point."""

    def __init__(self, job: SolverJob, op: ops_pb2.ExecOp, inputs: list[Value], platform: ops_pb2.Platform) -> None:
        self._job, self._core, self._op, self._inputs = job, job.core, op, inputs
        self._stack = contextlib.AsyncExitStack()
        self._outputs: dict[int, ActiveSnapshot | tuple[str, str]] = {}
        self.written: dict[str, ActiveSnapshot] = {}
        self._directory = ""
        self.root, self.readonly_root = "", False
        self.steps: list[StepMount] = []
        self.shm_size = 0

    async def __aenter__(self) -> StepMounts:
        try:
            # A mount below another mount must come after it
            for mount in sorted(self._op.mounts, key=lambda mount: paths.clean(mount.dest).rstrip("/").count("/")):
                await self._add(mount)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def commit(self) -> dict[int, tuple[str, str]]:
        """Commit the snapshots. Returns (snapshot, parent) by output."""
        found = {}
        for output, made in self._outputs.items():
            found[output] = made if isinstance(made, tuple) else (await made.commit(), made.parent)
        return found

    async def _add(self, mount: ops_pb2.Mount) -> None:
        if mount.mountType == ops_pb2.BIND:
            await self._bind(mount)
        elif mount.mountType == ops_pb2.CACHE:
            value = self._inputs[mount.input] if mount.input >= 0 else None
            made = cache_mount(self._job, mount, value, " ".join(self._op.meta.args))
            path = await self._stack.enter_async_context(made)
            self.steps.append(StepMount(mount.dest, path=path, readonly=mount.readonly))
        elif mount.mountType == ops_pb2.TMPFS:
            if paths.clean(mount.dest) == "/dev/shm":
                self.shm_size = mount.TmpfsOpt.size
            else:
                self.steps.append(StepMount(mount.dest, tmpfs=True, tmpfs_size=mount.TmpfsOpt.size))
        elif mount.mountType == ops_pb2.SECRET:
            await self._secret(mount)
        elif mount.mountType == ops_pb2.SSH:
            await self._ssh(mount)
        else:
            raise BuildFailed(f"mounts of type {mount.mountType} are not supported", code=12)

    async def _bind(self, mount: ops_pb2.Mount) -> None:
        value = self._inputs[mount.input] if mount.input >= 0 else None
        if mount.readonly and isinstance(value, Directory) and mount.dest != "/":
            path = await self._core.file_work(lambda: _inside(value.path, mount.selector))
            self.steps.append(StepMount(mount.dest, path=path, readonly=True))
            return
        snapshot = await value.snapshot() if value is not None else ""
        if mount.readonly and (snapshot or mount.dest != "/"):
            if not snapshot:
                snapshot = await self._empty()
            if mount.dest == "/":
                self.root, self.readonly_root = snapshot, True
            else:
                self.steps.append(StepMount(mount.dest, snapshot=snapshot, selector=mount.selector, readonly=True))
            return
        active = self.written[mount.dest] = await self._stack.enter_async_context(self._core.active(snapshot))
        if mount.output >= 0:
            self._outputs[mount.output] = active
        if mount.dest == "/":
            self.root = active.key
        else:
            self.steps.append(StepMount(mount.dest, snapshot=active.key, selector=mount.selector))

    async def _empty(self) -> str:
        active = await self._stack.enter_async_context(self._core.active(""))
        return active.key

    # --- files in memory

    async def _private(self) -> str:
        """The step's directory for secrets and sockets."""
        if not self._directory:
            base = self._core.runtime
            path = os.path.join(base, secrets.token_hex(8))
            await self._core.file_work(lambda: os.makedirs(path, 0o700))
            self._directory = path
            self._stack.push_async_callback(_delete, path)
        return self._directory

    async def _secret(self, mount: ops_pb2.Mount) -> None:
        wanted = mount.secretOpt
        data = await self._job.build.session.secret(wanted.ID)
        if data is None:
            if wanted.optional:
                return
            raise BuildFailed(f"secret {wanted.ID}: not found")
        path = os.path.join(await self._private(), f"secret-{len(self.steps)}")
        content = data

        def write() -> None:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with paths.opened(fd):
                os.write(fd, content)
                os.fchown(fd, wanted.uid, wanted.gid)
                os.fchmod(fd, wanted.mode & 0o777)

        await self._core.file_work(write)
        self.steps.append(StepMount(mount.dest, path=path, readonly=True))

    async def _ssh(self, mount: ops_pb2.Mount) -> None:
        wanted = mount.SSHOpt
        session = self._job.build.session
        if not await session.has_ssh_agent(wanted.ID):
            if wanted.optional:
                return
            raise BuildFailed(f"unset ssh forward key {wanted.ID}" if wanted.ID else "no SSH key forwarded from the client")
        path = os.path.join(await self._private(), f"agent-{len(self.steps)}")
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(path)
        os.chown(path, wanted.uid, wanted.gid)
        os.chmod(path, (wanted.mode or 0o600) & 0o777)
        listener.listen(16)
        nursery = await self._stack.enter_async_context(_background())
        nursery.start_soon(self._serve_agent, listener, wanted.ID)
        self.steps.append(StepMount(mount.dest, path=path))

    async def _serve_agent(self, listener: trio.socket.SocketType, ident: str) -> None:
        async def connect(connection: trio.socket.SocketType) -> None:
            with connection, contextlib.suppress(BuildFailed, OSError):
                await self._job.build.session.ssh_agent(ident, connection.fileno())

        with listener:
            async with trio.open_nursery() as nursery:
                while True:
                    connection, _ = await listener.accept()
                    nursery.start_soon(connect, connection)


@contextlib.asynccontextmanager
async def _background():  # type: ignore[no-untyped-def]  # a nursery whose tasks end with the block
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


async def _delete(path: str) -> None:
    with trio.move_on_after(10, shield=True), contextlib.suppress(OSError):
        await trio.to_thread.run_sync(delete_tree, path)


def _inside(directory: str, selector: str) -> str:
    """The real path of `selector` inside a directory. The directory must not change meanwhile."""
    with (
        paths.opened(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root,
        paths.opened(linux.open_in_root(root, paths.clean(selector or "/"), os.O_PATH)) as fd,
    ):
        if not stat.S_ISDIR(os.fstat(fd).st_mode) and not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BuildFailed(f"cannot mount {selector}: it is neither a file nor a directory")
        return os.readlink(f"/proc/self/fd/{fd}")
