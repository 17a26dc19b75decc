"""What uses a host port: a container, or a process of the host."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from orlop_engine.containers import port_holders
from orlop_engine.networks.ports import Bound, PortAllocator, PortInUse, Wanted, close_sockets
from orlop_sdk import DriverError, PublishedPort

ME = f"{Path('/proc/self/comm').read_text().strip()}, pid {os.getpid()}"


def containers(*published: tuple[str, str, int]) -> Any:
    """Containers by name, with the host address and the port that each one publishes, and a container without a network."""
    made = [
        SimpleNamespace(
            name=name, record=SimpleNamespace(sandbox=SimpleNamespace(ports=[PublishedPort("tcp", ip, port, 80)]))
        )
        for name, ip, port in published
    ]
    return SimpleNamespace(index=[SimpleNamespace(name="none", record=SimpleNamespace(sandbox=None)), *made])


def described(error: BaseException, *published: tuple[str, str, int]) -> str:
    return trio.run(port_holders.describe, cast("Any", containers(*published)), error)


@pytest.fixture
def refused() -> Iterator[tuple[int, PortInUse]]:
    """A port that this process uses, and the error about it."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(PortInUse) as raised:
            trio.run(PortAllocator().allocate, [Wanted("tcp", 80, "", port, port)])
        yield port, raised.value


def test_error_about_a_used_port_names_the_process(refused: tuple[int, PortInUse], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_holders, "_PATIENCE", 30)
    port, error = refused
    found = described(error.renamed("driver failed"), ("web", "127.0.0.2", port))
    assert found == f"port {port} is held by {ME}"


def test_error_about_a_published_port_names_the_container() -> None:
    allocator, held = PortAllocator(), list[Bound]()
    try:
        held += trio.run(allocator.allocate, [Wanted("tcp", 80, "127.0.0.1", 0, 0)])
        port = held[0].port.host_port
        with pytest.raises(PortInUse, match="port is already allocated") as raised:
            trio.run(allocator.allocate, [Wanted("tcp", 80, "", port, port)])
    finally:
        close_sockets(held)
    others = [("other", "127.0.0.1", port + 1), ("web", "127.0.0.1", port)]
    assert described(raised.value, *others) == f"port {port} is held by container web"
    assert described(raised.value, others[0]) == ""  # the container was removed meanwhile; no process is named


def test_published_port_of_another_address_is_not_named() -> None:
    error = PortInUse("", 80, "tcp", "127.0.0.1", is_published=True)
    assert described(error, ("web", "127.0.0.2", 80)) == ""
    assert described(error, ("web", "0.0.0.0", 80)) == "port 80 is held by container web"


def test_errors_with_another_cause_name_nothing() -> None:
    assert (
        described(DriverError("failed to bind host port 0.0.0.0:80/tcp: permission denied")) == described(ValueError()) == ""
    )


def test_failed_or_slow_search_names_nothing(refused: tuple[int, PortInUse], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> list[tuple[int, str]]:
        raise OSError("too many open files")

    monkeypatch.setattr(port_holders, "processes", fails)
    assert described(refused[1]) == ""
    released = trio.Event()

    def slow(*_: object) -> list[tuple[int, str]]:
        trio.from_thread.run(released.wait)
        return [(1, "x")]

    monkeypatch.setattr(port_holders, "processes", slow)
    monkeypatch.setattr(port_holders, "_PATIENCE", 0.05)

    async def run() -> str:
        found = await port_holders.describe(cast("Any", containers()), refused[1])
        released.set()
        return found

    assert trio.run(run) == ""


def text_of(address: str) -> str:
    """The address as in /proc/net/tcp."""
    data = ip_address(address).packed
    return "".join(f"{int.from_bytes(data[at : at + 4], sys.byteorder):08X}" for at in range(0, len(data), 4))


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Processes 11 to 16, each with a socket for port 80 of another address or in another state."""
    sockets = [
        (11, "tcp", "127.0.0.1", "0A"),
        (12, "tcp", "127.0.0.2", "0A"),
        (13, "tcp", "127.0.0.1", "01"),  # a connection
        (14, "tcp6", "::ffff:127.0.0.1", "0A"),
        (15, "tcp6", "::1", "0A"),
        (16, "udp", "0.0.0.0", "07"),
    ]
    (tmp_path / "net").mkdir()
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        lines = [
            f"   0: {text_of(address)}:0050 00000000:0000 {state} 00000000:00000000 00:00000000 0 0 0 {pid}000 1"
            for pid, name, address, state in sockets
            if name == kind
        ]
        (tmp_path / "net" / kind).write_text("\n".join(["  sl  local_address ...", *lines, ""]))
    for pid, *_ in sockets:
        (tmp_path / str(pid) / "fd").mkdir(parents=True)
        (tmp_path / str(pid) / "fd" / "3").symlink_to(f"socket:[{pid}000]")
        (tmp_path / str(pid) / "comm").write_text(f"p{pid}\n")
    (tmp_path / "16" / "comm").write_text("a\x1b[2J\nb\n")
    (tmp_path / "17").mkdir()  # a process that has just ended
    return tmp_path


@pytest.mark.parametrize(
    ("port", "protocol", "address", "found"),
    [
        (80, "tcp", "127.0.0.1", [(11, "p11"), (14, "p14")]),
        (80, "tcp", "127.0.0.2", [(12, "p12")]),
        (80, "tcp", "127.0.0.3", []),
        (80, "tcp", "0.0.0.0", [(11, "p11"), (12, "p12"), (14, "p14")]),
        (80, "tcp", "::", [(15, "p15")]),
        (80, "udp", "127.0.0.1", [(16, "a?[2J?b")]),
        (81, "tcp", "0.0.0.0", []),
        (80, "sctp", "0.0.0.0", []),
    ],
)
def test_processes_whose_sockets_exclude_another_one_are_found(
    proc: Path, port: int, protocol: str, address: str, found: list[tuple[int, str]]
) -> None:
    assert port_holders.processes(port, protocol, address, str(proc)) == found


def test_socket_for_all_addresses_of_ipv6_also_excludes_ipv4(proc: Path) -> None:
    lines = (proc / "net" / "tcp6").read_text().replace(text_of("::1"), text_of("::"))
    (proc / "net" / "tcp6").write_text(lines)
    assert (15, "p15") in port_holders.processes(80, "tcp", "127.0.0.3", str(proc))
