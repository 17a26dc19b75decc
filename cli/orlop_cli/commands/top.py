"""`orlop top`: the processes of a container; without a container, the full-screen view."""

from __future__ import annotations

import sys

from orlop_cli._command import command, fail
from orlop_cli.daemon.client import segment

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli._session import Session


@command(
    "top",
    "Display the running processes of a container, or a full-screen view of everything",
    usage="[CONTAINER [ps OPTIONS]]",
    least=0,
    most=None,
    interspersed=False,
    examples=[
        "orlop top                               full-screen view; the key ? shows its keys",
        "orlop top web",
        "orlop top web -eo pid,rss,args",
    ],
)
def top(session: Session, args: tuple[str, ...]) -> None:
    if not args:
        _full_screen(session)
        return
    from orlop_cli.tables import table

    query = {"ps_args": " ".join(args[1:]) or None}
    found = session.engine.get(f"/containers/{segment(args[0])}/top", query)
    sys.stdout.write(table.layout([found["Titles"], *(found["Processes"] or [])], minimum=20, padding=3))


def _full_screen(session: Session) -> None:
    import os

    if not (os.isatty(0) and os.isatty(1)):
        fail(
            "'orlop top' without a container needs a terminal for its full-screen view\n\n"
            "Usage:  orlop top [CONTAINER [ps OPTIONS]]\n\nUse `orlop ps` and `orlop stats --no-stream` in scripts"
        )
    try:
        from orlop_cli.fullscreen import loop
    except ImportError as error:  # a Python that was built without ncurses
        fail(f"cannot show a full-screen view: this Python has no module {error.name}; use `orlop stats` instead")
    loop.run(session, _this_client())


def _this_client() -> list[str]:
    """The words that start this client with its global flags: the words of this process before the command."""
    from orlop_cli import _parse
    from orlop_cli._table import GLOBAL

    found = _parse.flags_and_words(GLOBAL, sys.argv[1:], False)
    rest = len(found[1]) if found else 1
    words = sys.orig_argv[: len(sys.orig_argv) - rest]
    return [sys.executable, *words[1:]]
