"""`orlop start`."""

from __future__ import annotations

import sys

from orlop_cli import _config
from orlop_cli._command import command, complain, fail, flag, option
from orlop_cli._errors import ApiError, Exit
from orlop_cli.attached.attachment import Attachment, Wiring, check_terminal, detach_bytes
from orlop_cli.attached.control import control, resize_now
from orlop_cli.attached.wait import Wait
from orlop_cli.daemon.client import segment

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli._session import Session


@command(
    "start",
    "Start one or more stopped containers",
    usage="CONTAINER [CONTAINER...]",
    least=1,
    most=None,
    examples=["orlop start web db", "orlop start -ai shell          attach the terminal"],
)
@flag("-a", "--attach", help="Attach STDOUT/STDERR and forward signals")
@flag("-i", "--interactive", help="Attach container's STDIN")
@option("--detach-keys", metavar="string", help="Override the key sequence for detaching a container")
@option("--checkpoint", metavar="string", help="Restore from this checkpoint")
@option("--checkpoint-dir", metavar="string", help="Use a custom checkpoint storage directory")
def start(
    session: Session,
    args: tuple[str, ...],
    attach: bool,
    interactive: bool,
    detach_keys: str | None,
    checkpoint: str | None,
    checkpoint_dir: str | None,
) -> None:
    query = {"checkpoint": checkpoint, "checkpoint-dir": checkpoint_dir}
    if checkpoint and len(args) > 1:
        fail("you cannot restore multiple containers at once")
    if not (attach or interactive):
        _all(session, args, query)
        return
    if len(args) > 1:
        fail("you cannot start and attach multiple containers at once")
    _attached(session, args[0], interactive, detach_keys, query)


def _all(session: Session, names: tuple[str, ...], query: dict[str, str | None]) -> None:
    failed = []
    for name in names:
        try:
            session.engine.post(f"/containers/{segment(name)}/start", query)
            print(name, flush=True)
        except ApiError as error:
            complain(error)
            failed.append(name)
    if failed:
        print(f"Error: failed to start containers: {', '.join(failed)}", file=sys.stderr)
        raise Exit(1)


def _attached(
    session: Session, name: str, interactive: bool, detach_keys: str | None, start_query: dict[str, str | None]
) -> None:
    engine = session.engine
    found = engine.get(f"/containers/{segment(name)}/json")
    config, path = found["Config"], f"/containers/{found['Id']}"
    tty, stdin = config["Tty"], interactive and bool(config["OpenStdin"])
    check_terminal(tty, stdin)
    keys = _config.detach_keys(detach_keys)
    detach_bytes(keys)
    query = {"stream": 1, "stdin": int(stdin) or None, "stdout": 1, "stderr": 1, "detachKeys": keys}
    with control(engine, path, not tty, tty):
        attachment = Attachment(engine.hijack(f"{path}/attach", query), Wiring(tty, stdin, True, True, keys))
        wait = Wait(engine, path, found["HostConfig"].get("AutoRemove", False))
        engine.post(f"{path}/start", start_query)
        if tty:
            resize_now(engine, path)
        attachment.run()
    if attachment.detached:
        return
    raise Exit(wait.code())
