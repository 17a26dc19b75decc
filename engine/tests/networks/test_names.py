"""The names tables that the daemon writes for containers' name servers: when they are written, and write failures."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio
from engine_fixture import run_fast
from networks_fixture import NetworksFixture, request

from orlop_engine.networks.names import Names
from orlop_engine.types.containers import HostConfig
from orlop_monitor.dns.names import ContainerNames, Tables, container_file, network_file

MANY = 12


def names_on(networks_fixture: NetworksFixture, network_id: str, name: str) -> list[bytes] | None:
    """The answer of a name server that reads the table now; None if the table does not contain the name."""
    tables = Tables("")
    tables._container._value = ContainerNames((network_file(networks_fixture.config.exec_root, network_id),))
    return tables.answer(1, name)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list of the files that were written. While the list contains `full`, writes fail, as on a full file system."""
    written: list[str] = []
    write = Names._write

    def counted(self: Names, path: str, content: bytes) -> None:
        if "full" in written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        written.append(path)
        write(self, path, content)

    monkeypatch.setattr(Names, "_write", counted)
    return written


def test_daemon_start_writes_each_names_table_only_once_and_with_all_members(tmp_path: Path, writes: list[str]) -> None:
    """If a table lacked some members, name servers would forward queries for these members to outside servers."""

    async def main() -> None:
        networks_fixture = NetworksFixture(tmp_path)
        async with networks_fixture.daemon() as networks:
            ids = [(await networks.create(request(name))).id for name in ("front", "back")]
            mine = [await networks_fixture.start(number, ("front", "back")[number % 2]) for number in range(1, MANY + 1)]
        missing: list[str] = []
        restored = networks_fixture.bridge.restore

        async def restore(*of: object) -> None:
            look()
            await restored(*of)  # type: ignore[arg-type]

        def look() -> None:
            found = {number: names_on(networks_fixture, ids[number % 2], f"c{number}") for number in range(1, MANY + 1)}
            missing.extend(f"c{number}" for number, answer in found.items() if not answer)

        networks_fixture.bridge.restore = restore  # type: ignore[method-assign]
        del writes[:]
        async with networks_fixture.daemon(*mine):
            look()
        assert sorted(writes) == sorted(network_file(networks_fixture.config.exec_root, each) for each in ids)
        assert missing == []

    run_fast(main)


def test_names_tables_are_written_as_soon_as_the_disk_has_space(tmp_path: Path, writes: list[str]) -> None:
    async def main() -> None:
        networks_fixture = NetworksFixture(tmp_path)
        async with networks_fixture.daemon() as networks, trio.open_nursery() as nursery:
            nursery.start_soon(networks.names.write_again)
            net, gone = [(await networks.create(request(name))).id for name in ("net", "gone")]
            writes.append("full")
            sandboxes = [
                await networks_fixture.start(1, "net"),
                await networks_fixture.start(2, "net"),
                await networks_fixture.start(3, "gone"),
            ]
            await trio.sleep(60)
            assert names_on(networks_fixture, net, "c1") is None
            await networks.release(sandboxes[2])
            await networks.remove("gone")
            writes.remove("full")
            await trio.sleep(2)
            assert names_on(networks_fixture, net, "c1") and names_on(networks_fixture, net, "c2")
            assert writes == [network_file(networks_fixture.config.exec_root, net)]
            assert not os.path.exists(network_file(networks_fixture.config.exec_root, gone))
            nursery.cancel_scope.cancel()

    run_fast(main)


@pytest.mark.parametrize("ended", [False, True])
def test_names_table_of_a_container_is_written_later_unless_the_container_has_ended(
    tmp_path: Path, writes: list[str], ended: bool
) -> None:
    async def main() -> None:
        networks_fixture = NetworksFixture(tmp_path)
        run_dir = tmp_path / "run" / "run" / "c1"
        async with networks_fixture.daemon() as networks, trio.open_nursery() as nursery:
            nursery.start_soon(networks.names.write_again)
            await networks.create(request("net"))
            sandbox = await networks_fixture.start(1, "net")
            run_dir.mkdir(parents=True)
            writes.append("full")
            path = networks.names.configure(str(run_dir), HostConfig(), sandbox, {"db": "c2"})
            assert path == container_file(str(run_dir)) and not os.path.exists(path)
            if ended:
                run_dir.rmdir()
            writes.remove("full")
            await trio.sleep(2)
            assert os.path.exists(path) != ended and run_dir.exists() != ended
            nursery.cancel_scope.cancel()

    run_fast(main)
