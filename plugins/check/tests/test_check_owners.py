"""The consistency check, with checks that these tests define. Findings are collected, filtered, repaired only once, and
reported."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from orlop_check import offline, online
from orlop_check.database import compare
from orlop_check.report import report
from orlop_kernel import assembly
from orlop_kernel.config import Config, Loaded
from orlop_kernel.events import EventBus
from orlop_kernel.kinds import Context, Services
from orlop_kernel.store import TABLES, Examined, Store, database_path
from orlop_sdk import DriverError, InvalidParameter
from orlop_sdk.findings import ERROR, INFO, WARNING, Finding, Remedy

EMPTY = Examined({table: {} for table in TABLES})


class Litter:
    """Implements Check and CheckPlugin: each file in a directory is a finding."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.busy: set[str] = set()
        self.asked: list[bool] = []
        self.leaving: list[str] = []
        self.opened = self.closed = 0
        self.serving = False

    @asynccontextmanager
    async def open(self, config: Config, services: Services) -> AsyncIterator[Litter]:
        self.opened += 1
        self.serving = bool(services)
        try:
            yield self
        finally:
            self.closed += 1

    def _finding(self, name: str) -> Finding:
        remedy = Remedy("unlink", name) if name != "kept" else None
        repair = "remove it" if remedy else ""
        return Finding(severity=WARNING, area="litter", object=name, text="is litter", repair=repair, id=name, remedy=remedy)

    async def examine(self, database: Examined, *, deep: bool) -> Sequence[Finding]:
        self.asked.append(deep)
        if (self.directory / "broken").exists():
            raise DriverError("the litter bin is stuck")
        found = [self._finding(path.name) for path in sorted(self.directory.iterdir())]
        for name in self.leaving:
            (self.directory / name).unlink(missing_ok=True)
        return found

    def in_progress(self, finding: Finding) -> bool:
        return finding.id in self.busy

    async def repair(self, finding: Finding) -> bool:
        if finding.object == "stuck":
            raise OSError(5, "Input/output error", "stuck")
        if finding.object == "later":
            return False
        (self.directory / finding.object).unlink()
        return True

    async def facts(self, database: Examined) -> Mapping[str, str]:
        if (self.directory / "broken").exists():
            raise DriverError("the litter bin is stuck")
        return {"litter.txt": f"{len(list(self.directory.iterdir()))} pieces\n"}


@pytest.fixture
def litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Litter:
    (tmp_path / "litter").mkdir()
    found = Litter(tmp_path / "litter")
    monkeypatch.setattr(assembly, "check_plugins", lambda config: {"litter": found})
    return found


def config_of(tmp_path: Path) -> Config:
    for name in ("data", "exec"):
        (tmp_path / name).mkdir(exist_ok=True)
    return Config(data_root=str(tmp_path / "data"), exec_root=str(tmp_path / "exec"))


async def make_database(config: Config) -> None:
    async with Store.open(database_path(config.data_root)):
        pass


def test_findings_of_an_offline_check_are_reported_and_repaired(
    litter: Litter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path)
    assert offline.main(config, ()) == offline.UNABLE, "there is no database"
    capsys.readouterr()
    trio.run(make_database, config)
    assert offline.main(config, ["deep"]) == offline.SOUND
    assert json.loads(capsys.readouterr().out) == {"findings": [], "ok": True}
    assert litter.asked == [True] and not litter.serving
    for name in ("a", "kept", "later", "stuck"):
        (litter.directory / name).touch()
    assert offline.main(config, ["repair", "facts"]) == offline.UNSOUND
    answer = json.loads(capsys.readouterr().out)
    assert answer["repaired"] == ["a: remove it: done", "stuck: remove it: failed: cannot repair: stuck: Input/output error"]
    assert [each["object"] for each in answer["findings"]] == ["kept", "later", "stuck"]
    assert answer["findings"][0] == {
        "severity": "warning",
        "area": "litter",
        "object": "kept",
        "text": "is litter",
        "repair": "",
    }
    assert answer["facts"]["litter.txt"] == "3 pieces\n"
    assert {"kernel.txt", "database.json"} <= answer["facts"].keys()
    assert litter.opened == litter.closed == 3


