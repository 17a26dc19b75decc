"""Answers the calls of the builder process: converts its messages to calls of the engine, and the results to messages."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import msgspec

from orlop_build_dockerfile.contracts import (
    Authorization,
    Base,
    Blob,
    Challenge,
    Credentials,
    Download,
    ImagePart,
    Layer,
    LayerBlob,
    Prefix,
    SnapshotUsage,
    Step,
)
from orlop_build_dockerfile.processes import Process, Streams
from orlop_engine.building.artifacts import Archive, LayerForm, Manifest
from orlop_engine.building.images import BaseImage, NewImage, Wanted
from orlop_engine.building.images import LayerBlob as StoredLayer
from orlop_engine.building.interactive import ProcessRequest
from orlop_engine.building.interactive import Streams as ProcessStreams
from orlop_engine.building.service import Workspace
from orlop_engine.building.steps import StepRequest
from orlop_engine.containers.container import TreeMount
from orlop_engine.containers.record import MountRecord
from orlop_engine.images.manifests import Descriptor
from orlop_engine.images.progress import Record
from orlop_engine.images.registry_auth import ANONYMOUS, Token, new_token
from orlop_engine.images.registry_auth import Credentials as RegistryCredentials
from orlop_engine.types.containers import DeviceRequest, HostConfig, Ulimit
from orlop_sdk import Forbidden, InvalidParameter, Mount

from . import messages
from .link import Report

__all__ = ["Requests"]

_PHASES = {
    "Downloading": "downloading",
    "Extracting": "extracting",
    "Pull complete": "done",
    "Already exists": "done",
    "Compressing": "compressing",
    "Pushing": "pushing",
    "Pushed": "done",
    "Layer already exists": "done",
}

_NETWORKS = frozenset({"", "default", "none", "host"})

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
        messages.ListShared,
        messages.Unpack,
        messages.CopyFiles,
        messages.Run,
        messages.ServeStep,
        messages.Execute,
        messages.SendSignal,
        messages.Resize,
        messages.Pack,
        messages.CreateImages,
        messages.LabelConfig,
        messages.StoreLayers,
        messages.PutBlob,
        messages.ReceiveBlob,
        messages.ReadBlob,
        messages.PushArtifact,
        messages.SaveArtifact,
        messages.DropArtifact,
    }
)
"""The calls that a builder of restricted clients may make. `building.scope` checks the objects in these calls. All other
calls contain digests of layers of imported caches, and the client may never have had these layers."""


class Requests:
    """`directories` are the directories of the builder, whose contents steps can mount. `authorize` asks the builder for
    credentials."""

    def __init__(
        self,
        workspace: Workspace,
        directories: Sequence[str],
        authorize: Callable[[messages.Authorize], Awaitable[Authorization]],
    ) -> None:
        self._workspace, self._directories, self._authorize = workspace, directories, authorize

    async def handle(self, question: messages.Question, fds: list[int], report: Report) -> Any:
        """See `link.Handler`."""
        with ExitStack() as closing:
            for fd in fds:
                closing.callback(os.close, fd)
            return await self._answer(question, fds, report)

    async def _answer(self, question: messages.Question, fds: list[int], report: Report) -> Any:
        workspace = self._workspace
        if workspace.scope.is_restricted and type(question) not in _RESTRICTED:
            raise Forbidden(f"{type(question).__name__} is not allowed in builds of a restricted listener")
        match question:
            case messages.Resolve():
                return _base(await workspace.resolve(self._wanted(question)))
            case messages.FetchBase():
                return _base(await workspace.base(self._wanted(question), _reporter(report)))
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
            case messages.ListShared():
                return workspace.shared()
            case messages.Unpack():
                archive, directory = _given(fds, 2)
                return await workspace.unpack(archive, directory, question.owner)
            case messages.CopyFiles():
                return await workspace.copy_files(*_given(fds, 1))
            case messages.Run():
                streams = tuple(_given(fds, 3 if len(fds) == 3 else 2))
                return await workspace.run(await self._step(question.step), streams)
            case messages.ServeStep():
                step = await self._step(question.step)
                return await workspace.serve(question.name, step, _streams(question.streams), *_given(fds, 1))
            case messages.Execute():
                process = _process(question.request)
                return await workspace.interactive.execute(question.name, question.process, process, *_given(fds, 1))
            case messages.SendSignal():
                return await workspace.interactive.signal(question.name, question.process, question.signal)
            case messages.Resize():
                size = (question.rows, question.columns)
                return await workspace.interactive.resize(question.name, question.process, *size)
            case messages.Pack():
                return Layer(*await workspace.pack(question.key))
            case messages.CreateImages():
                parts = [_new_image(part) for part in question.parts]
                return [image.id for image in await workspace.create_images(parts, question.names, question.index)]
            case messages.LabelConfig():
                return workspace.scope.labelled(question.config)
            case messages.FindPrefix():
                return Prefix(*await workspace.prefix(question.diff_ids))
            case messages.UnpackLayer():
                return await workspace.unpack_layer(question.artifact, question.parent, _layer_blob(question.blob))
            case _:
                return await self._artifact(question, fds, report)

    async def _artifact(self, question: messages.Question, fds: list[int], report: Report) -> Any:
        artifacts = self._workspace.artifacts
        match question:
            case messages.StoreLayers():
                form = LayerForm(*msgspec.structs.astuple(question.form))
                found = await artifacts.layers(question.artifact, question.snapshots, form, _reporter(report))
                return [LayerBlob(one.digest, one.size, one.compression, one.diff_id) for one in found]
            case messages.PutBlob():
                return await artifacts.put(question.artifact, question.data)
            case messages.ReceiveBlob():
                return await artifacts.receive(question.artifact, question.digest, *_given(fds, 1))
            case messages.ReadBlob():
                return await artifacts.read(question.artifact, question.digest, *_given(fds, 1))
            case messages.PushArtifact():
                manifests = [Manifest(_blob(one.descriptor), tuple(map(_blob, one.blobs))) for one in question.manifests]
                shown = {digest: name for one in question.manifests for digest, name in one.layers.items()}
                return await artifacts.push(
                    question.artifact,
                    question.name,
                    manifests,
                    shown,
                    self._credentials(question.credentials),
                    _reporter(report),
                    by_digest=question.by_digest,
                )
            case messages.SaveArtifact():
                asked = question.archive
                archive = Archive(
                    _blob(asked.root), tuple(map(_blob, asked.blobs)), tuple(asked.names), asked.annotations, asked.docker
                )
                return await artifacts.save(question.artifact, archive, *_given(fds, 1))
            case messages.FetchManifest():
                return await artifacts.fetch_manifest(question.name, self._credentials(question.credentials))
            case messages.FetchBlobs():
                blobs = list(map(_blob, question.blobs))
                credentials = self._credentials(question.credentials)
                return await artifacts.fetch(question.artifact, question.name, blobs, credentials, _reporter(report))
            case messages.DropArtifact():
                return await artifacts.drop(question.artifact)
            case _:
                raise InvalidParameter(f"the daemon cannot answer {type(question).__name__}")

    async def _devices(self, step: Step) -> list[DeviceRequest]:
        names = list(step.devices)
        if step.optional_devices or step.denied_devices:
            available = set(await self._workspace.cdi_devices())
            if denied := available.intersection(step.denied_devices):
                raise Forbidden(f"device {min(denied)} is not allowed")
            names += [name for name in step.optional_devices if name in available]
        return [DeviceRequest(driver="cdi", device_ids=names)] if names else []

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
                if not os.path.isdir(path):  # to mount a file, its directory is the tree, because a tree must be a directory
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
            host=_host(step, await self._devices(step)),
            platform=step.platform,
            editable_files=step.editable_files,
        )

    def _wanted(self, question: messages.Resolve | messages.FetchBase) -> Wanted:
        return Wanted(question.name, question.platform, question.pull, self._credentials(question.credentials))

    def _credentials(self, given: Credentials | None) -> RegistryCredentials:
        if given is None:
            return ANONYMOUS
        if given.session:
            return RegistryCredentials(ask=partial(self._ask, given))
        return RegistryCredentials(given.username, given.password, given.token)

    async def _ask(self, given: Credentials, realm: str, service: str, scopes: list[str]) -> Token | RegistryCredentials:
        """See `RegistryCredentials.ask`."""
        question = messages.Authorize(given.session, given.host, Challenge(realm, service, scopes))
        found = await self._authorize(question)
        token = new_token(found.token, found.lifetime)
        return token if token is not None else self._credentials(found.credentials)

    def _own(self, path: str) -> str:
        """Check that the path is in the builder's directories. The client cannot choose the part of the path below these
        directories."""
        real = os.path.realpath(path)
        for root in self._directories:
            if real.startswith(os.path.realpath(root) + "/"):
                return real
        raise Forbidden(f"cannot mount {path} in a step: it is not in a directory of the builder")


def _host(step: Step, devices: list[DeviceRequest]) -> HostConfig:
    if step.isolation not in ("", "default"):
        raise InvalidParameter(f'invalid isolation "{step.isolation}": Linux has the default only')
    if step.network not in _NETWORKS:  # the check of a step only covers these networks
        raise InvalidParameter(f"invalid network mode {step.network!r} of a step")
    return HostConfig(
        network_mode=step.network or "default",
        privileged=step.privileged,
        device_requests=devices,
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


def _streams(given: Streams) -> ProcessStreams:
    return ProcessStreams(terminal=given.terminal, stdin=given.stdin, stdout=given.stdout, stderr=given.stderr)


def _process(given: Process) -> ProcessRequest:
    streams = _streams(given.streams)
    return ProcessRequest(args=given.args, env=given.env, cwd=given.cwd, user=given.user, streams=streams)


def _blob(given: Blob) -> Descriptor:
    return Descriptor(given.digest, given.size, given.media_type)


def _layer_blob(given: LayerBlob) -> StoredLayer:
    return StoredLayer(given.digest, given.size, given.compression, given.diff_id)


def _new_image(part: ImagePart) -> NewImage:
    return NewImage(part.config, part.snapshots, list(map(_layer_blob, part.blobs)), part.manifests, part.attachments)


def _given(fds: list[int], count: int) -> list[int]:
    if len(fds) != count:
        raise InvalidParameter(f"{len(fds)} descriptors instead of {count}")
    return fds


def _base(found: BaseImage) -> Base:
    return Base(found.name, found.digest, found.config, found.snapshot)


def _reporter(report: Report) -> Any:
    """Converts the progress records of layers to `Download`s."""

    def tell(record: Record) -> None:
        status = record.status or ""
        phase = "done" if status.startswith("Mounted from") else _PHASES.get(status)
        if phase is not None and record.id:
            detail = record.detail
            report(Download(record.id, detail.current if detail else 0, detail.total if detail else 0, phase))

    return tell
