"""`prune` of containers, images, networks, volumes and build cache, and `system prune`."""

from __future__ import annotations

import sys

from orlop_cli import _config
from orlop_cli._command import command, flag, many, option
from orlop_cli._errors import CliError, Exit
from orlop_cli.daemon.client import Engine, filters_json
from orlop_cli.values.types import BYTES
from orlop_cli.values.units import human_size

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session


def _confirm(warning: str, force: bool) -> None:
    if force:
        return
    print(f"WARNING! {warning}\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return
    raise Exit(0)  # as in docker, which prints nothing


def _filters(given: tuple[str, ...], extra: tuple[str, ...] = ()) -> str | None:
    """The filters of --filter and of pruneFilters in config.json. `label!=x` has the key `label!`."""
    stored = [str(item) for item in _config.member(_config.load(), "pruneFilters", list)]
    kept = [item for item in stored if item not in given]
    return filters_json([*given, *kept, *extra])


def _containers(engine: Engine, filters: str | None) -> tuple[str, int]:
    return _listed("Deleted Containers:", engine.post("/containers/prune", {"filters": filters}), "ContainersDeleted")


def _volumes(engine: Engine, filters: str | None) -> tuple[str, int]:
    return _listed("Deleted Volumes:", engine.post("/volumes/prune", {"filters": filters}), "VolumesDeleted")


def _networks(engine: Engine, filters: str | None) -> tuple[str, int]:
    return _listed("Deleted Networks:", engine.post("/networks/prune", {"filters": filters}), "NetworksDeleted")


def _images(engine: Engine, filters: str | None) -> tuple[str, int]:
    report = engine.post("/images/prune", {"filters": filters})
    lines = [
        f"untagged: {item['Untagged']}" if item.get("Untagged") else f"deleted: {item['Deleted']}"
        for item in report.get("ImagesDeleted") or []
    ]
    return _text("Deleted Images:", lines), int(report.get("SpaceReclaimed") or 0)


def _build_cache(engine: Engine, everything: bool, filters: str | None, keep: int = 0) -> tuple[str, int]:
    query = {"all": int(everything) or None, "filters": filters, "keep-storage": keep or None}
    return _listed("Deleted build cache objects:", engine.post("/build/prune", query), "CachesDeleted")


def _listed(title: str, report: dict[str, Any], key: str) -> tuple[str, int]:
    return _text(title, report.get(key) or []), int(report.get("SpaceReclaimed") or 0)


def _text(title: str, lines: list[str]) -> str:
    return "\n".join([title, *lines, "", ""]) if lines else ""


def _report(text: str, reclaimed: int) -> None:
    print(f"{text}Total reclaimed space: {human_size(reclaimed, 4)}")


@command("prune", "Remove all stopped containers", examples=["orlop container prune -f --filter until=24h"])
@many("--filter", "filters", metavar="filter", help='Provide filter values (e.g. "until=<timestamp>")')
@flag("-f", "--force", help="Do not prompt for confirmation")
def container(session: Session, args: tuple[str, ...], filters: tuple[str, ...], force: bool) -> None:
    _confirm("This will remove all stopped containers.", force)
    _report(*_containers(session.engine, _filters(filters)))


@command("prune", "Remove unused images", examples=["orlop image prune", "orlop image prune -a --filter until=240h"])
@flag("-a", "--all", "everything", help="Remove all unused images, not just dangling ones")
@many("--filter", "filters", metavar="filter", help='Provide filter values (e.g. "until=<timestamp>")')
@flag("-f", "--force", help="Do not prompt for confirmation")
def image(session: Session, args: tuple[str, ...], everything: bool, filters: tuple[str, ...], force: bool) -> None:
    what = "images without at least one container associated to them" if everything else "dangling images"
    _confirm(f"This will remove all {what}.", force)
    _report(*_images(session.engine, _filters(filters, (f"dangling={str(not everything).lower()}",))))


@command(
    "prune", "Remove unused local volumes", examples=["orlop volume prune", "orlop volume prune -a    also named volumes"]
)
@flag("-a", "--all", "everything", help="Remove all unused volumes, not just anonymous ones")
@many("--filter", "filters", metavar="filter", help='Provide filter values (e.g. "label=<label>")')
@flag("-f", "--force", help="Do not prompt for confirmation")
def volume(session: Session, args: tuple[str, ...], everything: bool, filters: tuple[str, ...], force: bool) -> None:
    what = "local volumes" if everything else "anonymous local volumes"
    _confirm(f"This will remove {'all ' if everything else ''}{what} not used by at least one container.", force)
    _report(*_volumes(session.engine, _filters(filters, ("all=true",) if everything else ())))


@command("prune", "Remove all unused networks", examples=["orlop network prune -f"])
@many("--filter", "filters", metavar="filter", help='Provide filter values (e.g. "until=<timestamp>")')
@flag("-f", "--force", help="Do not prompt for confirmation")
def network(session: Session, args: tuple[str, ...], filters: tuple[str, ...], force: bool) -> None:
    _confirm("This will remove all custom networks not used by at least one container.", force)
    sys.stdout.write(_networks(session.engine, _filters(filters))[0])


@command("prune", "Remove build cache", examples=["orlop builder prune --filter until=240h", "orlop builder prune -a -f"])
@flag("-a", "--all", "everything", help="Remove all unused build cache, not just dangling ones")
@many("--filter", "filters", metavar="filter", help='Provide filter values (e.g. "until=24h")')
@flag("-f", "--force", help="Do not prompt for confirmation")
@option("--keep-storage", type=BYTES, metavar="bytes", help="Amount of disk space to keep for cache")
def builder(
    session: Session,
    args: tuple[str, ...],
    everything: bool,
    filters: tuple[str, ...],
    force: bool,
    keep_storage: int | None,
) -> None:
    what = "all build cache" if everything else "all dangling build cache"
    _confirm(f"This will remove {what}.", force)
    text, reclaimed = _build_cache(session.engine, everything, _filters(filters), keep_storage or 0)
    print(f"{text}Total:\t{human_size(reclaimed, 4)}")


@command(
    "prune",
    "Remove unused data",
    examples=[
        "orlop system prune",
        "orlop system prune -a --volumes     also unused images and unused anonymous volumes",
    ],
)
@flag("-a", "--all", "everything", help="Remove all unused images not just dangling ones")
@many("--filter", "filters", metavar="filter", help='Provide filter values (e.g. "label=<key>=<value>")')
@flag("-f", "--force", help="Do not prompt for confirmation")
@flag("--volumes", help="Prune anonymous volumes")
def system(
    session: Session, args: tuple[str, ...], everything: bool, filters: tuple[str, ...], force: bool, volumes: bool
) -> None:
    if volumes and any(item.startswith("until=") for item in filters):
        raise CliError('The "until" filter is not supported with "--volumes"')
    images = "images without at least one container associated to them" if everything else "dangling images"
    what = ["stopped containers", "networks not used by at least one container"]
    what += ["anonymous volumes not used by at least one container"] if volumes else []
    what += [images]
    lines = [*(f"all {item}" for item in what), "all build cache" if everything else "unused build cache"]
    warning = "This will remove:\n" + "".join(f"  - {line}\n" for line in lines)
    if filters:
        warning += "\n  Items to be pruned will be filtered with:\n" + "".join(f"  - {item}\n" for item in filters)
    _confirm(warning, force)
    engine, chosen = session.engine, _filters(filters)
    done = [_containers(engine, chosen), _networks(engine, chosen)]
    done += [_volumes(engine, chosen)] if volumes else []
    done += [_images(engine, _filters(filters, (f"dangling={str(not everything).lower()}",)))]
    done += [_build_cache(engine, everything, chosen)]
    _report("".join(text for text, _ in done), sum(space for _, space in done))
