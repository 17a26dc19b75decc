"""`orlop system adopt` and `orlop system give-back`: commands that work while orlopd is stopped.

The commands read the configuration in the same way as orlopd.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import click
import msgspec
import trio

from orlop_engine.config import Config
from orlop_kernel.config import ConfigError, load_all, parse
from orlop_kernel.store import lock_root
from orlop_sdk import OrlopError

from . import adoption, give_back, report
from .plan import Plan

__all__ = ["adopt", "give_back_command"]

T = TypeVar("T")

_CONFIG = [
    click.option("--config-file", metavar="PATH", help="The daemon's configuration file, as for orlopd"),
    click.option("--data-root", metavar="PATH", help="The daemon's data root, as for orlopd"),
    click.option("--exec-root", metavar="PATH", help="The daemon's exec root, as for orlopd"),
]


def _with_config(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_CONFIG):
        command = option(command)
    return command


def _config(**flags: str | None) -> Config:
    if os.geteuid() != 0:
        raise click.ClickException("this needs root privileges. Try: sudo orlop system ...")
    argv = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if value]
    try:
        return Config.of(load_all(parse(argv, os.getcwd()), os.environ).config)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None


def _run(config: Config, work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` while the exec root is locked, so that orlopd cannot start."""
    try:
        held = lock_root(config.exec_root, "exec root") if os.path.isdir(config.exec_root) else -1
        try:
            return trio.run(work)
        finally:
            if held >= 0:
                os.close(held)
    except OrlopError as error:
        raise click.ClickException(str(error)) from None


def _show(plan: Plan, form: str | None, *, done: bool) -> None:
    if form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(report.document(plan, done=done)), indent=2).decode())
    else:
        click.echo(report.table(plan), nl=False)


@click.command("adopt", short_help="Use the images, containers, volumes and networks of a stopped dockerd in place")
@click.argument("root", default="/var/lib/docker", metavar="[PATH]")
@click.option("--dry-run", is_flag=True, help="Show what would be adopted and what would not, and change nothing")
@click.option("--for-good", is_flag=True, help="Move the files into Orlop's data root instead of linking to them")
@click.option("--format", "form", type=click.Choice(["json"]), help="'json': print JSON instead of a table")
@_with_config
def adopt(root: str, dry_run: bool, for_good: bool, form: str | None, **flags: str | None) -> None:
    """Use the images, containers, volumes, networks and logs of a stopped dockerd, in place: nothing is copied.

    PATH is dockerd's data root, /var/lib/docker by default. Both dockerd and orlopd must be stopped.
    """
    config = _config(**flags)
    if dry_run:
        _show(_run(config, partial(adoption.look, config, root)), form, done=False)
        return

    outcome = _run(config, partial(adoption.adopt, config, root, for_good=for_good))
    if outcome.plan is not None:
        _show(outcome.plan, form, done=True)
        print(f"Adopted {outcome.plan.inventory.root}: {report.sentence(outcome.plan)}.", file=sys.stderr)
    elif outcome.adopted is not None:
        print(f"{outcome.adopted.root} was adopted before ({outcome.adopted.phase.value}).", file=sys.stderr)


@click.command("give-back", short_help="Give an adopted Docker root back, so that dockerd can start on it again")
@click.option("--force", is_flag=True, help="Remove images and containers of Orlop that depend on adopted objects")
@_with_config
def give_back_command(force: bool, **flags: str | None) -> None:
    """Give an adopted Docker root back to dockerd, with all that containers have written since. orlopd must be stopped."""
    config = _config(**flags)

    found, lost = _run(config, partial(give_back.give_back, config, force=force))
    for path in lost:
        print(f"warning: {path} was removed by Orlop and cannot be given back", file=sys.stderr)
    print(f"Gave {found.root} back. dockerd can be started.", file=sys.stderr)
