"""The environment variables of a link on the default bridge, such as DB_PORT_5432_TCP_ADDR. Containers used these variables
to find each other before Docker had a DNS server. Names and order are the same as Docker's (moby daemon/links/links.go).
This module does no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

__all__ = ["Port", "exposed", "of_link"]

_PORT = re.compile(r"(\d{1,5})(-\d{1,5})?/(\w+)", re.ASCII)
_NOT_PASSED_ON = ("HOME", "PATH")  # variables of the linked container that the link does not pass on


class Port(NamedTuple):
    number: str
    """A port number, or a range as it was written."""
    protocol: str


def exposed(ports: Iterable[str]) -> list[Port]:
    """Parse ports like "80/tcp" and sort them by number, TCP first. Invalid entries, which images may contain, are
    skipped."""
    matches = [match for match in map(_PORT.fullmatch, ports) if match]
    matches.sort(key=lambda match: (int(match[1]), match[3] != "tcp", match[3]))
    return [Port(match[1] + (match[2] or ""), match[3]) for match in matches]


def of_link(parent: str, alias: str, address: str, ports: Sequence[Port], environment: Iterable[str]) -> Iterator[str]:
    """The variables of one link. `parent` is the name of the container that has the link. The other arguments describe
    the linked container: its alias, IPv4 address, `exposed` ports and environment."""
    prefix = alias.upper().replace("-", "_")
    if ports:
        yield f"{prefix}_PORT={ports[0].protocol}://{address}:{ports[0].number}"
    for first, last in _runs(ports):
        name = _name(prefix, first)
        yield f"{name}_START={first.protocol}://{address}:{first.number}"
        yield f"{name}_ADDR={address}"
        yield f"{name}_PROTO={first.protocol}"
        yield f"{name}_PORT_START={first.number}"
        yield f"{name}_END={last.protocol}://{address}:{last.number}"
        yield f"{name}_PORT_END={last.number}"
    for port in ports:
        name = _name(prefix, port)
        yield f"{name}={port.protocol}://{address}:{port.number}"
        yield f"{name}_ADDR={address}"
        yield f"{name}_PORT={port.number}"
        yield f"{name}_PROTO={port.protocol}"
    yield f"{prefix}_NAME=/{parent}/{alias}"
    for entry in environment:
        key, sign, value = entry.partition("=")
        if sign and key not in _NOT_PASSED_ON:
            yield f"{prefix}_ENV_{key}={value}"


def _name(prefix: str, port: Port) -> str:
    return f"{prefix}_PORT_{port.number}_{port.protocol.upper()}"


def _runs(ports: Sequence[Port]) -> Iterator[tuple[Port, Port]]:
    """Yield the first and last port of each sequence of three or more consecutive numbers. Protocols are ignored."""
    begin = 0
    for index in range(1, len(ports) + 1):
        if index == len(ports) or _low(ports[index]) > _low(ports[index - 1]) + 1:
            if index - begin > 2:
                yield ports[begin], ports[index - 1]
            begin = index


def _low(port: Port) -> int:
    return int(port.number.partition("-")[0])
