"""`orlop port`."""

from __future__ import annotations

from orlop_cli._command import command, fail
from orlop_cli.daemon.client import segment

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli._session import Session


@command(
    "port",
    "List port mappings or a specific mapping for the container",
    usage="CONTAINER [PRIVATE_PORT[/PROTO]]",
    least=1,
    most=2,
    examples=["orlop port web", "orlop port web 80            0.0.0.0:8080"],
)
def port(session: Session, args: tuple[str, ...]) -> None:
    found = session.engine.get(f"/containers/{segment(args[0])}/json")
    ports = found["NetworkSettings"].get("Ports") or {}
    if len(args) == 2:
        number, _, protocol = args[1].partition("/")
        wanted = f"{number}/{protocol or 'tcp'}"
        if not ports.get(wanted):
            fail(f"Error: No public port '{args[1]}' published for {args[0]}")
        print("\n".join(_address(binding) for binding in ports[wanted]))
        return
    lines = [f"{key} -> {_address(binding)}" for key in sorted(ports, key=_order) for binding in ports[key] or []]
    if lines:
        print("\n".join(lines))


def _order(key: str) -> tuple[int, str]:
    number, _, protocol = key.partition("/")
    return int(number), protocol


def _address(binding: dict[str, str]) -> str:
    host = binding.get("HostIp", "")
    return f"[{host}]:{binding['HostPort']}" if ":" in host else f"{host}:{binding['HostPort']}"
