"""The ports of EXPOSE: "80", "80/udp", "8000-8010", and host parts, which are accepted and ignored."""

from __future__ import annotations

import ipaddress

from .goformat import parse_int

__all__ = ["parse_ports"]


def parse_ports(spec: str) -> list[str]:
    """All ports, each with its protocol: "80/tcp". Raises `ValueError` with Docker's message."""
    parts = spec.split(":")
    ip, host, container = ":".join(parts[:-2]), parts[-2] if len(parts) > 1 else "", parts[-1]
    port, _, protocol = container.partition("/")
    if not port:
        raise ValueError(f"No port specified: {container}<empty>")
    protocol = protocol.lower() or "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise ValueError(f"Invalid proto: {protocol}")
    if ip:
        _check_address(ip)
    try:
        first, last = _range(port)
    except ValueError:
        raise ValueError(f"Invalid containerPort: {port}") from None
    if host:
        try:
            host_first, host_last = _range(host)
        except ValueError:
            raise ValueError(f"Invalid hostPort: {host}") from None
        if last - first != host_last - host_first and last != first:
            raise ValueError(f"Invalid ranges specified for container and host Ports: {port} and {host}")
    return [f"{number}/{protocol}" for number in range(first, last + 1)]


def _check_address(ip: str) -> None:
    bare = ip[1:-1] if ip.startswith("[") and ip.endswith("]") else ip
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        raise ValueError(f"Invalid ip address: {ip}") from None


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    start = parse_int(first, 10, 16)
    end = parse_int(last, 10, 16) if dash else start
    if end < start:
        raise ValueError(f"invalid range specified for port: {text}")
    return start, end
