"""The operation exec: runs a command in a container on snapshots, with its mounts."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

import msgspec
import trio

from orlop_build_dockerfile.cache.content import Selection
from orlop_build_dockerfile.cache.records import Lease, Record
from orlop_build_dockerfile.contracts import BuildFailed, Step, Ulimit
from orlop_build_dockerfile.contracts import Vertex as Shown
from orlop_build_dockerfile.dockerfile.goformat import quote
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.solver.definition import Vertex
from orlop_build_dockerfile.solver.values import Value, join_key
from orlop_sdk import OrlopError

from .kept import keep_failed
from .produce import produce
from .stepmounts import StepMounts

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["NOT_STARTED", "environment", "exact_parts", "execute", "exit_detail", "make_step", "missing_entitlement"]

_VERSION = "exec 1"
NOT_STARTED = "unable to start container process"
_EXIT = "github.com/moby/buildkit/gatewayapi.ExitMessage+json"
_NETWORKS = {ops_pb2.UNSET: "", ops_pb2.HOST: "host", ops_pb2.NONE: "none"}
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


async def execute(job: SolverJob, vertex: Vertex, inputs: list[Value]) -> Mapping[int, Value]:
    op = vertex.op.exec
    if missing := missing_entitlement(job, op):
        raise BuildFailed(f"failed to load LLB: {missing} is not allowed")

    async def exact() -> str:
        return join_key(_VERSION, *await exact_parts(vertex.op, inputs, vertex.digest[7:32]))

    quick = None
    if not any(value.by_content for value in inputs):
        text = _normalized(vertex.op).SerializeToString(deterministic=True)
        quick = join_key(_VERSION, "quick", text, *[await value.key() for value in inputs])
    return await produce(job, vertex, quick, exact, lambda shown, key, lease: _run(job, vertex, inputs, shown, key, lease))


def missing_entitlement(job: SolverJob, op: ops_pb2.ExecOp) -> str:
    """An entitlement that the command needs, but that the client has not given to the build. "" if no entitlement is
    missing."""
    wanted = []
    if op.network == ops_pb2.HOST:
        wanted.append("network.host")
    if op.security == ops_pb2.INSECURE:
        wanted.append("security.insecure")
    missing = [name for name in wanted if name not in job.build.entitlements]
    missing += [f"device {each.name}" for each in op.cdiDevices if not each.optional and not _is_allowed(job, each.name)]
    return missing[0] if missing else ""


def _is_allowed(job: SolverJob, device: str) -> bool:
    return not {"device", f"device={device}"}.isdisjoint(job.build.entitlements)


def _normalized(op: ops_pb2.Op) -> ops_pb2.Op:
    """The operation without settings that must not change its key: proxies, and addresses of additional hosts."""
    text = ops_pb2.Op()
    text.CopyFrom(op)
    text.ClearField("constraints")
    del text.inputs[:]
    text.exec.meta.ClearField("proxy_env")
    for host in text.exec.meta.extraHosts:
        host.IP = ""
    return text


def _read_only(mount: ops_pb2.Mount) -> bool:
    """Whether a mount is read-only and may be cached by its content, independently of the steps that made it."""
    if mount.contentCache == ops_pb2.OFF or mount.dest == "/":
        return False
    return mount.mountType == ops_pb2.BIND and mount.readonly and mount.output < 0


async def exact_parts(op: ops_pb2.Op, inputs: list[Value], ref: str) -> list[str | bytes]:
    text = _normalized(op)
    parts: list[str | bytes] = []
    for mount in text.exec.mounts:
        if not 0 <= mount.input < len(inputs):
            continue
        value = inputs[mount.input]
        if not _read_only(mount):
            parts.append(await value.key())
            continue
        found = await value.digests(Selection(mount.selector or "/"))
        if not found:
            raise BuildFailed(
                f'failed to compute cache key: failed to calculate checksum of ref {ref}: "{mount.selector}": not found'
            )
        parts += [digest for _, digest in found]
        mount.selector = ""
    return [text.SerializeToString(deterministic=True), *parts]


async def _run(job: SolverJob, vertex: Vertex, inputs: list[Value], shown: Shown, key: str, lease: Lease) -> Record:
    core, op = job.core, vertex.op.exec
    async with StepMounts(job, op, inputs, vertex.op.platform) as mounts:
        step = await make_step(job, op, mounts, vertex.op.platform)
        async with core.running:
            try:
                code = await run_step(job, step, shown)
            except OrlopError as error:
                if NOT_STARTED not in str(error):
                    command = quote(" ".join(op.meta.args))
                    raise BuildFailed(f"process {command} did not complete successfully: {error}") from error
                shown.log(f"{error}\n".encode(), 2)  # the same output as runc's in BuildKit
                raise await _failed(job, vertex, inputs, mounts, 1) from error
            if code not in (op.meta.validExitCodes or (0,)):
                raise await _failed(job, vertex, inputs, mounts, code)
            outputs = await mounts.commit()
        description = f"mount / from exec {' '.join(op.meta.args)}"[:500]
        return await core.records.add(key, outputs, lease, description=description)


async def make_step(job: SolverJob, op: ops_pb2.ExecOp, mounts: StepMounts, platform: ops_pb2.Platform) -> Step:
    optional = [device.name for device in op.cdiDevices if device.optional]
    return Step(
        root=mounts.root,
        readonly_root=mounts.readonly_root,
        args=tuple(op.meta.args),
        env=await environment(job, op),
        cwd=op.meta.cwd or "/",
        user=op.meta.user,
        hostname=op.meta.hostname or "buildkitsandbox",
        mounts=tuple(mounts.steps),
        network=_NETWORKS.get(op.network, ""),
        privileged=op.security == ops_pb2.INSECURE,
        extra_hosts=tuple((host.Host, host.IP) for host in op.meta.extraHosts),
        ulimits=tuple(Ulimit(limit.Name, limit.Soft, limit.Hard) for limit in op.meta.ulimit),
        cgroup_parent=op.meta.cgroupParent,
        shm_size=mounts.shm_size,
        devices=tuple(each.name for each in op.cdiDevices if not each.optional),
        optional_devices=tuple(name for name in optional if _is_allowed(job, name)),
        denied_devices=tuple(name for name in optional if not _is_allowed(job, name)),
        platform=_platform(platform),
        **msgspec.structs.asdict(job.build.resources),
    )


async def environment(job: SolverJob, op: ops_pb2.ExecOp) -> tuple[str, ...]:
    """The environment of a command, with proxies and secrets."""
    env = list(op.meta.env)
    names = {text.partition("=")[0] for text in env}
    for name in _PROXIES:
        value = getattr(op.meta.proxy_env, name)
        if value:
            env += [f"{each}={value}" for each in (name.upper(), name) if each not in names]
    for secret in op.secretenv:
        data = await job.build.session.secret(secret.ID)
        if data is None:
            if not secret.optional:
                raise BuildFailed(f"secret {secret.ID}: not found")
            continue
        if b"\0" in data:
            raise BuildFailed(f"secret {secret.ID} contains a NUL, so it cannot be an environment variable")
        env.append(f"{secret.name}={data.decode('utf-8', 'surrogateescape')}")
    return tuple(env)


def _platform(platform: ops_pb2.Platform) -> str:
    return "/".join(part for part in (platform.OS, platform.Architecture, platform.Variant) if part)


async def _failed(job: SolverJob, vertex: Vertex, inputs: list[Value], mounts: StepMounts, code: int) -> BuildFailed:
    command = quote(" ".join(vertex.op.exec.meta.args))
    message = f"process {command} did not complete successfully: exit code: {code}"
    error = BuildFailed(message, details=[exit_detail(code)])
    if job.keeps_failed and not job.closed:
        error.command = await keep_failed(job, vertex.op, inputs, mounts)
    return error


def exit_detail(code: int) -> tuple[str, bytes]:
    """The detail of an error from which clients read the exit code of a process."""
    return (_EXIT, json.dumps({"Code": code}).encode())


async def run_step(job: SolverJob, step: Step, shown: Shown) -> int:
    """Run a step, and show its output. Returns its exit code."""
    async with contextlib.AsyncExitStack() as stack:
        ends = [await stack.enter_async_context(_pipe()) for _ in range(2)]
        async with nursery() as showing:
            for number, (reader, _) in enumerate(ends, 1):
                showing.start_soon(_show, reader, shown, number)
            try:
                return await job.core.backend.run(step, ends[0][1].fileno(), ends[1][1].fileno())
            finally:
                for _, writer in ends:
                    writer.close()
                # A leftover process of the step may keep the pipe open. All output of the step itself is in the pipe already
                showing.cancel_scope.deadline = trio.current_time() + 5


@contextlib.asynccontextmanager
async def _pipe() -> AsyncIterator[tuple[trio.lowlevel.FdStream, _Writer]]:
    read, write = os.pipe2(os.O_CLOEXEC)
    writer = _Writer(write)
    async with trio.lowlevel.FdStream(read) as reader:
        try:
            yield reader, writer
        finally:
            writer.close()


class _Writer:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def _show(reader: trio.lowlevel.FdStream, shown: Shown, stream: int) -> None:
    async for data in reader:
        shown.log(bytes(data), stream)
