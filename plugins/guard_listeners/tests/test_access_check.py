"""The guard's part of the consistency check."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from orlop_guard_listeners.check import AuditCheckPlugin
from orlop_guard_listeners.keys import AccessKeys, AuditLog
from orlop_kernel.config import Config
from orlop_kernel.store import TABLES, Examined
from orlop_sdk.findings import Finding

EMPTY = Examined({table: {} for table in TABLES})


def audited(log: Path, max_file: int) -> Config:
    return Config(parts={"listeners": AccessKeys(audit_log=AuditLog(path=str(log), max_file=max_file))})


def checked(config: Config, *, repair: bool = False) -> list[Finding]:
    async def main() -> list[Finding]:
        async with AuditCheckPlugin().open(config, {}) as check:
            found = await check.examine(EMPTY, deep=False)
            for finding in found if repair else ():
                assert not check.in_progress(finding)
                if finding.remedy:
                    assert await check.repair(finding)
            return found

    return trio.run(main)


def test_check_reports_an_audit_log_with_open_permissions(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    config = audited(log, 3)
    assert checked(Config()) == []
    assert checked(config) == [], "it is made when there is something to log"
    for name, mode in (("audit.log", 0o600), ("audit.log.1", 0o640), ("audit.log.3", 0o666)):
        (tmp_path / name).touch(mode)
        os.chmod(tmp_path / name, mode)
    (finding,) = checked(config, repair=True)
    assert finding.object == f"audit log {log}.1"
    assert finding.text == f"is accessible to users other than root (owner {os.geteuid()}, mode 0640)"
    assert checked(config) == []
    assert os.stat(tmp_path / "audit.log.1").st_mode & 0o777 == 0o600


def test_check_reports_a_link_instead_of_the_audit_log(tmp_path: Path) -> None:
    (tmp_path / "audit.log").symlink_to("/dev/null")
    (finding,) = checked(audited(tmp_path / "audit.log", 5), repair=True)
    assert (finding.text, finding.repair) == ("is not a regular file", "")
