"""`orlop run`: create, attach, wait, start, copy, and the container's exit code."""

from __future__ import annotations

from orlop_cli import _config
from orlop_cli._command import command, flag, option
from orlop_cli._errors import ApiError, CliError, Exit
from orlop_cli.attached.attachment import Attachment, Wiring, check_terminal, detach_bytes
from orlop_cli.attached.control import control, resize_now
from orlop_cli.attached.wait import Wait
from orlop_cli.create import body, dry_run
from orlop_cli.create.container import create, start_code
from orlop_cli.create.options import STREAMS, create_options

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session
    from orlop_cli.daemon.client import Engine


@command(
    "run",
    "Create and run a new container from an image",
    usage="IMAGE [COMMAND] [ARG...]",
    least=1,
    most=None,
    interspersed=False,
    examples=[
        "orlop run --rm -it busybox sh                        a shell; its container is removed at the end",
        "orlop run -d --name web -p 8080:80 nginx             a server in the background",
        "orlop run --rm -v $PWD:/src -w /src python:3 make    a tool that reads and writes the files of this directory",
        "orlop run --rm -m 256m --cpus 0.5 busybox sleep 60   with limits",
        "orlop run --dry-run -p 8080:80 nginx                 mounts, limits, firewall elements, problems; makes nothing",
        "tar c . | orlop run --rm -i busybox tar t            in a pipeline",
        "",
        "Everything after IMAGE belongs to the container's command. The exit code is the container's;",
        "125: the container could not be started, 126: the command cannot be executed, 127: command not found.",
    ],
)
@flag("-d", "--detach", section=STREAMS, help="Run container in background and print container ID")
@option("--detach-keys", section=STREAMS, metavar="string", help="Override the key sequence for detaching a container")
@flag("--sig-proxy", section=STREAMS, default=True, help="Proxy received signals to the process (default true)")
@create_options
def run(
    session: Session, args: tuple[str, ...], detach: bool, detach_keys: str | None, sig_proxy: bool, **options: Any
) -> None:
    engine = session.engine
    if dry_run.wanted(options):
        raise Exit(125 if dry_run.show(engine, options, args[0], args[1:], detach) else 0)
    stdin, stdout, stderr = body.attached(options, detach)
    check_terminal(options["tty"], stdin)
    keys = _config.detach_keys(detach_keys)
    detach_bytes(keys)
    try:
        made = create(engine, options, args[0], args[1:], detach)
    except CliError as error:
        error.code = start_code(error) if isinstance(error, ApiError) else 125
        raise
    path = f"/containers/{made}"
    if not (stdin or stdout or stderr):
        try:
            _start(engine, path, None)
        finally:
            print(made, flush=True)  # as in docker, also if the start has failed: the container exists
        return
    _foreground(engine, path, Wiring(options["tty"], stdin, stdout, stderr, keys), sig_proxy, options["remove"])


def _foreground(engine: Engine, path: str, wiring: Wiring, forward: bool, removed: bool) -> None:
    query = {
        "stream": 1,
        "stdin": int(wiring.stdin) or None,
        "stdout": int(wiring.stdout) or None,
        "stderr": int(wiring.stderr) or None,
        "detachKeys": wiring.detach_keys,
    }
    with control(engine, path, forward, wiring.tty):
        attachment = Attachment(engine.hijack(f"{path}/attach", query), wiring)
        wait = Wait(engine, path, removed)
        _start(engine, path, wait if removed else None)
        if wiring.tty:
            resize_now(engine, path)
        attachment.run()
    if attachment.detached:
        return
    raise Exit(wait.code())


def _start(engine: Engine, path: str, removal: Wait | None) -> None:
    """Start the container. If the start of a container with --rm fails, wait until it has been removed."""
    try:
        engine.post(f"{path}/start")
    except ApiError as error:
        if removal is not None:
            try:
                removal.code()
            except CliError:
                pass  # ignored, because the error of the start is shown
        error.code = start_code(error)
        raise
