"""The description of the builder for clients: its worker, and the capabilities that frontends may use."""

from __future__ import annotations

import os
import secrets
import string
from collections.abc import Mapping

from orlop_build_dockerfile.contracts import Settings
from orlop_build_dockerfile.pb import control_pb2, gateway_pb2
from orlop_build_dockerfile.pb.ops_pb2 import Platform

__all__ = ["Worker", "parse_platform", "platform_text"]

# The capabilities of LLBBridge, which `bridge` implements
_GATEWAY = """
solve.base resolveimage resolveimage.resolvemode readfile readdir statfile return returnmap proto.refarray reference.output
frontend.inputs gateway.solve.metadata gateway.evaluate gateway.solve.evaluate gateway.warnings source.metaresolver
gateway.exec gateway.exec.extrahosts gateway.exec.secretenv gateway.exec.signals
""".split()
_HOST_GATEWAY = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"
# If this label is set, buildx offers archives, export of caches, several platforms and attestations with the builder of a
# daemon
_SNAPSHOTTER = "org.mobyproject.buildkit.worker.snapshotter"


class Worker:
    def __init__(self, settings: Settings, capabilities: Mapping[str, str]) -> None:
        self._settings, self._capabilities = settings, capabilities
        self._id = _id(os.path.join(settings.root, "worker-id"))

    def version(self) -> control_pb2.BuildkitVersion:
        return control_pb2.BuildkitVersion(package="orlop", version=f"v{self._settings.version}")

    def record(self) -> control_pb2.WorkerRecord:
        record = control_pb2.WorkerRecord(ID=self._id, BuildkitVersion=self.version())
        record.platforms.extend(map(parse_platform, self._settings.platforms or ("linux/amd64",)))
        record.Labels[_SNAPSHOTTER] = self._settings.storage or "overlay2"
        if self._settings.host_gateway:
            record.Labels[_HOST_GATEWAY] = self._settings.host_gateway
        if self._settings.collect:
            for policy in self._settings.policies:
                record.GCPolicy.add(
                    all=policy.everything,
                    keepDuration=policy.keep_duration * 10**9,
                    keepBytes=policy.reserved or policy.maximum,
                    filters=policy.filters,
                )
        return record

    def pong(self) -> gateway_pb2.PongResponse:
        pong = gateway_pb2.PongResponse(Workers=[self.record()])
        for name in _GATEWAY:
            pong.FrontendAPICaps.add(ID=name, Enabled=True)
        for name, reason in self._capabilities.items():
            cap = pong.LLBCaps.add(ID=name, Enabled=not reason)
            if reason:
                cap.DisabledReason, cap.DisabledReasonMsg = "backend", reason
        return pong


def _id(path: str) -> str:
    """The worker's identity, which is made once, because clients compare it."""
    try:
        with open(path) as file:
            if found := file.read(100).strip():
                return found
    except FileNotFoundError:
        pass
    made = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(25))
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(made)
    return made


def parse_platform(text: str) -> Platform:
    system, _, rest = text.partition("/")
    architecture, _, variant = rest.partition("/")
    return Platform(OS=system, Architecture=architecture, Variant=variant)


def platform_text(platform: Platform) -> str:
    """The text of a platform, such as "linux/arm64/v8"; "" if the message is empty."""
    return "/".join(part for part in (platform.OS, platform.Architecture, platform.Variant) if part)