def test_exception_in_a_check_is_reported_as_a_finding(
    litter: Litter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path)
    trio.run(make_database, config)
    (litter.directory / "broken").touch()
    assert offline.main(config, ["facts"]) == offline.UNSOUND
    answer = json.loads(capsys.readouterr().out)
    assert [(each["object"], each["text"]) for each in answer["findings"]] == [("check litter", "the litter bin is stuck")]
    assert answer["facts"]["check-litter.txt"] == "cannot be read: the litter bin is stuck\n"


@asynccontextmanager
async def checker_of(config: Config) -> AsyncIterator[online.Checker]:
    async with Store.open(database_path(config.data_root)) as store, trio.open_nursery() as nursery:
        context = Context(Loaded(config), store, EventBus(store), nursery, {"litter": object()}, None)
        yield online.Checker(context)


def test_objects_in_use_are_ignored_by_an_online_check(
    litter: Litter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "_PAUSES", (0.01, 0.03, 0.06, 0.12))

    async def main() -> None:
        async with checker_of(config_of(tmp_path)) as checker:
            (litter.directory / "a").touch()
            (litter.directory / "b").touch()
            litter.busy = {"a"}
            found = await checker.check(deep=True)
            assert [each.object for each in found.findings] == ["b"], "an operation in progress explains the other"
            assert litter.asked == [True, False, False, False, False], "content is read once"
            assert litter.serving
            found = await checker.repair()
            assert (found.ok, found.repaired) == (True, ("b: remove it: done",))
            assert (litter.directory / "a").exists()
            litter.busy = set()

            litter.leaving = ["a"]
            assert (await checker.check()).findings == (), "it was half removed"
            assert "tasks.txt" in ((await checker.check(facts=True)).facts or {})

    trio.run(main)


@pytest.mark.usefixtures("litter")
def test_repair_refuses_to_drop_a_row_that_is_not_quarantined(tmp_path: Path) -> None:
    async def main() -> None:
        async with checker_of(config_of(tmp_path)) as checker:
            with pytest.raises(InvalidParameter, match="cannot drop row volumes/x: it is not quarantined"):
                await checker.repair(forget=["volumes/x"])

    trio.run(main)


@pytest.mark.parametrize(
    ("changes", "severity", "thing", "text"),
    [
        ({"damage": ("malformed",)}, ERROR, "file orlop.db", "is damaged: malformed"),
        ({"damaged_files": ("orlop.db.damaged-1",)}, WARNING, "file orlop.db.damaged-1", "an earlier start of the daemon"),
        ({"quarantined": (("volumes", "x", "why"),)}, ERROR, "quarantined row volumes/x", "could not be used: why"),
    ],
)
def test_damaged_files_and_rows_of_the_database_are_findings(
    changes: dict[str, Any], severity: str, thing: str, text: str
) -> None:
    assert list(compare(EMPTY)) == []
    (finding,) = compare(EMPTY._replace(**changes))
    assert (finding.severity, finding.object) == (severity, thing)
    assert text in finding.text


def test_report_contains_sorted_findings_and_the_repairs() -> None:
    findings = [
        Finding(severity=WARNING, area="b", object="x", text="t", repair="r"),
        Finding(severity=ERROR, area="z", object="y", text="t"),
    ]
    assert json.loads(msgspec.json.encode(report(findings, ["did"]))) == {
        "findings": [
            {"severity": "error", "area": "z", "object": "y", "text": "t", "repair": ""},
            {"severity": "warning", "area": "b", "object": "x", "text": "t", "repair": "r"},
        ],
        "ok": False,
        "repaired": ["did"],
    }
    assert report([Finding(severity=INFO, area="a", object="o", text="t")]).ok
