from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
import trio

from orlop_engine.networks import ports as ports_module
from orlop_engine.networks.ports import Bound, PortAllocator, Wanted, normal_ports, parse_port, wanted_ports
from orlop_engine.networks.status import _ports
from orlop_engine.types.containers import PortBinding
from orlop_sdk import DriverError, InvalidParameter, PublishedPort
from orlop_sdk.testing.ports import free_port


@pytest.fixture
def held() -> Iterator[list[Bound]]:
    found: list[Bound] = []
    yield found
    for bound in found:
        if bound.socket:
            bound.socket.close()


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", [(80, "tcp")]),
        ("80/UDP", [(80, "udp")]),
        ("80-82/sctp", [(80, "sctp"), (81, "sctp"), (82, "sctp")]),
    ],
)
def test_port_specifications_are_parsed(text: str, ports: list[tuple[int, str]]) -> None:
    assert parse_port(text) == ports


@pytest.mark.parametrize("text", ["", "x", "80/icmp", "82-80", "65536", "0", "-1", "٣"])
def test_invalid_port_specifications_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_port(text)


def test_port_bindings_are_converted_to_ports_to_allocate() -> None:
    bindings = {
        "80/tcp": [PortBinding(host_port="8080"), PortBinding(host_ip="127.0.0.1", host_port="8081-8089")],
        "90-91/udp": [PortBinding(host_port="9000-9001")],
        "100": None,
        "101": [],
    }
    assert wanted_ports(["200/tcp", "80"], bindings, publish_all=True) == [
        Wanted("tcp", 80, "", 8080, 8080),
        Wanted("udp", 90, "", 9000, 9000),
        Wanted("udp", 91, "", 9001, 9001),
        Wanted("tcp", 80, "127.0.0.1", 8081, 8089),
        Wanted("tcp", 100, "", 0, 0),
        Wanted("tcp", 101, "", 0, 0),
        Wanted("tcp", 200, "", 0, 0),
    ]
    assert wanted_ports(["200/tcp"], {}, publish_all=False) == []


@pytest.mark.parametrize(
    "bindings",
    [
        {"80-82": [PortBinding(host_port="8080-8081")]},
        {"80": [PortBinding(host_port="x")]},
        {"80": [PortBinding(host_ip="x")]},
        {"80": [PortBinding(host_port="70000")]},
    ],
)
def test_invalid_port_bindings_are_refused(bindings: dict[str, list[PortBinding]]) -> None:
    with pytest.raises(InvalidParameter):
        wanted_ports([], bindings, publish_all=False)


@pytest.mark.parametrize("text", ["foo/tcp", "80/foo", "70000/tcp", "80-79", ""])
@pytest.mark.parametrize("publish_all", [False, True])
def test_invalid_exposed_ports_are_refused(text: str, publish_all: bool) -> None:
    with pytest.raises(InvalidParameter, match=r"^invalid port specification: "):
        wanted_ports([text], {}, publish_all)


def test_invalid_exposed_ports_are_skipped_in_answers() -> None:
    """Invalid ports may come from an image or an old row."""
    exposed = ["foo/tcp", "80/tcp", "70000/udp", "9-8"]
    assert normal_ports(exposed) == ["80/tcp"]
    assert _ports(exposed, ()) == {"80/tcp": []}


def take(ports: PortAllocator, wanted: list[Wanted]) -> list[Bound]:
    return trio.run(ports.allocate, wanted)


def test_same_host_port_is_allocated_for_ipv4_and_ipv6(held: list[Bound]) -> None:
    ports = PortAllocator()
    held += take(ports, [Wanted("tcp", 80, "", 0, 0)])
    assert [bound.port.host_ip for bound in held] == ["0.0.0.0", "::"]
    assert len({bound.port.host_port for bound in held}) == 1
    for bound, address in zip(held, ("127.0.0.1", "::1"), strict=True):
        assert bound.socket is not None and bound.socket.getsockname()[1] == bound.port.host_port
        with socket.create_connection((address, bound.port.host_port), 2):
            pass


