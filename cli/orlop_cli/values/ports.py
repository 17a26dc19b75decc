"""Ports: parsing `-p` and `--expose` (docker/go-connections nat), and the PORTS column of `ps` (DisplayablePorts)."""

from __future__ import annotations

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any


Bindings = dict[str, list[dict[str, str]]]
PROTOCOLS = ("tcp", "udp", "sctp")


class Run:
    """Consecutive ports of one address and protocol that are shown as one range."""

    __slots__ = ("first", "last")

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last


def _range(text: str, what: str, problem: str = "invalid") -> tuple[int, int]:
    first, dash, last = text.partition("-")
    try:
        low, high = int(first), int(last) if dash else int(first)
    except ValueError:
        raise ValueError(f"{problem} {what}: {text}") from None
    if not 0 <= low <= high <= 65535:
        raise ValueError(f"{problem} {what}: {text}")
    return low, high


def parse_expose(text: str) -> list[str]:
    """Convert `8000-8002/udp` to `["8000/udp", ...]`. Raises ValueError."""
    ports, _, protocol = text.partition("/")
    low, high = _range(ports, "range format for --expose")
    return [f"{port}/{_protocol(protocol)}" for port in range(low, high + 1)]


def _protocol(text: str) -> str:
    protocol = (text or "tcp").lower()
    if protocol not in PROTOCOLS:
        raise ValueError(f"invalid proto: {text}")
    return protocol


def parse_publish(text: str) -> Bindings:
    """Convert `[IP:][HOST[-HOST]:]CONTAINER[-CONTAINER][/PROTO]`, or `target=80,published=8080,protocol=tcp`, to
    PortBindings."""
    if "=" in text:
        text = _long_form(text)
    address, host, container, protocol = _split(text)
    low, high = _range(container, "containerPort", "Invalid")
    size = high - low
    if not host:
        return {f"{port}/{protocol}": [{"HostIp": address, "HostPort": ""}] for port in range(low, high + 1)}
    first, last = _range(host, "hostPort", "Invalid")
    if last - first != size:
        if size:
            raise ValueError(f"invalid ranges specified for container and host Ports: {container} and {host}")
        # With several host ports for one container port, the daemon chooses a free host port.
        return {f"{low}/{protocol}": [{"HostIp": address, "HostPort": host}]}
    return {f"{low + at}/{protocol}": [{"HostIp": address, "HostPort": str(first + at)}] for at in range(size + 1)}


def _split(text: str) -> tuple[str, str, str, str]:
    ports, _, protocol = text.partition("/")
    if ports.startswith("["):
        address, closed, rest = ports[1:].partition("]:")
        if not closed:
            raise ValueError(f"invalid IP address: {text}")
        host, _, container = rest.rpartition(":")
    else:
        rest, _, container = ports.rpartition(":")
        address, _, host = rest.rpartition(":")
    if address:
        _check_address(address)
    if not container:
        raise ValueError(f"no port specified: {text}<empty>")
    return address, host, container, _protocol(protocol)


def _check_address(address: str) -> None:
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address)
        except OSError:
            continue
        return
    raise ValueError(f"invalid IP address: {address}")


def _long_form(text: str) -> str:
    given = {"protocol": "tcp", "mode": "ingress"}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise ValueError(f"invalid publish opts format (should be name=value but got '{part}')")
        given[key.lower()] = value
    unknown = set(given) - {"protocol", "mode", "target", "published"}
    if unknown or "target" not in given:
        raise ValueError(f"invalid publish opts: {text}")
    host = f"{given['published']}:" if "published" in given else ""
    return f"{host}{given['target']}/{given['protocol']}"


def displayable(ports: list[dict[str, Any]]) -> str:
    """The PORTS column, sorted. Consecutive ports are merged if the host port equals the container port or is absent."""
    ranges: dict[str, list[Run]] = {}
    single: list[str] = []
    done: list[str] = []
    for port in sorted(ports, key=_port_key):
        private, public = port["PrivatePort"], port.get("PublicPort") or 0
        address, protocol = port.get("IP") or "", port.get("Type") or ""
        if public and public != private:
            single.append(f"{_join(address, str(public))}->{private}/{protocol}")
            continue
        group = f"{address}/{protocol}" if public else protocol
        runs = ranges.setdefault(group, [])
        if runs and private == runs[-1].last + 1:
            runs[-1] = Run(runs[-1].first, private)
        elif not runs or private != runs[-1].last:
            if runs:
                done.append(_form(group, runs[-1]))
            runs.append(Run(private, private))
    done += [_form(group, runs[-1]) for group, runs in ranges.items()]
    return ", ".join(done + single)


def _port_key(port: dict[str, Any]) -> tuple[int, str, int, str]:
    return port["PrivatePort"], port.get("IP") or "", port.get("PublicPort") or 0, port.get("Type") or ""


def _join(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _form(group: str, run: Run) -> str:
    text = str(run.first) if run.first == run.last else f"{run.first}-{run.last}"
    address, slash, protocol = group.rpartition("/")
    return f"{_join(address, text)}->{text}/{protocol}" if slash else f"{text}/{protocol}"
