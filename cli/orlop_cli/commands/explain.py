"""`orlop explain`: the state of an object in sentences, and the next commands to run."""

from __future__ import annotations

import sys

from orlop_cli._command import command, complain, fail, option
from orlop_cli._errors import CliError, Exit
from orlop_cli.explain import container, gather, objects, ports
from orlop_cli.values import jsontext

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session
    from orlop_cli.daemon.client import Engine
    from orlop_cli.explain.report import Explanation

_LINES = 10


@command(
    "explain",
    "Explain why a container ended or does not start, and what uses an object",
    usage="NAME|ID [NAME|ID...]",
    least=1,
    most=None,
    examples=[
        "orlop explain web                       exit code, signal, memory, ports, health, restarts, log",
        "orlop explain --type volume data        who uses the volume, and its size",
        "orlop explain --format json web | jq -r '.[].Next[].Command'",
    ],
)
@option("--format", "form", metavar="string", help="'json' for scripts (default: text)")
@option("--type", "kind", metavar="string", help="Explain only objects of this type (container, image, network, volume)")
def explain(session: Session, args: tuple[str, ...], form: str | None, kind: str | None) -> None:
    if form not in (None, "json"):
        fail(f'"{form}" is not a valid value for --format: only json is')
    if kind is not None and kind not in gather.KINDS:
        fail(f'"{kind}" is not a valid value for --type: use one of {", ".join(gather.KINDS)}')
    reports: list[Explanation] = []
    problems: list[CliError] = []
    for name in args:
        try:
            found = gather.find(session.engine, name, kind)
        except CliError as error:
            if not str(error).startswith("no such "):
                raise
            problems.append(error)
            continue
        reports += [explanation(session.engine, one, data) for one, data in found]
    if form == "json":
        print(jsontext.indented([report.document() for report in reports]))
    else:
        sys.stdout.write("\n".join(report.text() for report in reports))
    for problem in problems:
        complain(problem)
    if problems:
        raise Exit(1)


def explanation(engine: Engine, kind: str, found: dict[str, Any]) -> Explanation:
    everything = gather.containers(engine)
    if kind == "volume":
        return objects.explain_volume(found, everything, gather.disk_usage(engine, "volume"))
    if kind == "network":
        return objects.explain_network(found, everything)
    if kind == "image":
        return objects.explain_image(found, everything, gather.disk_usage(engine, "image"))
    logs, problem = gather.log_lines(engine, found, _LINES)
    uses = [_port(engine, found, everything, *wanted) for wanted in container.wanted_ports(found)]
    return container.explain(found, container.Evidence(gather.events(engine, found["Id"]), logs, problem, uses))


def _port(
    engine: Engine, found: dict[str, Any], everything: list[dict[str, Any]], port: int, protocol: str, inner: str
) -> container.PortUse:
    """The containers that publish a port. If no container publishes the port, the processes that use it."""
    if found["State"]["Running"]:
        return container.PortUse(port, protocol, inner, ())
    publishing = [
        f"{container.CONTAINER}{one['Names'][0].removeprefix('/')}"
        for one in everything
        if any(used.get("PublicPort") == port and used.get("Type") == protocol for used in one.get("Ports") or [])
    ]
    if publishing:
        return container.PortUse(port, protocol, inner, publishing)
    names = {one["Id"]: one["Names"][0].removeprefix("/") for one in everything}
    held = gather.port_holders(engine, port, protocol)
    return container.PortUse(port, protocol, inner, [ports.words(one, names) for one in held], [one.pid for one in held])
