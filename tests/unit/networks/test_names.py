"""The tables of names that the daemon writes for name servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.house import run_fast
from tests.unit.networks_house import NetworkHouse, request

from orlop_kernel.engine.networks.names import Names
from orlop_kernel.monitor.dns.names import ContainerNames, Tables, network_file

MANY = 12


def names_on(house: NetworkHouse, network_id: str, name: str) -> list[bytes] | None:
    """What a monitor of today would answer."""
    tables = Tables("")
    tables._container._value = ContainerNames((network_file(house.config.exec_root, network_id),))
    return tables.answer(1, name)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are written."""
    written: list[str] = []
    write = Names._replace

    def counted(self: Names, path: str, content: bytes) -> None:
        written.append(path)
        write(self, path, content)

    monkeypatch.setattr(Names, "_replace", counted)
    return written


def test_a_boot_writes_each_table_once_with_all_members(tmp_path: Path, writes: list[str]) -> None:
    """A table with some of the members would send the others' names to outside servers."""

    async def main() -> None:
        house = NetworkHouse(tmp_path)
        async with house.daemon() as networks:
            ids = [(await networks.create(request(name))).id for name in ("front", "back")]
            mine = [await house.start(number, ("front", "back")[number % 2]) for number in range(1, MANY + 1)]
        missing: list[str] = []
        restored = house.bridge.restore

        async def restore(*of: object) -> None:
            look()
            await restored(*of)  # type: ignore[arg-type]

        def look() -> None:
            for number in range(1, MANY + 1):
                if not names_on(house, ids[number % 2], f"c{number}"):
                    missing.append(f"c{number}")

        house.bridge.restore = restore  # type: ignore[method-assign]
        del writes[:]
        async with house.daemon(*mine):
            look()
        assert sorted(writes) == sorted(network_file(house.config.exec_root, each) for each in ids)
        assert missing == []

    run_fast(main)
