"""A Docker root with 30 images and 50 containers of all kinds, for tests that an adoption loses nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.integration.docker_root import Dockerd
from tests.integration.engine import BUSYBOX, archive
from tests.registry import busybox, docker_archive, image, index, layer, push_index, running

from orlop_engine.images import platforms
from orlop_sdk.testing.ports import free_port

__all__ = ["CONTAINERS", "IMAGES", "MULTI", "OTHER_PLATFORM", "STARTED", "fill"]

CONTAINERS, IMAGES = 50, 30
MULTI = "multi:v1"
OTHER_PLATFORM = "s390x"
_MADE = IMAGES - 2  # besides BUSYBOX and the image that is committed
_QUICK = ("--stop-signal", "KILL")
_RUN = ("sh", "-c", "echo out; echo err >&2; echo $0 > /written; exec sleep 1000")


def _is_created(n: int) -> bool:
    """Whether the container is only created, not run."""
    return n % 4 == 3


# Used in turn for the containers. `{n}` is the number of the container, `{net}` the start of the network's addresses,
# `{port}` a free port.
_OPTIONS: tuple[tuple[str, ...], ...] = (
    ("-d", "--restart", "always", "-v", "named{v}:/data", "--label", "n={n}", "-e", "N={n}"),
    ("-d", "--restart", "unless-stopped", "--network", "fixed", "--ip", "{net}.{ip}", "-p", "127.0.0.1:{port}:80"),
    ("--restart", "on-failure:3", "--env", "EMPTY=", "--hostname", "host{n}", "--domainname", "example"),
    ("-d", "--health-cmd", "true", "--health-interval", "1h", "--health-retries", "7", "--health-start-period", "3s"),
    ("-d", "--link", "c0:db", "--dns", "192.0.2.7", "--dns-search", "example", "--add-host", "x:192.0.2.9"),
    ("-d", "--network", "chosen", "--network-alias", "al{n}", "--mac-address", "02:42:0a:00:01:{n:02x}", "-l", "x=y=z"),
    ("-d", "-m", "64m", "--cpus", ".5", "--pids-limit", "50", "--ulimit", "nofile=100:200", "--shm-size", "8m"),
    ("-d", "--cap-add", "NET_ADMIN", "--cap-drop", "MKNOD", "--security-opt", "no-new-privileges", "--init", "--read-only"),
    ("-d", "--tmpfs", "/t:size=1m", "-v", "/usr/share:/b:ro", "-v", "/anonymous", "--mount", "type=tmpfs,dst=/t2"),
    ("-d", "--network", "host", "--pid", "host", "--user", "65534:65534", "--workdir", "/tmp", "--group-add", "5"),
    ("-d", "--network", "none", "--ipc", "private", "--cgroupns", "private", "--device", "/dev/null:/dev/mine:r"),
    ("-d", "--log-opt", "max-size=10k", "--log-opt", "max-file=2", "--oom-score-adj", "100", "--stop-timeout", "1"),
    ("-d", "--network", "container:c0", "--sysctl", "kernel.shm_rmid_forced=0", "--ipc", "shareable"),
    ("-d", "--privileged", "-t", "-i", "--log-driver", "local"),
    ("-d", "-P", "--expose", "81", "--blkio-weight", "0", "--entrypoint", "/bin/sh", "--volumes-from", "c0:ro"),
)
_STOPPED = (16, 31)
STARTED = sorted(f"c{n}" for n in range(CONTAINERS) if n % len(_OPTIONS) < 2 and not _is_created(n) and n not in _STOPPED)
"""The containers that a restart policy starts with the daemon."""


def _images() -> bytes:
    """Images that share layers, each with options of its own."""
    base = layer(busybox())
    upper = [layer({"d": None, f"d/{n}": os.urandom(1000), "d/hard": ("hard", f"d/{n}")}) for n in range(6)]
    whiteout = layer({"d/.wh.hard": b"", "d/link": "gone"})
    made = {}
    for n in range(_MADE):
        config = {"Labels": {"n": str(n)}, "ExposedPorts": {f"{7000 + n}/tcp": {}}, "Env": ["PATH=/bin", f"IMAGE={n}"]}
        made[f"reg.example/app{n}:1"] = image([base, *upper[: n % 6], *([whiteout] if n % 6 else [])], config=config)
    return docker_archive(made)


def _options(n: int, net: str) -> Iterator[str]:
    # Addresses and ports differ; one shared port is taken by the containers that never run
    values = {"n": n, "net": net, "ip": 10 + n, "v": n % 4, "port": free_port()}
    for word in _OPTIONS[n % len(_OPTIONS)]:
        yield word.format(**values) if "{" in word else word


def _container(docker: Dockerd, n: int) -> None:
    verb = "create" if _is_created(n) else "run"
    own = [word for word in _options(n, docker.subnet) if verb == "run" or word != "-d"]
    name = BUSYBOX if n % 7 == 0 else f"reg.example/app{n % _MADE}:1"
    command = _RUN if "--entrypoint" not in own else _RUN[1:]
    if "--restart" in own and "on-failure:3" in own:
        command = ("sh", "-c", "echo out; exit 0")
    if "--read-only" in own:
        command = ("sleep", "1000")
    docker.ok(verb, "--name", f"c{n}", *_QUICK, *own, name, *command)


def fill(docker: Dockerd) -> None:
    """Call it once. The containers run until dockerd is stopped."""
    for data in (archive(), _images()):
        docker.ok("load", "-q", stdin=data)
    for n in range(4):
        docker.ok("volume", "create", "--label", f"n={n}", f"named{n}")
    docker.ok("network", "create", "--subnet", f"{docker.subnet}.0/24", "--label", "n=1", "fixed")
    docker.ok("network", "create", "--internal", "chosen")
    docker.ok("run", "-d", "--name", "c0", *_QUICK, *list(_options(0, docker.subnet))[1:], BUSYBOX, *_RUN)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(_container, docker, n) for n in range(1, CONTAINERS)]:
            done.result()
    docker.ok("network", "connect", "fixed", "c5")
    docker.ok("stop", *(f"c{n}" for n in _STOPPED))
    docker.ok("commit", "-m", "made", "c1", "committed:1")
    docker.note_bridges()


def add_platforms(docker: Dockerd) -> None:
    """Pull two of the three platforms of the index `MULTI`, and create a container of the other platform."""
    here = {"os": "linux", "architecture": platforms.host().architecture}
    mine = image([layer(busybox())], platform=here, config={"Labels": {"multi": ""}})
    there = {"os": "linux", "architecture": OTHER_PLATFORM}
    other = image([layer({"bin": None, "bin/x": b"x"})], platform=there)
    absent = image([layer({"absent": b"x"})], platform={"os": "linux", "architecture": "ppc64le"})
    with running() as registry:
        listed = index([other, mine, absent], oci=True)
        push_index(registry.host, "multi", "v1", listed, (other, mine, absent))
        for each in (OTHER_PLATFORM, here["architecture"]):
            docker.ok("pull", "-q", "--platform", f"linux/{each}", f"{registry.host}/{MULTI}")
        docker.ok("tag", f"{registry.host}/{MULTI}", MULTI)
        docker.ok("rmi", f"{registry.host}/{MULTI}")
    docker.ok("create", "--platform", f"linux/{OTHER_PLATFORM}", "--name", "foreign", MULTI, "/bin/x")