def test_port_taken_by_another_container_is_refused(held: list[Bound]) -> None:
    ports = PortAllocator()
    held += take(ports, [Wanted("tcp", 80, "127.0.0.1", 0, 0)])
    port = held[0].port.host_port
    with pytest.raises(DriverError, match=rf"^Bind for 0\.0\.0\.0:{port} failed: port is already allocated$"):
        take(ports, [Wanted("tcp", 80, "", port, port)])
    held += take(ports, [Wanted("tcp", 80, "127.0.0.2", port, port)])
    held += take(ports, [Wanted("udp", 80, "127.0.0.1", port, port)])


def test_port_taken_by_another_program_is_refused(held: list[Bound]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(DriverError, match=rf"^failed to bind host port 0\.0\.0\.0:{port}/tcp: address already in use$"):
            take(PortAllocator(), [Wanted("tcp", 80, "", port, port)])


def test_unknown_host_address_is_refused() -> None:
    with pytest.raises(DriverError, match="cannot assign requested address"):
        take(PortAllocator(), [Wanted("tcp", 80, "192.0.2.77", 8080, 8080)])


def test_first_free_port_of_a_range_is_allocated(held: list[Bound]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        if port > 65500:
            pytest.fail("no free port above the port the kernel chose")
        held += take(PortAllocator(), [Wanted("tcp", 80, "127.0.0.1", port, port + 30)])
        assert port < held[0].port.host_port <= port + 30


def test_failed_reservation_reserves_nothing(held: list[Bound]) -> None:
    ports = PortAllocator()
    first = free_port()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(DriverError):
            take(ports, [Wanted("tcp", 80, "127.0.0.1", first, first), Wanted("tcp", 81, "127.0.0.1", taken, taken)])
    held += take(ports, [Wanted("tcp", 80, "127.0.0.1", first, first)])
    assert held[0].port.host_port == first


def test_ports_of_adopted_containers_stay_reserved_until_their_release(held: list[Bound]) -> None:
    ports = PortAllocator()
    number = free_port()
    living = PublishedPort("tcp", "0.0.0.0", number, 80)
    ports.adopt([living])
    with pytest.raises(DriverError, match="port is already allocated"):
        take(ports, [Wanted("tcp", 80, "127.0.0.1", number, number)])
    ports.release([living])
    ports.release([living])
    held += take(ports, [Wanted("tcp", 80, "127.0.0.1", number, number)])


def test_ephemeral_ports_are_allocated_in_ascending_order(held: list[Bound]) -> None:
    ports = PortAllocator("127.0.0.1")
    held += take(ports, [Wanted("tcp", number, "", 0, 0) for number in (80, 81, 82)])
    numbers = [bound.port.host_port for bound in held]
    assert numbers == sorted(set(numbers))


def test_sctp_port_is_published_without_a_listening_socket() -> None:
    (bound,) = take(PortAllocator(), [Wanted("sctp", 80, "127.0.0.1", 8080, 8080)])
    assert bound.socket is None and bound.port == PublishedPort("sctp", "127.0.0.1", 8080, 80)


def test_number_of_ports_per_container_is_limited() -> None:
    range_of_all = {"1-65535/tcp": None}
    for exposed, bindings, publish_all, what in (
        ((), range_of_all, False, "published ports: at most 4096 are allowed"),
        (["1-5000/tcp"], {}, True, "published ports: at most 4096 are allowed"),
        ([f"{low}-65535/tcp" for low in range(1, 10_000)], {}, False, "exposed ports: at most 32768 are allowed"),
        ((), {f"{low}-65535/tcp": None for low in range(60_000, 65_535)}, False, "published"),
    ):
        with pytest.raises(InvalidParameter, match=f"^too many {what}"):
            wanted_ports(exposed, bindings, publish_all)
    assert wanted_ports(["16384-32768/udp"], {}, publish_all=False) == []
    assert len(wanted_ports([], {"10001-14096/udp": [PortBinding(host_port="10001-14096")]}, publish_all=False)) == 4_096


def test_many_ports_do_not_block_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocation also takes linear time: the ports in use are read once, not for each port."""
    monkeypatch.setattr(ports_module, "_open", lambda *_, **__: None)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def main() -> None:
        allocator = PortAllocator()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            began = time.thread_time()
            bound = await allocator.allocate([Wanted("tcp", port, "127.0.0.1", 0, 0) for port in range(1, 4_097)])
            assert time.thread_time() - began < 5
            nursery.cancel_scope.cancel()
        assert len({each.port.host_port for each in bound}) == 4_096

    trio.run(main)
    assert turns > 50
