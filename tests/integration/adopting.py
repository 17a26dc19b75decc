"""Shared code of the tests of adoptions: the two commands, an engine that adopts, and the comparison of both daemons'
inspects."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tests.integration.docker_root import Dockerd, differences
from tests.integration.engine import Engine, Result

__all__ = ["Side", "adopting", "running", "system"]

# Fields that change at each start of a container or of a daemon
DYNAMIC = (
    r"\.State\.(Pid|StartedAt|FinishedAt|Health\..*)",
    r"\.NetworkSettings\.(Sandbox(ID|Key)|EndpointID|Networks\.\w+\.EndpointID)",
    r"\.Containers\..*",  # a network lists its running containers
)
# Fields that are shown only for running containers
RUNNING = (
    r"\.State\.(Status|Running|ExitCode)",
    r"\.NetworkSettings\.Ports\..*",
    r"\.NetworkSettings\.(Networks\.\w+\.)?(Gateway|IPAddress|IPPrefixLen|MacAddress)",
    r"\.NetworkSettings\.Networks\.\w+\.DNSNames",
)
# Addresses that were not chosen, and follow from the order of starts
CHOSEN_BY_DAEMON = r"\.NetworkSettings\.(Networks\.\w+\.)?(IPAddress|MacAddress)"
# A free port, which depends on the other programs of the host. Ports that were chosen are in HostConfig, too
FREE_PORTS = r"\.NetworkSettings\.Ports\..*HostPort"
# Differences of the two daemons
ENGINES = (
    r"\.NetworkSettings\.Bridge",
    r"\.NetworkSettings\.(Networks\.bridge\.)?(Gateway|IPPrefixLen)",  # each has a default bridge of its own
    r"\.NetworkSettings\.Networks\.\w+\.GwPriority",
    r"\.EnableIPv4",  # new in API 1.47
    r"\.IPAM\.Config\[0\]\.Gateway",  # dockerd does not show a gateway that it chose
)
# Fields that dockerd changes when it starts again
RESTART = (r"\.NetworkSettings\.Networks\.bridge\.NetworkID", r"\.IPAM\.Config\[0\]\.Gateway")
RESTARTED_BRIDGE = (r"\.Id", r"\.Created")
BRIDGE = (r"\.IPAM\.Config\[0\]\.Subnet", r"\.Options\.com\.docker\.network\.bridge\.(name|enable_ip_masquerade)")
CONTAINERD = (
    r"\.Image",  # dockerd names the manifest, Orlop the configuration
    r"\.Id",
    r"\.Parent",
    r"\.Size",
    r"\.(Driver|GraphDriver)\b.*",
    r"\.ImageManifestDescriptor.*",
    r"\.(Container|ContainerConfig|DockerVersion|Metadata|Created|Author)\b.*",
    r"\.Descriptor\b.*",
)


class Client(Protocol):
    def ok(self, *argv: str) -> str:
        """The output of `docker` with these arguments, which must succeed."""


class Side:
    """A filled root of a stopped dockerd, and the inspects of this dockerd."""

    def __init__(self, home: Path, fill: Callable[[Dockerd], None], *, containerd: bool) -> None:
        self.containerd = containerd
        self.dockerd = Dockerd(home, containerd=containerd)
        try:
            self.dockerd.start()
            fill(self.dockerd)
            self.before = self.dockerd.inspect()
            self.dockerd.stop()
        except BaseException:
            self.dockerd.close()
            raise

    def compare(self, client: Client, data_root: Path, *, engines: bool = True) -> list[str]:
        """The differences between the inspects of all objects, without the known differences. `engines` is true if `client`
        uses orlopd, not dockerd."""
        more = (*ENGINES, *(CONTAINERD if self.containerd else ())) if engines else RESTART
        bridge = BRIDGE if engines else RESTARTED_BRIDGE
        found = []
        for kind, objects in self.before.items():
            for name, before in objects.items():
                after = json.loads(client.ok(kind, "inspect", name))[0]
                after = json.loads(json.dumps(after).replace(str(data_root), str(self.dockerd.root)))
                for each in (before, after):
                    if kind == "container":  # dockerd shows mounts in random order
                        each["Mounts"].sort(key=lambda mount: mount["Destination"])
                known = [*DYNAMIC, *more, *(bridge if (kind, name) == ("network", "bridge") else ())]
                if kind == "container":
                    known += _known(before, after)
                pattern = re.compile("|".join(known))
                lines = differences(before, after)
                found += [f"{kind} {name}{line}" for line in lines if not pattern.fullmatch(line.partition(": ")[0])]
        return found


def _known(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """The known differences of one container."""
    yield FREE_PORTS
    if before["State"]["Running"] != after["State"]["Running"] or "exited" in before["State"]["Status"]:
        yield from (*RUNNING, r"\.State\.Health")
    networks = (before["NetworkSettings"]["Networks"] or {}).values()
    if not any((each.get("IPAMConfig") or {}).get("IPv4Address") for each in networks):
        yield CHOSEN_BY_DAEMON
    if before["State"]["Status"] == "created":
        yield r"\.NetworkSettings\.Networks\.\w+\.NetworkID"  # dockerd sets the field at the first start


@contextmanager
def adopting() -> Iterator[Engine]:
    """A data root that no daemon has been started on."""
    engine = Engine()
    try:
        yield engine
    finally:
        if engine.process is not None:
            engine.stop()  # `close` would remove the containers
        left = engine.close()
    assert left == []


def system(engine: Engine, *argv: str, check: int | None = 0) -> Result:
    own = ["--config-file", str(engine.config_path), "--data-root", str(engine.data_root)]
    own += ["--exec-root", str(engine.exec_root)]
    return engine.run([sys.executable, "-m", "orlop_cli", "system", *argv, *own], check=check)


def running(engine: Engine) -> list[str]:
    return sorted(engine.ok("ps", "--format", "{{.Names}}").split())
