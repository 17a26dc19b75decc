"""Rules that another program deletes are restored while the daemon runs."""

from __future__ import annotations

import os
import random

import pytest
from tests.integration.engine import until
from tests.integration.net_host import HOST, HTTP, NETWORK, REMOTE, Host, on_host, run

from orlop_net_bridge._plan import Element
from orlop_net_bridge._watch import concerns
from orlop_sdk import DriverError

pytestmark = pytest.mark.root

BRIDGE = f"br-{NETWORK.id[:12]}"


async def watching(host: Host) -> None:
    await host.driver.create_network(NETWORK)
    await host.driver.restore([NETWORK], [])


@pytest.mark.parametrize("command", ["flush ruleset", "delete table inet TABLE", "flush table inet TABLE"])
def test_rules_that_another_program_deletes_are_restored(command: str) -> None:
    async def body(host: Host) -> None:
        await watching(host)
        await host.container(2, HTTP)
        table = run("nft", "list", "tables", "inet").split()[-1]
        run("nft", *command.replace("TABLE", table).split())
        until(lambda: host.remote.call(HOST, 8080, 0.3) == REMOTE, "the published port")

    on_host()(body)()


@on_host()
async def test_rules_that_are_deleted_during_the_start_of_the_daemon_are_restored(host: Host) -> None:
    """Firewall programs often start at the same time as the daemon."""
    await host.driver.create_network(NETWORK)
    table = host.driver._table
    assert table is not None
    settle = table.settle

    def settle_and_flush(wanted: frozenset[Element]) -> None:
        settle(wanted)
        run("nft", "flush", "ruleset")

    table.settle = settle_and_flush  # type: ignore[method-assign, assignment]
    await host.driver.restore([NETWORK], [])
    until(lambda: f"inet {table.name}" in run("nft", "list", "tables"), "the table")


@on_host()
async def test_rules_are_restored_if_the_daemon_started_without_networks(host: Host) -> None:
    await host.driver.create_network(NETWORK)
    await host.container(2, HTTP)
    run("nft", "flush", "ruleset")
    until(lambda: host.remote.call(HOST, 8080, 0.3) == REMOTE, "the published port")


@on_host()
async def test_failed_attach_leaves_no_published_port(host: Host) -> None:
    await watching(host)

    def fails() -> None:
        raise DriverError("no rules")

    host.driver._allow_links = fails  # type: ignore[method-assign]
    with pytest.raises(DriverError, match="no rules"):
        await host.container(2, HTTP)
    del host.driver._allow_links
    assert "8080" not in await host.driver.dump()
    await host.container(3, HTTP)
    assert host.remote.call(HOST, 8080) == REMOTE


def in_docker_user() -> int:
    return run("nft", "list", "chain", "ip", "filter", "DOCKER-USER").count(f'ifname "{BRIDGE}"')


@on_host()
async def test_accept_rules_are_added_when_dockerd_starts_later(host: Host) -> None:
    await watching(host)
    run("nft", "add", "table", "ip", "filter")
    run("nft", "add", "chain", "ip", "filter", "DOCKER-USER")
    until(lambda: in_docker_user() == 2, "the rules")
    run("nft", "flush", "chain", "ip", "filter", "DOCKER-USER")
    until(lambda: in_docker_user() == 2, "the rules again")


@on_host()
async def test_changes_by_the_driver_itself_do_not_cause_a_comparison_of_rules(host: Host) -> None:
    seen: list[str] = []
    host.driver._mend_later = lambda: seen.append("compared")  # type: ignore[method-assign]
    await watching(host)
    assert seen == ["compared"]
    seen.clear()
    _, endpoint, state = await host.container(2, HTTP)
    await host.driver.detach(endpoint, state)
    run("nft", "add", "table", "inet", "stranger")
    run("nft", "delete", "table", "inet", "stranger")
    assert not seen
    run("nft", "flush", "ruleset")
    until(lambda: bool(seen), "the announcement")


def test_malformed_netlink_announcements_are_ignored() -> None:
    chance = random.Random(1)
    for size in range(200):
        concerns(os.urandom(size), "orlop")
        concerns(bytes(chance.choice((0, 2, 3, 8, 10, 16, 20)) for _ in range(size)), "orlop")


def test_failed_restoration_of_rules_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> dict[str, object]:
        raise ValueError("no such JSON")

    async def body(host: Host) -> None:
        await watching(host)
        assert host.driver._table is not None
        host.driver._table.listing = fail  # type: ignore[method-assign]
        run("nft", "flush", "ruleset")
        until(lambda: "cannot restore rules that another program deleted: no such JSON" in caplog.text, "the error")

    on_host()(body)()
