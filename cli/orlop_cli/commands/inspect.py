"""`orlop inspect` and `inspect` of containers, images, networks and volumes."""

from __future__ import annotations

import sys

from orlop_cli._command import Definition, command, complain, fail, flag, option
from orlop_cli._errors import ApiError, CliError, Exit
from orlop_cli.daemon.client import Engine, segment
from orlop_cli.tables.format import render_values
from orlop_cli.values import jsontext

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from orlop_cli._session import Session

    Fetch = Callable[[str], Any]


def _getters(engine: Engine, size: bool = False) -> dict[str, Fetch]:
    """The functions that fetch the types of objects, in the order in which `inspect` tries them."""
    sized = {"size": 1} if size else None
    return {
        "container": lambda name: engine.get(f"/containers/{segment(name)}/json", sized),
        "image": lambda name: engine.get(f"/images/{segment(name)}/json"),
        "network": lambda name: engine.get(f"/networks/{segment(name)}"),
        "volume": lambda name: engine.get(f"/volumes/{segment(name)}"),
    }


def _any(getters: dict[str, Fetch], engine: Engine) -> Fetch:
    def fetch(name: str) -> Any:
        for get in getters.values():
            try:
                return get(name)
            except ApiError as error:
                # A 400 means that the name is invalid for this type, such as an image's name with a slash for a volume.
                if error.status not in (400, 404):
                    raise
        missing = CliError(f"Error: No such object: {name}")
        missing.source = engine
        raise missing

    return fetch


def _show(names: Sequence[str], fetch: Fetch, form: str | None) -> None:
    """Print the objects that were found, and then the errors. The list is printed even if some objects are missing."""
    found: list[Any] = []
    problems: list[CliError] = []
    for name in names:
        try:
            found.append(fetch(name))
        except CliError as error:
            if not isinstance(error, ApiError) and type(error) is not CliError:
                raise
            problems.append(error)
    if form and form != "json":
        sys.stdout.write(render_values(found, form))
    elif form == "json":
        sys.stdout.write(jsontext.dumps(found, False, compact=True) + "\n")
    else:
        print(jsontext.indented(found))
    for problem in problems:
        complain(problem)
    if problems:
        raise Exit(1)


@command(
    "inspect",
    "Return low-level information on containers, images, networks and volumes",
    usage="NAME|ID [NAME|ID...]",
    least=1,
    most=None,
    examples=[
        "orlop inspect web",
        "orlop inspect -f '{{.State.Status}} {{.State.ExitCode}}' web",
        "orlop inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' web",
        "orlop inspect --type image -f '{{json .Config.Env}}' nginx",
    ],
)
@option("-f", "--format", "form", metavar="string", help="'json', or a Go template")
@flag("-s", "--size", help="Display total file sizes if the type is container")
@option("--type", "kind", metavar="string", help="Return JSON for this type (container, image, network, volume)")
def inspect(session: Session, args: tuple[str, ...], form: str | None, size: bool, kind: str | None) -> None:
    getters = _getters(session.engine, size)
    if kind is not None and kind not in getters:
        fail(f'"{kind}" is not a valid value for --type: use one of {", ".join(getters)}')
    _show(args, getters[kind] if kind else _any(getters, session.engine), form)


@command(
    "inspect",
    "Display detailed information on one or more containers",
    usage="CONTAINER [CONTAINER...]",
    least=1,
    most=None,
    examples=["orlop container inspect -f '{{.State.Pid}}' web"],
)
@option("-f", "--format", "form", metavar="string", help="'json', or a Go template")
@flag("-s", "--size", help="Display total file sizes")
def container(session: Session, args: tuple[str, ...], form: str | None, size: bool) -> None:
    _show(args, _getters(session.engine, size)["container"], form)


def _typed(kind: str, word: str) -> Definition:
    @command(
        "inspect",
        f"Display detailed information on one or more {kind}s",
        usage=f"{word} [{word}...]",
        least=1,
        most=None,
        examples=[f"orlop {kind} inspect NAME"],
    )
    @option("-f", "--format", "form", metavar="string", help="'json', or a Go template")
    def show(session: Session, args: tuple[str, ...], form: str | None) -> None:
        _show(args, _getters(session.engine)[kind], form)

    return show


@command(
    "inspect",
    "Display detailed information on one or more images",
    usage="IMAGE [IMAGE...]",
    least=1,
    most=None,
    examples=["orlop image inspect --platform linux/s390x -f '{{.Id}}' alpine"],
)
@option("-f", "--format", "form", metavar="string", help="'json', or a Go template")
@option(
    "--platform", metavar="string", help="If the name has images for several platforms, inspect this one (os/arch[/variant])"
)
def image(session: Session, args: tuple[str, ...], form: str | None, platform: str | None) -> None:
    engine, query = session.engine, {}
    if platform:
        from orlop_cli.values import platforms

        query["platform"] = platforms.query_value(platform)
        engine.need((1, 49), "platform")
    _show(args, lambda name: engine.get(f"/images/{segment(name)}/json", query), form)


@command(
    "inspect",
    "Display detailed information on one or more networks",
    usage="NETWORK [NETWORK...]",
    least=1,
    most=None,
    examples=["orlop network inspect NAME"],
)
@option("-f", "--format", "form", metavar="string", help="'json', or a Go template")
@flag("-v", "--verbose", help="Verbose output for diagnostics")
def network(session: Session, args: tuple[str, ...], form: str | None, verbose: bool) -> None:
    engine, query = session.engine, {"verbose": "true"} if verbose else None
    _show(args, lambda name: engine.get(f"/networks/{segment(name)}", query), form)


volume = _typed("volume", "VOLUME")
