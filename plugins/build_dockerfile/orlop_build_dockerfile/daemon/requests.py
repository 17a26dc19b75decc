"""Answers the builder process: from its messages to the engine, and back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from orlop_build_dockerfile.contracts import Base, Credentials, Download, Layer, SnapshotUsage, Step
from orlop_engine.building.images import BaseImage, Wanted
from orlop_engine.building.service import Workspace
from orlop_engine.building.steps import StepRequest
from orlop_engine.containers.container import TreeMount
from orlop_engine.containers.record import MountRecord
from orlop_engine.images.progress import Record
from orlop_engine.images.registry_auth import ANONYMOUS
from orlop_engine.images.registry_auth import Credentials as RegistryCredentials
from orlop_engine.types.containers import HostConfig, Ulimit
from orlop_sdk import Forbidden, InvalidParameter, Mount

from . import messages
from .link import Report

__all__ = ["Requests"]

_PHASES = {"Downloading": "downloading", "Extracting": "extracting", "Pull complete": "done", "Already exists": "done"}

_RESTRICTED = frozenset(
    {
        messages.Resolve,
        messages.FetchBase,
        messages.Release,
        messages.Prepare,
        messages.Commit,
        messages.Remove,
        messages.Mounts,
        messages.MeasureSnapshot,
        messages.ListSnapshots,
        messages.Unpack,
        messages.Run,
        messages.Pack,
        messages.CreateImage,
        messages.Tag,
        messages.Save,
    }
)
"""The questions of a builder whose clients are restricted: `building.scope` judges what these name."""


class Requests:
    """`directories` are the builder's own: steps can mount what is in them."""

    def __init__(self, workspace: Workspace, directories: Sequence[str]) -> None:
        self._workspace, self._directories = workspace, directories

    async def handle(self, question: messages.Question, fds: list[int], report: Report) -> Any:
        """See `link.Handler`."""
        with ExitStack() as closing:
            for fd in fds:
                closing.callback(os.close, fd)
            return await self._answer(question, fds, report)

    async def _answer(self, question: messages.Question, fds: list[int], report: Report) -> Any:
        workspace = self._workspace
        if workspace.scope.is_restricted and type(question) not in _RESTRICTED:
            raise Forbidden(f"{type(question).__name__} is not allowed to builds of a restricted listener")
        match question:
            case messages.Resolve():
                return _base(await workspace.resolve(_wanted(question)))
            case messages.FetchBase():
                return _base(await workspace.base(_wanted(question), _reporter(report)))
            case messages.Release():
                return await workspace.release(question.digest)
            case messages.Prepare():
                return await workspace.prepare(question.parent)
            case messages.Commit():
                return await workspace.commit(question.key)
            case messages.Remove():
                return await workspace.remove(question.key)
            case messages.Mounts():
                return await workspace.mounts(question.key, readonly=question.readonly)
            case messages.MeasureSnapshot():
                usage = await workspace.usage(question.key)
                return SnapshotUsage(usage.size, usage.inodes)
            case messages.ListSnapshots():
                return workspace.snapshots()
            case messages.Unpack():
                return await workspace.unpack(*_given(fds, 2))
            case messages.Run():
                streams = tuple(_given(fds, 3 if len(fds) == 3 else 2))
                return await workspace.run(await self._step(question.step), streams)
            case messages.Pack():
                return Layer(*await workspace.pack(question.key))
            case messages.CreateImage():
                return (await workspace.create_image(question.config, question.snapshots, question.names)).id
            case messages.Tag():
                return await workspace.tag(question.image_id, question.name)
            case messages.Save():
                return await workspace.save(question.image_id, question.names, *_given(fds, 1))
            case _:
                raise InvalidParameter(f"the daemon cannot answer {type(question).__name__}")

    async def _step(self, step: Step) -> StepRequest:
        trees, mounts = [], []
        for mount in step.mounts:
            if mount.tmpfs:
                size = (f"size={mount.tmpfs_size}",) if mount.tmpfs_size else ()
                options = ("noexec", "nosuid", "nodev", *size)
                mounts.append(MountRecord("tmpfs", mount.target, rw=not mount.readonly, options=options))
                continue
            selector = mount.selector.strip("/")
            if mount.path:
                path = self._own(mount.path)
                if not os.path.isdir(path):  # a part of its directory, because trees are directories
                    path, _, selector = path.rpartition("/")
                source: tuple[Mount, ...] = (Mount("bind", path, options=("rbind",)),)
            else:
                source = tuple(await self._workspace.mounts(mount.snapshot, readonly=mount.readonly))
            trees.append(TreeMount(mount.target, source, selector, mount.readonly))
        return StepRequest(
            root=step.root,
            args=step.args,
            env=step.env,
            cwd=step.cwd,
            user=step.user,
            hostname=step.hostname,
            trees=tuple(trees),
            mounts=tuple(mounts),
            host=_host(step),
            platform=step.platform,
        )

    def _own(self, path: str) -> str:
        """A path in the builder's directories. The parts of it below these are not the client's to choose."""
        real = os.path.realpath(path)
        for root in self._directories:
            if real.startswith(os.path.realpath(root) + "/"):
                return real
        raise Forbidden(f"cannot mount {path} in a step: it is not in a directory of the builder")


def _host(step: Step) -> HostConfig:
    if step.isolation not in ("", "default"):
        raise InvalidParameter(f'invalid isolation "{step.isolation}": Linux has the default only')
    if step.devices:
        raise InvalidParameter(f"cannot give a step the device {step.devices[0]}")
    return HostConfig(
        network_mode=step.network or "default",
        privileged=step.privileged,
        readonly_rootfs=step.readonly_root,
        extra_hosts=[f"{name}:{address}" for name, address in step.extra_hosts],
        ulimits=[Ulimit(name=each.name, soft=each.soft, hard=each.hard) for each in step.ulimits],
        cgroup_parent=step.cgroup_parent,
        shm_size=step.shm_size,
        memory=step.memory,
        memory_swap=step.memory_swap,
        cpu_shares=step.cpu_shares,
        cpu_period=step.cpu_period,
        cpu_quota=step.cpu_quota,
        cpuset_cpus=step.cpuset_cpus,
        cpuset_mems=step.cpuset_mems,
    )


def _given(fds: list[int], count: int) -> list[int]:
    if len(fds) != count:
        raise InvalidParameter(f"{len(fds)} descriptors instead of {count}")
    return fds


def _wanted(question: messages.Resolve | messages.FetchBase) -> Wanted:
    return Wanted(question.name, question.platform, question.pull, _credentials(question.credentials))


def _credentials(given: Credentials | None) -> RegistryCredentials:
    return RegistryCredentials(given.username, given.password, given.token) if given else ANONYMOUS


def _base(found: BaseImage) -> Base:
    return Base(found.name, found.digest, found.config, found.snapshot)


def _reporter(report: Report) -> Any:
    """Turns records of a pull into `Download`s. Those of layers only."""

    def tell(record: Record) -> None:
        phase = _PHASES.get(record.status or "")
        if phase is not None and record.id:
            detail = record.detail
            report(Download(record.id, detail.current if detail else 0, detail.total if detail else 0, phase))

    return tell
