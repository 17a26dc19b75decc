"""The files hosts, hostname and resolv.conf of a container. The engine writes them to the container's directory and mounts
them into the container. The container's processes may change the files, except in steps of builds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from orlop_engine.networks import files
from orlop_engine.networks.names import is_named
from orlop_engine.networks.records import Sandbox
from orlop_sdk import DriverError

from . import links, user_namespaces
from .container import Container
from .paths import ContainerPaths
from .ports import Ports
from .services import Networks

__all__ = ["answer_names", "binds", "check_gateway", "refresh", "write"]

NAMES = ("resolv.conf", "hostname", "hosts")
_STEP_NAMES = ("resolv.conf", "hosts")  # a build step keeps the file `hostname` of its layer


def _texts(ports: Ports, container: Container, sandbox: Sandbox | None) -> dict[str, str]:
    record = container.record
    linked = links.hosts(ports.index, ports.networks, record) if sandbox is not None else ()
    gateways = ports.networks.host_gateways()
    return files.for_container(ports.config, record.config, record.host_config, sandbox, linked, gateways)


def check_gateway(networks: Networks, extra_hosts: Iterable[str]) -> None:
    if any(entry.endswith(files.HOST_GATEWAY) for entry in extra_hosts) and not networks.host_gateways():
        raise DriverError("unable to derive the IP value for host-gateway")


def write(ports: Ports, container: Container, network: str) -> dict[str, str]:
    """Write the files for a start, and return the binds (destination: source). A container that shares the network of
    another container gets the files of that container. Raises `DriverError` when host-gateway has no address."""
    record = container.record
    if network in ("", "new"):
        directory = _directory(ports.paths, container)
        check_gateway(ports.networks, record.host_config.extra_hosts or ())
        ids = user_namespaces.ids_of(ports.ids, record.host_config)
        owner = ids.root if ids else (os.geteuid(), os.getegid())  # the container's root user may edit the files
        for name, text in _texts(ports, container, record.sandbox).items():
            path = f"{directory}/{name}"
            with open(path, "wb") as file:
                file.write(text.encode())
            os.chmod(path, 0o644)
            os.chown(path, *owner)
    return binds(ports, container, network)


def binds(ports: Ports, container: Container, network: str) -> dict[str, str]:
    """The binds of the files (destination: source). The files need not exist."""
    directory = _directory(ports.paths, container)
    if network not in ("", "new"):
        mode = container.record.host_config.network_mode
        directory = ports.paths.directory(ports.index.get(mode.removeprefix("container:")).id)
    return {target: f"{directory}/{os.path.basename(target)}" for target in targets(container)}


def targets(container: Container) -> tuple[str, ...]:
    """The paths in the container where the files are mounted."""
    return tuple(f"/etc/{name}" for name in (_STEP_NAMES if container.unlisted else NAMES))


def _directory(paths: ContainerPaths, container: Container) -> str:
    """The directory of the files. An unlisted container has only a run directory."""
    ident = container.record.id
    return paths.run_dir(ident) if container.unlisted else paths.directory(ident)


def refresh(ports: Ports, container: Container, before: Sandbox | None) -> None:
    """Rewrite the files of a running container whose networks have changed. The files are mounted, so they are rewritten in
    place. A file that the container's processes have edited is kept."""
    texts, old = _texts(ports, container, container.record.sandbox), _texts(ports, container, before)
    for name, text in texts.items():
        path, ours = f"{ports.paths.directory(container.id)}/{name}", old[name].encode()
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "r+b") as file:
            # Read only as many bytes as the comparison needs, because the container's processes may have made the file huge.
            if text != old[name] and file.read(len(ours) + 1) == ours:
                file.seek(0)
                file.write(text.encode())
                file.truncate()


async def answer_names(ports: Ports, container: Container) -> None:
    """If a network of the container has DNS names, tell the monitor to answer DNS queries for them."""
    sandbox, run = container.record.sandbox, container.run
    if sandbox is None or run is None or run.monitor is None or not is_named(sandbox):
        return
    known = links.aliases(ports.index, ports.networks, container.record)
    path = ports.networks.names.configure(run.run_dir, container.record.host_config, sandbox, known)
    await run.monitor.resolve(path)
