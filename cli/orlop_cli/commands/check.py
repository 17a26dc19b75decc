"""`orlop system check`: the consistency check of database, files, monitors and kernel state."""

from __future__ import annotations

import sys

from orlop_cli._command import command, flag, many, option
from orlop_cli._errors import ApiError, CannotConnect, CliError, Exit
from orlop_cli.tables.format import render_values

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session


UNSOUND, UNABLE = 1, 2


def ask(session: Session, *, repair: bool, deep: bool, forget: tuple[str, ...] = ()) -> dict[str, Any]:
    """The daemon's report. Exits with 2 if there is no report."""
    query: dict[str, str | int | list[str] | None] = {"deep": int(deep), "forget": list(forget)}
    try:
        call = session.engine.post if repair or forget else session.engine.get
        return dict(call("/orlop/check", query))
    except CannotConnect as error:
        raise CliError(f"{error.message}\nTo check without a daemon, run: orlopd --check", UNABLE) from None
    except ApiError as error:
        if error.status == 404:
            raise CliError(
                f"the daemon at {session.address.text} has no consistency check: it is not orlopd", UNABLE
            ) from None
        raise CliError(error.message, UNABLE) from None


def text(report: dict[str, Any]) -> str:
    """The report as text: one line for each finding, with its repair in the next line."""
    lines = [f"repaired  {line}" for line in report.get("repaired") or ()]
    for finding in report["findings"]:
        lines.append(f"{finding['severity']:9} {finding['area']}: {finding['object']} {finding['text']}")
        if finding["repair"]:
            lines.append(f"{'':9} --repair: {finding['repair']}")
    lines.append("No problems found." if report["ok"] else f"{len(report['findings'])} findings.")
    return "".join(f"{line}\n" for line in lines)


@command(
    "check",
    "Compare the daemon's database with files, monitors and the kernel",
    examples=[
        "orlop system check",
        "orlop system check --deep                        also read all blobs of images",
        "orlop system check --repair                      make the safe repairs; user data does not change",
        "orlop system check --forget containers/0123...   drop a quarantined row",
    ],
)
@flag("--deep", help="Also read all blobs of images and compare them with their digests")
@many("--forget", metavar="row", help="Drop this quarantined row (TABLE/KEY) and, at the next start, its files")
@option("--format", "form", metavar="string", help="'json', or a Go template")
@flag("--repair", help="Make the safe repair of each finding, and print each action")
def check(
    session: Session, args: tuple[str, ...], deep: bool, forget: tuple[str, ...], form: str | None, repair: bool
) -> None:
    report = ask(session, repair=repair, deep=deep, forget=forget)
    sys.stdout.write(render_values([report], form) if form else text(report))
    if not report["ok"]:
        raise Exit(UNSOUND)
