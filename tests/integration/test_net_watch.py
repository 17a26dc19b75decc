"""Rules that another program deletes are restored while the daemon runs."""

from __future__ import annotations

import os
import random

import pytest
from tests.integration.engine import until
from tests.integration.net_host import HOST, HTTP, NETWORK, REMOTE, Host, on_host, run

from orlop_net_bridge._watch import concerns

pytestmark = pytest.mark.root

BRIDGE = f"br-{NETWORK.id[:12]}"


async def watching(host: Host) -> None:
    await host.driver.create_network(NETWORK)
    await host.driver.restore([NETWORK], [])


@pytest.mark.parametrize("command", ["flush ruleset", "delete table inet TABLE", "flush table inet TABLE"])
def test_deleted_rules_are_restored(command: str) -> None:
    async def body(host: Host) -> None:
        await watching(host)
        await host.container(2, HTTP)
        table = run("nft", "list", "tables", "inet").split()[-1]
        run("nft", *command.replace("TABLE", table).split())
        until(lambda: host.remote.call(HOST, 8080, 0.3) == REMOTE, "the published port")

    on_host()(body)()


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
async def test_changes_of_the_driver_itself_cause_no_comparison(host: Host) -> None:
    seen: list[str] = []
    host.driver._mend_later = lambda: seen.append("compared")  # type: ignore[method-assign]
    await watching(host)
    _, endpoint, state = await host.container(2, HTTP)
    await host.driver.detach(endpoint, state)
    run("nft", "add", "table", "inet", "stranger")
    run("nft", "delete", "table", "inet", "stranger")
    assert not seen
    run("nft", "flush", "ruleset")
    until(lambda: bool(seen), "the announcement")


def test_malformed_announcements_are_ignored() -> None:
    chance = random.Random(1)
    for size in range(200):
        concerns(os.urandom(size), "orlop")
        concerns(bytes(chance.choice((0, 2, 3, 8, 10, 16, 20)) for _ in range(size)), "orlop")
