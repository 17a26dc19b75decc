"""`orlop build` without docker's buildx plugin. The context is sent as an archive, and the daemon builds it."""

from __future__ import annotations

import base64
import json
import sys

from orlop_cli import _auth, _config, _progress
from orlop_cli._command import command, fail, flag, many, option
from orlop_cli._errors import CliError
from orlop_cli.create import values
from orlop_cli.create.body import extra_host
from orlop_cli.daemon.client import records
from orlop_cli.files.context import open_context
from orlop_cli.values import references
from orlop_cli.values.types import BYTES, INT, SWAP

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from orlop_cli._session import Session


LIMITS = "Limits of the steps"


@command(
    "build",
    "Build an image from a Dockerfile",
    usage="PATH | URL | -",
    least=1,
    most=1,
    examples=[
        "orlop build -t app:1 .",
        "orlop build -t app --build-arg VERSION=2 --target test -f docker/Dockerfile .",
        "orlop build -t app - < Dockerfile",
    ],
)
@many("--add-host", help='Add a custom host-to-IP mapping ("host:ip")')
@many("--build-arg", help="Set build-time variables")
@many("--cache-from", metavar="strings", help="Images to consider as cache sources")
@option("--cgroup-parent", metavar="string", help='Set the parent cgroup for the "RUN" instructions')
@option("-f", "--file", "dockerfile", metavar="string", help='Name of the Dockerfile (default "PATH/Dockerfile")')
@option("--iidfile", metavar="string", help="Write the image ID to the file")
@many("--label", help="Set metadata for an image")
@option("--network", metavar="string", help='Networking mode of the "RUN" instructions: default, host or none')
@flag("--no-cache", help="Do not use cache when building the image")
@option(
    "--platform", metavar="string", envvar="DOCKER_DEFAULT_PLATFORM", help="Set platform if server is multi-platform capable"
)
@flag("--pull", help="Always attempt to pull a newer version of the image")
@flag("-q", "--quiet", help="Suppress the build output and print image ID on success")
@many("-t", "--tag", "tags", metavar="list", help='Name and optionally a tag in the "name:tag" format')
@option("--target", metavar="string", help="Set the target build stage to build")
@option("-m", "--memory", type=BYTES, section=LIMITS, help="Memory limit")
@option("--memory-swap", type=SWAP, section=LIMITS, help="Memory and swap together; -1 for unlimited swap")
@option("-c", "--cpu-shares", type=INT, section=LIMITS, help="CPU shares (relative weight)")
@option("--cpu-period", type=INT, section=LIMITS, help="Limit the CPU CFS period")
@option("--cpu-quota", type=INT, section=LIMITS, help="Limit the CPU CFS quota")
@option("--cpuset-cpus", metavar="string", section=LIMITS, help="CPUs in which to allow execution (0-3, 0,1)")
@option("--cpuset-mems", metavar="string", section=LIMITS, help="MEMs in which to allow execution (0-3, 0,1)")
@option("--shm-size", type=BYTES, section=LIMITS, help="Size of /dev/shm")
@many("--ulimit", metavar="ulimit", section=LIMITS, help="Ulimit options")
@flag("--rm", default=True, hidden=True, help="Accepted and ignored: builds make no intermediate containers")
@flag("--compress", hidden=True, help="Accepted and ignored: the connection is local")
@flag("--disable-content-trust", default=True, hidden=True, help="Accepted and ignored")
@option("--isolation", metavar="string", hidden=True, help="Accepted and ignored: for Windows")
@many("--security-opt", hidden=True, help="Accepted and ignored: for Windows")
@flag("--squash", hidden=True, help="Accepted and ignored: docker needs an experimental daemon for it")
@flag("--force-rm", hidden=True, help="Accepted and ignored: builds make no intermediate containers")
def build(session: Session, args: tuple[str, ...], **flags: Any) -> None:
    for tag in flags["tags"]:
        references.parse(tag)
    context = open_context(args[0], flags["dockerfile"] or "")
    query = {
        **_query(flags),
        "dockerfile": context.dockerfile or None,
        "remote": context.remote or None,
    }
    engine = session.engine
    engine.negotiate()  # before the request, because the body can be sent only once
    headers = {"Content-Type": "application/x-tar", **_registry_config()}
    answer = records(engine.open("POST", "/build", query, context.body, headers))
    image = _show(answer, flags["quiet"])
    if flags["iidfile"]:
        _write(flags["iidfile"], image)


def _query(flags: dict[str, Any]) -> dict[str, Any]:
    given = (item.partition("=") for item in values.environment((), flags["build_arg"]))
    variables = {**_config.proxy_environment(""), **{key: value for key, _, value in given}}
    return {
        "t": list(flags["tags"]),
        "target": flags["target"],
        "platform": flags["platform"],
        "q": int(flags["quiet"]) or None,
        "nocache": int(flags["no_cache"]) or None,
        "pull": int(flags["pull"]) or None,
        "rm": int(flags["rm"]),
        "forcerm": int(flags["force_rm"]) or None,
        "buildargs": json.dumps(variables),
        "labels": json.dumps(values.pairs(flags["label"])),
        "cachefrom": json.dumps(list(flags["cache_from"])),
        "extrahosts": [extra_host(text) for text in flags["add_host"]],
        "ulimits": json.dumps(values.ulimits(flags["ulimit"])),
        "networkmode": flags["network"],
        "cgroupparent": flags["cgroup_parent"],
        "memory": flags["memory"],
        "memswap": flags["memory_swap"],
        "cpushares": flags["cpu_shares"],
        "cpuperiod": flags["cpu_period"],
        "cpuquota": flags["cpu_quota"],
        "cpusetcpus": flags["cpuset_cpus"],
        "cpusetmems": flags["cpuset_mems"],
        "shmsize": flags["shm_size"],
    }


def _registry_config() -> dict[str, str]:
    found = _auth.all_registries()
    return {"X-Registry-Config": base64.urlsafe_b64encode(json.dumps(found).encode()).decode()} if found else {}


def _show(answer: Sequence[dict[str, Any]] | Any, quiet: bool) -> str:
    """Print the build's progress. Returns the image's ID."""
    image = ""

    def keep(aux: Any) -> None:
        nonlocal image
        image = aux.get("ID", image) if isinstance(aux, dict) else image

    if not quiet:
        _progress.show(answer, sys.stdout, keep)
    else:
        for record in answer:
            _progress.raise_error(record)
            image = str(record.get("stream", "")).strip() or image
        print(image)
    if not image:
        fail("the daemon ended the build without an image")
    return image


def _write(path: str, image: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(image)
    except OSError as error:
        raise CliError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
