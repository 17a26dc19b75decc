"""`orlop exec`."""

from __future__ import annotations

from orlop_cli import _config
from orlop_cli._command import command, flag, many, option
from orlop_cli._errors import CannotConnect, CliError, Exit
from orlop_cli.attached import terminal
from orlop_cli.attached.attachment import Attachment, Wiring, check_terminal, detach_bytes
from orlop_cli.attached.control import control, resize_now
from orlop_cli.create.values import environment
from orlop_cli.daemon.client import Engine, segment

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session


FIRST_RESIZES = 10  # attempts of the first resize, because the process may not have started yet


@command(
    "exec",
    "Execute a command in a running container",
    usage="CONTAINER COMMAND [ARG...]",
    least=2,
    most=None,
    interspersed=False,
    examples=[
        "orlop exec -it web sh                   a shell inside",
        "orlop exec -u root web id               as another user",
        "orlop exec -i db psql < dump.sql        with stdin from a file",
    ],
)
@flag("-d", "--detach", help="Detached mode: run command in the background")
@option("--detach-keys", metavar="string", help="Override the key sequence for detaching a container")
@many("-e", "--env", help="Set environment variables")
@many("--env-file", help="Read in a file of environment variables")
@flag("-i", "--interactive", help="Keep STDIN open even if not attached")
@flag("--privileged", help="Give extended privileges to the command")
@flag("-t", "--tty", help="Allocate a pseudo-TTY")
@option("-u", "--user", metavar="string", help="Username or UID (format: <name|uid>[:<group|gid>])")
@option("-w", "--workdir", metavar="string", help="Working directory inside the container")
def exec_(session: Session, args: tuple[str, ...], detach: bool, interactive: bool, tty: bool, **options: Any) -> None:
    engine = session.engine
    stdin = interactive and not detach
    check_terminal(tty, stdin)
    keys = _config.detach_keys(options["detach_keys"])
    detach_bytes(keys)
    size = terminal.size() if tty else None
    body = {
        "AttachStdin": stdin,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "Tty": tty,
        "Cmd": list(args[1:]),
        "Env": environment(options["env_file"], options["env"]),
        "User": options["user"] or "",
        "WorkingDir": options["workdir"] or "",
        "Privileged": options["privileged"],
        "Detach": detach,
        "DetachKeys": keys or "",
        **({"ConsoleSize": size} if size else {}),
    }
    made = engine.post(f"/containers/{segment(args[0])}/exec", body=body)["Id"]
    start = {"Detach": detach, "Tty": tty, **({"ConsoleSize": size} if size else {})}
    if detach:
        engine.post(f"/exec/{made}/start", body=start)
        return
    _attached(engine, f"/exec/{made}", start, Wiring(tty, stdin, True, True, keys))


def _attached(engine: Engine, path: str, start: dict[str, Any], wiring: Wiring) -> None:
    with control(engine, path, False, wiring.tty):
        attachment = Attachment(engine.hijack(f"{path}/start", body=start), wiring)
        if wiring.tty:
            import threading

            threading.Thread(target=_first_resize, args=(engine.fork(), path), daemon=True).start()
        attachment.run()
    if attachment.detached:
        raise CliError("read escape sequence")
    try:
        found = engine.get(f"{path}/json")
    except CannotConnect:
        raise Exit(255) from None  # Docker exits with -1 if the exit code is unknown because the daemon does not answer
    raise Exit(int(found.get("ExitCode") or 0))


def _first_resize(engine: Engine, path: str) -> None:
    import threading

    pause = threading.Event()
    for attempt in range(FIRST_RESIZES):
        if resize_now(engine, path):
            return
        pause.wait(0.01 * (attempt + 1))
