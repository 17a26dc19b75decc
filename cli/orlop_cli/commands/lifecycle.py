"""`stop`, `restart`, `kill`, `pause`, `unpause`, `wait`, `rename`, `rm`: one request per container."""

from __future__ import annotations

from orlop_cli._command import SILENT, command, complain, each, fail, flag, option
from orlop_cli._errors import ApiError, CliError
from orlop_cli.daemon.client import Engine, decode, segment
from orlop_cli.values.types import INT

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session


def _post(engine: Engine, verb: str, name: str, query: dict[str, Any] | None = None) -> Any:
    return engine.post(f"/containers/{segment(name)}/{verb}", query)


@command(
    "stop",
    "Stop one or more running containers",
    examples=[
        "orlop stop web               send the stop signal, and SIGKILL after the stop timeout (10 s)",
        "orlop stop -t 60 db cache",
    ],
    usage="CONTAINER [CONTAINER...]",
    least=1,
    most=None,
)
@option("-s", "--signal", metavar="string", help="Signal to send to the container")
@option("-t", "--timeout", "--time", type=INT, help="Seconds to wait before killing the container")
def stop(session: Session, args: tuple[str, ...], signal: str | None, timeout: int | None) -> None:
    each(args, lambda name: _post(session.engine, "stop", name, {"signal": signal, "t": timeout}))


@command(
    "restart",
    "Restart one or more containers",
    usage="CONTAINER [CONTAINER...]",
    least=1,
    most=None,
    examples=["orlop restart web"],
)
@option("-s", "--signal", metavar="string", help="Signal to send to the container")
@option("-t", "--timeout", "--time", type=INT, help="Seconds to wait before killing the container")
def restart(session: Session, args: tuple[str, ...], signal: str | None, timeout: int | None) -> None:
    each(args, lambda name: _post(session.engine, "restart", name, {"signal": signal, "t": timeout}))


@command(
    "kill",
    "Kill one or more running containers",
    usage="CONTAINER [CONTAINER...]",
    least=1,
    most=None,
    examples=["orlop kill web", "orlop kill -s HUP web         many programs then reload their configuration"],
)
@option("-s", "--signal", metavar="string", help="Signal to send to the container (default KILL)")
def kill(session: Session, args: tuple[str, ...], signal: str | None) -> None:
    each(args, lambda name: _post(session.engine, "kill", name, {"signal": signal or "KILL"}))


@command(
    "pause",
    "Pause all processes within one or more containers",
    usage="CONTAINER [CONTAINER...]",
    least=1,
    most=None,
    examples=["orlop pause web"],
)
def pause(session: Session, args: tuple[str, ...]) -> None:
    each(args, lambda name: _post(session.engine, "pause", name))


@command(
    "unpause",
    "Unpause all processes within one or more containers",
    usage="CONTAINER [CONTAINER...]",
    least=1,
    most=None,
    examples=["orlop unpause web"],
)
def unpause(session: Session, args: tuple[str, ...]) -> None:
    each(args, lambda name: _post(session.engine, "unpause", name))


@command(
    "wait",
    "Block until one or more containers stop, then print their exit codes",
    usage="CONTAINER [CONTAINER...]",
    least=1,
    most=None,
    examples=[
        "orlop wait job && echo done           prints the exit code, ends with 0",
        "orlop wait --healthy --timeout 30 db  until the health check succeeds, at most 30 seconds",
    ],
)
@flag("--healthy", help="Block until the containers are healthy, then print their names")
@option("--timeout", type=INT, metavar="seconds", help="With --healthy: fail after this number of seconds")
def wait(session: Session, args: tuple[str, ...], healthy: bool, timeout: int | None) -> None:
    if timeout is not None and (timeout < 0 or not healthy):
        fail("--timeout is a number of seconds, and needs --healthy")
    if healthy:
        from orlop_cli.attached.healthy import wait_for_all

        wait_for_all(session.engine, args, timeout)
        return

    def one(name: str) -> str:
        ended = decode(session.engine.open("POST", f"/containers/{segment(name)}/wait").read())
        problem = (ended.get("Error") or {}).get("Message")
        return fail(problem) if problem else str(ended["StatusCode"])

    each(args, one)


@command("rename", "Rename a container", usage="CONTAINER NEW_NAME", least=2, most=2, examples=["orlop rename web web-old"])
def rename(session: Session, args: tuple[str, ...]) -> None:
    old, new = args
    if not new.strip():
        fail("neither old nor new names may be empty")
    try:
        _post(session.engine, "rename", old, {"name": new})
    except ApiError as error:
        raise CliError(f"{error.message}\nError: failed to rename container named {old}") from None


@command(
    "rm",
    "Remove one or more containers",
    usage="CONTAINER [CONTAINER...]",
    least=1,
    most=None,
    examples=[
        "orlop rm old                  a stopped container",
        "orlop rm -f web               kill the container first",
        "orlop rm -v job               also remove its anonymous volumes",
    ],
)
@flag("-f", "--force", help="Force the removal of a running container (uses SIGKILL)")
@flag("-l", "--link", help="Remove the specified link")
@flag("-v", "--volumes", help="Remove anonymous volumes associated with the container")
def rm(session: Session, args: tuple[str, ...], force: bool, link: bool, volumes: bool) -> None:
    query = {"force": int(force) or None, "link": int(link) or None, "v": int(volumes) or None}

    def one(name: str) -> str | None:
        if not name.strip("/"):
            fail("container name cannot be empty")
        try:
            session.engine.delete(f"/containers/{segment(name.strip('/'))}", query)
        except ApiError as error:
            if not (force and error.status == 404):
                raise
            complain(error)  # the error is printed, but with --force it is no failure (as in Docker since 20.10)
            return SILENT
        return None

    each(args, one)
