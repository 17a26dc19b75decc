"""User namespaces of containers (`userns-remap`): the containers that have a user namespace, and the options that these
containers cannot have."""

from __future__ import annotations

import os

from orlop_engine.config import defaults
from orlop_engine.types.containers import HostConfig
from orlop_sdk import InvalidParameter
from orlop_sdk.idmaps import IdMap

from .index import ContainerIndex

__all__ = ["check", "ids_of", "joined"]

_HOST = "use --userns=host"


def ids_of(ids: IdMap | None, host: HostConfig) -> IdMap | None:
    """The id mapping of a container; None if the container uses the host's ids. `ids` is the daemon's mapping."""
    return None if host.userns_mode == "host" else ids


def check(ids: IdMap | None, host: HostConfig) -> None:
    """Refuse options that a container with a user namespace cannot have, with Docker's messages. Also called at a start,
    because the daemon's configuration may have changed since the container was created."""
    if ids_of(ids, host) is None:
        return
    if host.privileged:
        raise InvalidParameter(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when "
            "running privileged mode"
        )
    if host.network_mode == defaults.HOST_NETWORK:
        raise InvalidParameter("cannot share the host's network namespace when user namespaces are enabled")
    if host.pid_mode == "host":
        raise InvalidParameter("cannot share the host PID namespace when user namespaces are enabled")
    if host.ipc_mode == "host":
        raise InvalidParameter(f"cannot share the host's IPC namespace when user namespaces are enabled: {_HOST}")


def joined(index: ContainerIndex, host: HostConfig) -> str:
    """The path of the user namespace that the container must join; "" if there is none. A container that joins the network,
    IPC or PID namespace of another container must also join that container's user namespace. Raises an error if the other
    container has the host's user namespace."""
    for mode in (host.network_mode, host.ipc_mode, host.pid_mode):
        other = mode.removeprefix("container:")
        if other == mode:
            continue
        path = index.namespace_of(other, "user")
        if os.stat(path).st_ino == os.stat("/proc/self/ns/user").st_ino:
            raise InvalidParameter(f"cannot join a namespace of container {other}, which has no user namespace: {_HOST}")
        return path
    return ""
