"""What uses a host port: a container, or a process of the host."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from orlop_engine.containers import port_holders
from orlop_engine.networks.ports import PortAllocator, PortInUse, Wanted
from orlop_engine.networks.status import ContainerNetworks
from orlop_sdk import DriverError, PublishedPort

ME = (os.getpid(), Path("/proc/self/comm").read_text().strip())


class PortsFixture:
    """One container, `web`, that publishes the port."""

    def __init__(self, port: int = 0) -> None:
        published = [PublishedPort("tcp", "0.0.0.0", port, 80)] if port else []
        found = ContainerNetworks(None, {}, {"80/tcp": published})
        self.networks = SimpleNamespace(of_container=lambda *_, **__: found)
        state = SimpleNamespace(running=True)
        config = SimpleNamespace(exposed_ports={})
        record = SimpleNamespace(created_ns=1, state=state, sandbox=None, endpoints={}, config=config)
        self.index = SimpleNamespace(by_id={"1": SimpleNamespace(name="web", record=record)})


def described(error: BaseException, port_of_web: int = 0) -> str:
    return trio.run(port_holders.describe, cast("Any", PortsFixture(port_of_web)), error)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize(("kind", "protocol"), [(socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")])
def test_process_that_holds_a_port_is_found(family: int, kind: int, protocol: str) -> None:
    with socket.socket(family, kind) as held:
        held.bind(("", 0))
        if protocol == "tcp":
            held.listen()
        port = held.getsockname()[1]
        assert port_holders.processes(port, protocol) == [ME]
        assert port_holders.processes(port, "udp" if protocol == "tcp" else "tcp") == []
    assert port_holders.processes(port, protocol) == []


def test_error_about_a_held_port_names_the_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(PortInUse) as raised:
            trio.run(PortAllocator().allocate, [Wanted("tcp", 80, "", port, port)])
        assert described(raised.value) == f"port {port} is held by {ME[1]}, pid {ME[0]}"


def test_error_about_a_published_port_names_the_container() -> None:
    error = PortInUse("Bind for 0.0.0.0:8080 failed: port is already allocated", 8080, "tcp")
    assert described(error, 8080) == "port 8080 is held by container web"


def test_errors_with_another_cause_name_nothing() -> None:
    with pytest.raises(DriverError) as raised:
        trio.run(PortAllocator().allocate, [Wanted("tcp", 80, "192.0.2.1", 80, 80)])
    assert described(raised.value, 80) == described(ValueError("port")) == ""


def test_error_without_a_known_holder_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder has ended, or the search takes too long."""
    error = PortInUse("", 8080, "tcp")
    monkeypatch.setattr(port_holders, "processes", lambda *_: [])
    assert described(error) == ""
    released = trio.Event()

    def slow(*_: object) -> list[tuple[int, str]]:
        trio.from_thread.run(released.wait)
        return [(1, "x")]

    monkeypatch.setattr(port_holders, "processes", slow)
    monkeypatch.setattr(port_holders, "_PATIENCE", 0.05)

    async def run() -> str:
        found = await port_holders.describe(cast("Any", PortsFixture()), error)
        released.set()
        return found

    assert trio.run(run) == ""
