"""`orlop attach`."""

from __future__ import annotations

from orlop_cli import _config
from orlop_cli._command import command, fail, flag, option
from orlop_cli._errors import CliError, Exit
from orlop_cli.attached import terminal
from orlop_cli.attached.attachment import Attachment, Wiring, check_terminal, detach_bytes
from orlop_cli.attached.control import control, resize
from orlop_cli.daemon.client import Engine, decode, segment

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli._session import Session


@command(
    "attach",
    "Attach local standard input, output, and error streams to a running container",
    usage="CONTAINER",
    least=1,
    most=1,
    examples=["orlop attach web            to detach: ctrl-p ctrl-q (TTY), or --sig-proxy=false and ctrl-c"],
)
@option("--detach-keys", metavar="string", help="Override the key sequence for detaching a container")
@flag("--no-stdin", help="Do not attach STDIN")
@flag("--sig-proxy", default=True, help="Proxy all received signals to the process (default true)")
def attach(session: Session, args: tuple[str, ...], detach_keys: str | None, no_stdin: bool, sig_proxy: bool) -> None:
    engine = session.engine
    found = engine.get(f"/containers/{segment(args[0])}/json")
    state, config = found["State"], found["Config"]
    if not state.get("Running"):
        fail("You cannot attach to a stopped container, start it first")
    if state.get("Paused"):
        fail("cannot attach to a paused container, unpause it first")
    if state.get("Restarting"):
        fail("cannot attach to a restarting container, wait until it is running")
    tty, stdin = config["Tty"], bool(config["OpenStdin"]) and not no_stdin
    check_terminal(tty, stdin)
    keys = _config.detach_keys(detach_keys)
    detach_bytes(keys)
    path = f"/containers/{found['Id']}"
    # Begin to wait before attaching, so that no exit is missed. The condition next-exit is not used, because the container
    # may have exited already
    ended = engine.detached("POST", f"{path}/wait")
    with control(engine, path, sig_proxy and not tty, tty):
        query = {"stream": 1, "stdin": int(stdin) or None, "stdout": 1, "stderr": 1, "detachKeys": keys}
        attachment = Attachment(engine.hijack(f"{path}/attach", query), Wiring(tty, stdin, True, True, keys))
        if tty:
            _redraw(engine, path)
        attachment.run()
    if attachment.detached:
        raise CliError("read escape sequence")
    result = decode(ended.read())
    problem = (result.get("Error") or {}).get("Message")
    if problem:
        fail(problem)
    raise Exit(int(result["StatusCode"]))


def _redraw(engine: Engine, path: str) -> None:
    """Make the program redraw its screen. Programs redraw when the terminal's size changes, so change it and change it back,
    as Docker does."""
    here = terminal.size()
    if here is not None:
        resize(engine, path, here[0] + 1, here[1] + 1)
        resize(engine, path, *here)
